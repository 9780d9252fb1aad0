"""Files of an index: one array of vectors per segment, and the codes derived from it; without a folder in memory."""

from __future__ import annotations

import contextlib
import secrets
import zlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from t2ireid_plugin.errors import InputError
from t2ireid_plugin.search.store import Vectors
from t2ireid_plugin.utils.atomic_io import atomic_write

T = TypeVar("T", bound=np.generic)

_CHUNK = 16_384  # vectors copied or compared at once


def chunks(array: npt.NDArray[T]) -> Iterator[npt.NDArray[T]]:
    """Consecutive parts of an array ``[n, …]``."""
    for start in range(0, len(array), _CHUNK):
        yield array[start : start + _CHUNK]


def check_vectors(vectors: npt.ArrayLike, dim: int | None) -> Vectors:
    """Vectors ``[n, dim]``, or of any length for None, as float32 in one block of memory.

    Raises:
        InputError: for another shape, or values that are not finite.
    """
    checked: Vectors = np.ascontiguousarray(vectors, np.float32)
    if checked.ndim != 2 or checked.shape[1] != (dim or checked.shape[1]):
        raise InputError(f"vectors: shape {list(checked.shape)} is not [n, {dim or 'd'}]")
    if not all(np.isfinite(part).all() for part in chunks(checked)):
        raise InputError("vectors: some values are not finite")
    return checked


def checksum(vectors: Vectors, start: int = 0) -> int:
    """CRC-32 of vectors ``[n, d]``, continued from that of the vectors before them."""
    for part in chunks(vectors):
        start = zlib.crc32(np.ascontiguousarray(part).data, start)
    return start


class SegmentFiles:
    """``segments/NAME.npy`` and ``codes/NAME.faiss`` in a folder, or in memory.

    A file is never changed: names are unique, and a file is complete or not there.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._memory: dict[str, Any] = {}

    def write(self, parts: Iterable[Vectors], count: int, dim: int) -> tuple[str, int]:
        """Writes ``parts``, together ``[count, dim]``; returns the name and the checksum.

        Raises:
            DataError: when it cannot be written, as on a full disk.
        """
        name, crc = secrets.token_hex(8), 0

        def save(path: Path) -> None:
            nonlocal crc
            with open(path, "wb") as stream:
                npy.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (count, dim)})
                for part in parts:
                    block = np.ascontiguousarray(part, "<f4")
                    crc = checksum(block, crc)
                    block.tofile(stream)

        if self._folder is None:
            self._memory[name] = vectors = np.concatenate([np.empty((0, dim), np.float32), *parts])
            crc = checksum(vectors)
        else:
            path = self._path(name)
            path.parent.mkdir(exist_ok=True)
            atomic_write(path, save)
        return name, crc

    def load(self, name: str) -> Vectors:
        """The vectors ``[n, d]`` of a segment, mapped from the file; FileNotFoundError when it is gone."""
        return self._memory[name] if self._folder is None else np.load(self._path(name), mmap_mode="r")

    def write_codes(self, name: str, codes: Any) -> None:
        """Stores the FAISS index of a segment."""
        if self._folder is None:
            self._memory[f"{name}.codes"] = codes
            return
        import faiss

        path = self._path(name, codes=True)
        path.parent.mkdir(exist_ok=True)
        atomic_write(path, lambda draft: faiss.write_index(codes, str(draft)))

    def has_codes(self, name: str) -> bool:
        """True when the segment has codes."""
        return f"{name}.codes" in self._memory if self._folder is None else self._path(name, codes=True).exists()

    def load_codes(self, name: str) -> Any:
        """The FAISS index of a segment; None without one that can be read."""
        if self._folder is None or not self.has_codes(name):
            return self._memory.get(f"{name}.codes")
        with contextlib.suppress(ImportError, RuntimeError):  # damaged, or of another version of FAISS
            import faiss

            return faiss.read_index(str(self._path(name, codes=True)))
        return None

    def sweep(self, names: Collection[str]) -> None:
        """Removes the files of all other segments, and what killed processes have left behind."""
        if self._folder is None:
            self._memory = {key: value for key, value in self._memory.items() if key.partition(".")[0] in names}
            return
        for place in ("segments", "codes"):
            for path in (self._folder / place).glob("*"):
                if path.stem not in names:
                    path.unlink(missing_ok=True)

    def size(self) -> int:
        """Bytes of all files, in memory of all arrays."""
        if self._folder is None:
            return sum(getattr(value, "nbytes", 0) for value in self._memory.values())
        return sum(path.stat().st_size for place in ("segments", "codes") for path in (self._folder / place).glob("*"))

    def _path(self, name: str, codes: bool = False) -> Path:
        assert self._folder is not None
        return self._folder / ("codes" if codes else "segments") / f"{name}{'.faiss' if codes else '.npy'}"
