"""Item tables of millions of rows: compiled once from the annotation into files, and read from there.

Neither compiling nor reading keeps the strings in memory, and all processes of a machine share the files.
"""

from __future__ import annotations

import gc
import itertools
import json
import logging
import os
import weakref
import zlib
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor

from t2ireid_plugin.data.annotations import UNKNOWN_OUTFIT
from t2ireid_plugin.data.item_table import CAPTION, OUTFIT, PATH, PID, SPLIT_CAPTION, Item, ItemTable, Texts
from t2ireid_plugin.data.pretraining import Row
from t2ireid_plugin.data.shards import ShardLists
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.utils.atomic_io import atomic_folder
from t2ireid_plugin.utils.cache import cache_folder
from t2ireid_plugin.utils.safe_io import MAX_TEXT_LENGTH, text_problem

logger = logging.getLogger(__name__)

_VERSION = 1  # of the files
_CHUNK = 2_000  # rows at a time
_COLUMNS = 8
_SAMPLE = 10_000  # items whose texts stand for all where a vocabulary is learned


class FileTexts(Texts):
    """Strings by number in a file, from which each is read when it is asked for; not on Windows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._starts = _mapped(folder / "starts", np.int64)
        self._file = os.open(folder / "texts", os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __reduce__(self) -> tuple[Any, ...]:
        return FileTexts, (self.folder,)

    def __getitem__(self, number: int) -> str:
        start, end = self._starts.numpy()[number : number + 2].tolist()
        return os.pread(self._file, end - start, start).decode("utf-8")

    def many(self, numbers: Iterable[int]) -> list[str]:
        """The strings of these numbers."""
        return [self[number] for number in numbers]


class LargeTable(ItemTable):
    """A compiled table. Identities are 0…n-1, every item has a caption, and other texts are derived from it.

    Args:
        folder: from `open_table`.
        images: the folder that image paths are relative to.

    Attributes:
        shards: number of items in each shard, which follow each other; empty for images in folders.
        left_out: number of captions that were left out, and of images in no shard.
    """

    def __init__(self, folder: Path, images: str | Path) -> None:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        super().__init__(FileTexts(folder), _mapped(folder / "columns", np.int32).view(-1, _COLUMNS))
        self.folder, self.prefix = folder, os.path.join(images, "")
        self.shards: list[int] = about["shards"]
        self.left_out: tuple[int, int] = tuple(about["left_out"])
        self._distinct = {PATH: about["images"], PID: about["identities"]}
        self._digest: str = about["digest"]

    def __reduce__(self) -> tuple[Any, ...]:
        return LargeTable, (self.folder, self.prefix)

    def _item(self, *row: int) -> Item:
        item = super()._item(*row)
        return (self.prefix + item[0], *item[1:])

    def __iter__(self) -> Iterator[Item]:
        return map(self.__getitem__, range(len(self)))

    def paths(self) -> list[str]:
        """The distinct image paths."""
        return [self.prefix + path for path in super().paths()]

    def captions(self) -> list[str]:
        """The captions of some items, evenly spaced."""
        return self[:: -(-len(self) // _SAMPLE)].captions()

    def all_texts(self) -> set[str]:
        """The captions of some items, evenly spaced."""
        return set(self.captions())

    def described(self) -> ItemTable:
        """All items."""
        return self

    def renumbered(self) -> ItemTable:
        """The same items."""
        return self

    def distinct(self, column: int) -> int:
        """Number of distinct values in a column."""
        return self._distinct.get(column, 1)

    def digest(self) -> str:
        """A digest of names, identities, captions and their order."""
        return self._digest


def open_table(name: str, files: Sequence[Path], rows: Iterator[Row], images: Path, joins: bool) -> LargeTable:
    """The table of a set of images, compiled if its annotation or the lists of its shards are new.

    The compiled files are in the user's cache, below ``XDG_CACHE_HOME``, under a name that depends on the name, size
    and time of these files. While one process compiles, others wait.

    Args:
        name: of the set.
        files: the annotation.
        rows: of the annotation; read if it is compiled.
        images: the folder that the names of images are relative to; with ``shards/`` they are read from there.
        joins: rows of one image may be anywhere, and it has the captions of all.

    Raises:
        DataError: for wrong rows or shards, and when the files cannot be written.
    """
    shards = ShardLists(images)
    try:
        stamps = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in (*files, *shards.lists)]
        key = blake2b(repr((_VERSION, stamps)).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
        folder = cache_folder("tables") / f"{name}-{key}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{folder}.lock")
        lock.acquire()
    except OSError as error:
        raise DataError(f"{name}: '{error.filename}': {error.strerror}; XDG_CACHE_HOME may name another") from error
    try:
        if not folder.is_dir():
            print(f"Compiling the annotation of {name} into '{folder}', once")
            gc.disable()  # millions of small lists, none of them in a cycle, would start it all the time
            with atomic_folder(folder, "XDG_CACHE_HOME") as draft:
                _Compiler(draft, shards, joins).run(rows, name)
    finally:
        gc.enable()
        lock.release()
    table = LargeTable(folder, images)
    if any(table.left_out):
        logger.warning(
            "%s: %d captions are empty or too long, %d images are in no shard; left out", name, *table.left_out
        )
    return table


class _Compiler:
    """Writes the files of a table while it reads the rows, a chunk at a time."""

    def __init__(self, folder: Path, shards: ShardLists, joins: bool) -> None:
        self.folder, self.shards, self.joins = folder, shards if shards.shards else None, joins
        self.known: dict[str, tuple[int, int]] = {}  # number and identity of each image, where rows are joined
        self.pids: dict[int, int] = {}
        self.texts, self.images, self.left_out, self.missing = 0, 0, 0, 0
        self.places: list[npt.NDArray[np.int32]] = []  # in the lists of the shards, of each item
        self.digest = blake2b(digest_size=8)

    def run(self, rows: Iterator[Row], name: str) -> None:
        """Writes everything."""
        if self.shards:
            self.shards.read()
        items = 0
        with (
            open(self.folder / "texts", "wb") as texts,
            open(self.folder / "starts", "wb") as starts,
            open(self.folder / "columns", "wb") as columns,
        ):
            starts.write(np.zeros(2, np.int64).tobytes())  # number 0 is the empty string
            end = 0
            while chunk := list(itertools.islice(rows, _CHUNK)):
                strings, table = self._chunk(chunk)
                data = "".join(strings).encode()
                ascii_only = len(data) == sum(map(len, strings))
                lengths = map(len, strings if ascii_only else (text.encode() for text in strings))
                ends = end + np.cumsum(np.fromiter(lengths, np.int64, len(strings)))
                for stream, content in ((texts, data), (starts, ends.tobytes()), (columns, table.tobytes())):
                    stream.write(content)
                    self.digest.update(zlib.crc32(content).to_bytes(4, "big"))  # of so many bytes the fastest
                end, items = end + len(data), items + len(table)
        if not items:
            missing = f"; none of its {self.missing} images is in the shards" if self.missing else ""
            raise DataError(f"{name}: the annotation has no images with captions{missing}")
        sizes = self._sort_by_shard() if self.shards else []
        self.digest.update(repr(sizes).encode())
        about = {"images": self.images, "identities": len(self.pids) or self.images, "shards": sizes}
        about |= {"left_out": [self.left_out, self.missing], "digest": self.digest.hexdigest()}
        (self.folder / "about.json").write_text(json.dumps(about), encoding="utf-8")

    def _chunk(self, rows: Sequence[Row]) -> tuple[list[str], npt.NDArray[np.int32]]:
        """New strings, and rows of the table ``[n, 8]``."""
        paths = [name for name, *_ in rows]
        places = np.zeros(len(rows), np.int64)
        if self.shards:
            places, paths = self.shards.find(paths)
        strings: list[str] = []
        found: list[tuple[int, int, int, int, int]] = []  # of each image, see below
        for (name, pid, captions), place, path in zip(rows, places.tolist(), paths):
            if place < 0:
                self.missing += 1
                continue
            usable = [
                text
                for text in captions
                if type(text) is str and 0 < len(text) <= MAX_TEXT_LENGTH and not text.isspace()
                if (text.isascii() and "\0" not in text) or not text_problem(text)
            ]
            self.left_out += len(captions) - len(usable)
            if not usable:
                continue
            number, label = self.known.get(name, (0, 0)) if self.joins else (0, 0)
            if not number:
                strings.append(path)
                number = self.texts + len(strings)
                label = self.images if pid is None else self.pids.setdefault(pid, len(self.pids))
                self.images += 1
                if self.joins:
                    self.known[name] = number, label
            found.append((number, label, place, self.texts + len(strings), len(usable)))
            strings += usable
        self.texts += len(strings)
        numbers, labels, places_of, before, counts = np.array(found, np.int64).reshape(-1, 5).T
        table = np.zeros((counts.sum(), _COLUMNS), np.int32)
        table[:, PATH], table[:, PID] = numbers.repeat(counts), labels.repeat(counts)
        # The captions of an image have the numbers that follow those of the strings before them.
        table[:, CAPTION] = (before + 1 - counts.cumsum() + counts).repeat(counts) + np.arange(len(table))
        table[:, OUTFIT], table[:, CAPTION + 1 :] = UNKNOWN_OUTFIT, SPLIT_CAPTION
        if self.shards:
            self.places.append(places_of.repeat(counts).astype(np.int32))
        return strings, table

    def _sort_by_shard(self) -> list[int]:
        """Puts the items in the order of the shards, and returns how many each has."""
        assert self.shards is not None
        places = np.concatenate(self.places)
        order = places.argsort(kind="stable")
        old = self.folder / "columns"
        columns = np.memmap(old, np.int32, "r").reshape(-1, _COLUMNS)
        with open(self.folder / "sorted", "wb") as stream:
            for start in range(0, len(order), _CHUNK):
                stream.write(columns[order[start : start + _CHUNK]].tobytes())
        del columns
        os.replace(self.folder / "sorted", old)
        return self.shards.sizes(places)


def _mapped(path: Path, kind: Any) -> Tensor:
    """The numbers in a file, of which only those that are read take memory."""
    return torch.from_numpy(np.memmap(path, kind, "c"))  # "c": writable for PyTorch, the file stays as it is
