"""Dataset items in a few tensors, which the data loader's worker processes share.

A list of tuples of strings is several hundred thousand Python objects, and a worker that reads one of them writes its
reference count and so copies the memory page. Tensor contents have no reference counts, and where workers do not
inherit memory (spawn) PyTorch passes tensors through shared memory.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from t2ireid_plugin.modeling.instructions import split_caption

Item = tuple[str, int, int, int, str, str, str]

# Columns of a table; the outfit is not part of an item, as torchreid's items have no place for it.
PATH, PID, CAMID, DSETID, OUTFIT, CAPTION, ID_TEXT, CLOTH_TEXT = range(8)
# Text numbers: the empty text, and one that `split_caption` derives from the caption on access.
NO_TEXT, SPLIT_CAPTION = 0, -1


class Texts:
    """Strings by number, stored as one byte tensor in UTF-8; number 0 is the empty string."""

    def __init__(self, strings: Sequence[str]) -> None:
        data, ends = bytearray(), array("q", (0, 0))  # one copy at a time: these may be gigabytes
        for text in strings:
            data += text.encode("utf-8", "surrogatepass")  # paths may not be UTF-8
            ends.append(len(data))
        self._bytes = torch.from_numpy(np.frombuffer(data, np.uint8))
        self._starts = torch.from_numpy(np.frombuffer(ends, np.int64))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: int) -> str:
        start, end = self._starts.numpy()[number : number + 2].tolist()  # NumPy's slices take a third of the time
        return self._bytes.numpy()[start:end].tobytes().decode("utf-8", "surrogatepass")

    def many(self, numbers: Iterable[int]) -> list[str]:
        """The strings of these numbers, in a fraction of the time of one by one."""
        data, starts = self._bytes.numpy().tobytes(), self._starts.tolist()
        return [data[starts[i] : starts[i + 1]].decode("utf-8", "surrogatepass") for i in numbers]

    def __add__(self, other: Texts) -> Texts:
        """The strings of both, with one empty string."""
        joined = Texts(())
        joined._bytes = torch.cat([self._bytes, other._bytes])
        joined._starts = torch.cat([self._starts, other._starts[2:] + len(self._bytes)])
        return joined


class ItemTable(Sequence[Item]):
    """Read-only sequence of items ``(path, pid, camid, dsetid, caption, id_text, cloth_text)``.

    Args:
        texts: the strings.
        columns: ``[n, 8]`` int64; paths and texts by number, labels as they are.
    """

    def __init__(self, texts: Texts, columns: Tensor) -> None:
        self.texts, self.columns = texts, columns

    def __len__(self) -> int:
        return len(self.columns)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> ItemTable: ...
    def __getitem__(self, index: int | slice) -> Item | ItemTable:
        if isinstance(index, slice):
            return ItemTable(self.texts, self.columns[index])
        return self._item(*self.columns[index].tolist())

    def __iter__(self) -> Iterator[Item]:
        return itertools.starmap(self._item, self.columns.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(tuple.__eq__, self, other))

    def _item(
        self, path: int, pid: int, camid: int, dsetid: int, _outfit: int, caption: int, id_text: int, cloth_text: int
    ) -> Item:
        texts, full = self.texts, self.texts[caption]
        parts = split_caption(full) if SPLIT_CAPTION in (id_text, cloth_text) else ("", "")
        return (
            texts[path],
            pid,
            camid,
            dsetid,
            full,
            parts[0] if id_text == SPLIT_CAPTION else texts[id_text],
            parts[1] if cloth_text == SPLIT_CAPTION else texts[cloth_text],
        )

    def paths(self) -> list[str]:
        """The distinct image paths."""
        return self.texts.many(self.columns[:, PATH].unique().tolist())

    def captions(self) -> list[str]:
        """The distinct captions, without identity and clothing texts."""
        return self.texts.many(self.columns[:, CAPTION].unique().tolist())

    def all_texts(self) -> set[str]:
        """All captions and annotated identity and clothing texts; texts derived from a caption add no words."""
        numbers = self.columns[:, CAPTION:].unique().tolist()
        return set(self.texts.many(number for number in numbers if number > NO_TEXT))

    def described(self) -> ItemTable:
        """The items with a caption."""
        return ItemTable(self.texts, self.columns[self.columns[:, CAPTION] != NO_TEXT])

    def images(self) -> ItemTable:
        """Each image once, without texts; the items of an image follow each other."""
        labels = self.columns[:, :CAPTION].unique_consecutive(dim=0)
        return ItemTable(self.texts, functional.pad(labels, (0, 3), value=NO_TEXT))

    def renumbered(self) -> ItemTable:
        """The same items with identities 0…n-1, in the order of their numbers."""
        _, labels = self.columns[:, PID].unique(return_inverse=True)
        return self.with_column(PID, labels)

    def distinct(self, column: int) -> int:
        """Number of distinct values in a column."""
        return len(self.columns[:, column].unique())

    def digest(self) -> str:
        """See `digest`; a text that is derived from its caption counts as such, outfits do not count."""
        text = functools.cache(self.texts.__getitem__)
        return digest(
            (text(row[PATH]), *row[PID:OUTFIT], *(n if n <= NO_TEXT else text(n) for n in row[CAPTION:]))
            for row in self.columns.tolist()
        )

    def with_column(self, column: int, values: Tensor | int) -> ItemTable:
        """The same items with other values in one column."""
        columns = self.columns.clone()
        columns[:, column] = values
        return ItemTable(self.texts, columns)

    def joined(self, other: ItemTable, offsets: Iterable[int]) -> ItemTable:
        """The items of both tables; ``offsets`` are added to the other's pid, camid and dsetid."""
        moved = other.columns.clone()
        moved[:, PID : DSETID + 1] += torch.tensor(list(offsets))
        for column in (PATH, CAPTION, ID_TEXT, CLOTH_TEXT):
            own = moved[:, column] > NO_TEXT
            moved[own, column] += len(self.texts) - 1
        return ItemTable(self.texts + other.texts, torch.cat([self.columns, moved]))


def digest(items: Iterable[Sequence[Any]]) -> str:
    """A digest of items ``(path, …)`` in hexadecimal digits; of a path only the last two parts count."""
    result = hashlib.blake2b(digest_size=8)
    for path, *rest in items:
        result.update(repr(("/".join(PurePath(path).parts[-2:]), *rest)).encode())
    return result.hexdigest()


def labels(items: Sequence[Any]) -> Sequence[Any]:
    """Items as torchreid's samplers read them: of an `ItemTable` ``("", pid, camid, dsetid)``, without its texts."""
    if isinstance(items, ItemTable):
        return [("", *row) for row in items.columns[:, PID : DSETID + 1].tolist()]
    return items
