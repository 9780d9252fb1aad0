"""Where vectors and their rows are kept and searched."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.search.rows import File, Filter, Move, Row

Vectors = npt.NDArray[np.float32]  # [n, d]
Ids = npt.NDArray[np.int64]  # [n]


class Store(Protocol):
    """Vectors with rows. A method that writes is one commit: readers see all of it or nothing.

    Ids are numbers that increase in the order in which rows are added and are never given twice. Paths are relative to
    ``root`` where they lie beneath it, otherwise absolute; the store neither resolves them nor opens the files.

    Attributes:
        dim: length of a vector; None before the first is added.
        fingerprint: of the encoder that made the vectors; "" for vectors without one.
        root: folder of relative paths.
        exists: False until the first addition makes the index.
    """

    dim: int | None
    fingerprint: str
    root: str

    @property
    def exists(self) -> bool: ...  # noqa: D102

    def writing(self) -> AbstractContextManager[None]:
        """Keeps other processes from writing during several calls; raises ConfigError when one is writing."""
        ...

    def add(
        self, vectors: Vectors, rows: Iterable[Row], files: Sequence[File] = (), replace: Collection[str] = ()
    ) -> Ids:
        """Removes the rows and file records of the paths ``replace``, then adds vectors ``[n, d]`` with their n rows.

        Args:
            vectors: there may be none.
            rows: one per vector.
            files: to record.
            replace: paths.

        Returns:
            The ids ``[n]``.
        """
        ...

    def move(self, moves: Sequence[Move]) -> None:
        """Renames files, in their rows and records, and records their new sizes and times; cameras unless None."""
        ...

    def delete(self, filter: Filter) -> int:
        """Deletes the rows that match, and the records of files without rows; returns how many rows."""
        ...

    def purge(self) -> None:
        """Erases the bytes of all deleted rows and vectors."""
        ...

    def files(self) -> Mapping[str, File]:
        """The recorded files by path."""
        ...

    def count(self, filter: Filter | None = None) -> int:
        """Number of rows that match."""
        ...

    def cameras(self) -> list[str]:
        """The cameras of all rows, sorted."""
        ...

    def last_track(self) -> int:
        """The highest number of a track; -1 without tracks."""
        ...

    def search(
        self, queries: Vectors, k: int, filter: Filter | None = None, exact: bool = False
    ) -> tuple[npt.NDArray[np.float32], Ids]:
        """The rows with the highest inner products; of equal ones the lower id comes first.

        Args:
            queries: ``[q, d]``.
            k: results per query; all that match where fewer do.
            filter: rows to search.
            exact: no approximate first pass.

        Returns:
            Scores and ids, ``[q, min(k, number of rows that match)]``.
        """
        ...

    def rows(self, ids: Sequence[int] | Ids) -> dict[int, Row]:
        """The rows with these ids; those deleted in the meantime are missing."""
        ...

    def scan(self, batch: int = 65_536) -> Iterator[tuple[Vectors, list[Row]]]:
        """All vectors and rows, in the order of their ids; call within `writing`."""
        ...

    def info(self, verify: bool = False) -> dict[str, Any]:
        """Counts, sizes and format; with ``verify`` also ``problems``, after reading everything."""
        ...

    def close(self) -> None:
        """Releases files and connections; calls after it are errors."""
        ...


def open_store(
    where: str | Path | None, dim: int | None = None, fingerprint: str | None = None, root: str | Path | None = None
) -> Store:
    """The store at a place; arguments as of `FolderStore`.

    Args:
        where: a folder, ``milvus://HOST:PORT/NAME``, or None for memory.
    """
    if str(where).startswith("milvus://"):
        milvus = importlib.import_module("t2ireid_plugin.search.store.milvus")
        return milvus.MilvusStore(str(where), dim, fingerprint, root)
    from t2ireid_plugin.search.store.folder import FolderStore

    return FolderStore(where, dim, fingerprint, root)
