"""Images in tar files, the shards: ``shards/NAME.tar`` with the names of its files in ``shards/NAME.txt``."""

from __future__ import annotations

import errno
import os
import tarfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.utils.safe_io import MAX_DATA_BYTES, decode_utf8, read_bytes

FOLDER = "shards"
_IN_SHARD = f".tar{os.sep}"  # in the path of an image: the shard's, and the image's within it
_MOST_OPEN = 128  # all that an epoch reads from at a time, see `sampling.shard_order`
_open: OrderedDict[str, _Shard] = OrderedDict()  # of this process


class ShardLists:
    """Where each image is, by the lists beside the shards; names are compared by 64-bit hashes.

    Args:
        images: the folder with ``shards/``.

    Raises:
        DataError: for a shard without a list, and a name that is in them twice.
    """

    def __init__(self, images: Path) -> None:
        self.shards = sorted((images / FOLDER).glob("*.tar"))
        self.lists = [shard.with_suffix(".txt") for shard in self.shards]
        for shard, file in zip(self.shards, self.lists):
            if not file.is_file():
                raise DataError(f"'{shard}' has no list of its names; write it: tar -tf '{shard}' > '{file}'")

    def read(self) -> None:
        """Reads the lists; `find` needs it."""
        hashes = []
        for file in self.lists:
            try:
                names = decode_utf8(read_bytes(file)).splitlines()
            except OSError as error:
                raise DataError(f"cannot read '{file}' ({error.strerror})") from error
            hashes.append(np.array([hash(name.removeprefix("./")) for name in names if name[-1:] != "/"], np.int64))
        self._prefixes = [os.path.join(FOLDER, shard.name, "") for shard in self.shards]
        together = np.concatenate(hashes)
        if not len(together):
            raise DataError(f"'{self.lists[0].parent}': the lists name no file")
        self._shard_of = np.repeat(np.arange(len(hashes)), list(map(len, hashes)))
        self._order = together.argsort(kind="stable")
        self._sorted = together[self._order]
        if (self._sorted[1:] == self._sorted[:-1]).any():
            raise DataError(f"'{self.lists[0].parent}': the lists name a file twice; pack each image once")

    def find(self, names: Sequence[str]) -> tuple[npt.NDArray[np.int64], list[str]]:
        """The places ``[n]`` of these names in the lists one after the other, and their paths; -1 for those in none."""
        wanted = np.array([hash(name) for name in names], np.int64)
        ascending = wanted.argsort()  # neighbours are found faster
        at = np.empty_like(ascending)
        at[ascending] = self._sorted.searchsorted(wanted[ascending])
        at = at.clip(max=len(self._sorted) - 1)
        places = np.where(self._sorted[at] == wanted, self._order[at], -1)
        prefixes = [self._prefixes[shard] for shard in self._shard_of[places].tolist()]
        return places, [prefix + name for prefix, name in zip(prefixes, names)]

    def sizes(self, places: npt.NDArray[np.integer]) -> list[int]:
        """How many of these places are in each shard."""
        return np.bincount(self._shard_of[places], minlength=len(self.shards)).tolist()


def is_in_shard(path: str) -> bool:
    """True for the path of an image in a shard."""
    shard, inside, _ = path.partition(_IN_SHARD)
    return bool(inside) and os.path.isfile(f"{shard}.tar")


def read_from_shard(path: str) -> bytes:
    """The content of an image in a shard.

    Raises:
        OSError: when the shard cannot be read, or has no such file.
    """
    shard, _, name = path.partition(_IN_SHARD)
    if shard not in _open:
        while len(_open) >= _MOST_OPEN:
            _open.popitem(last=False)[1].stream.close()
        _open[shard] = _Shard(f"{shard}.tar")
    _open.move_to_end(shard)
    return _open[shard].read(name.replace(os.sep, "/"))


class _Shard:
    """An open shard with the places of its files, which are found by one pass over it."""

    def __init__(self, path: str) -> None:
        self.stream: BinaryIO = open(path, "rb")  # noqa: SIM115  # stays open, see `_MOST_OPEN`
        try:
            if hasattr(os, "posix_fadvise"):  # asks for the whole file at once: network disks are slow in small steps
                os.posix_fadvise(self.stream.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
            with tarfile.open(fileobj=self.stream, mode="r:") as content:
                self.places = {
                    member.name.removeprefix("./"): (member.offset_data, member.size)
                    for member in content
                    if member.isreg()
                }
        except tarfile.TarError as error:
            self.stream.close()
            raise OSError(errno.EINVAL, f"its shard is not an uncompressed tar file: {error}") from error

    def read(self, name: str) -> bytes:
        if name not in self.places:
            raise OSError(errno.ENOENT, "its shard has no such file")
        start, size = self.places[name]
        if size > MAX_DATA_BYTES:
            raise OSError(errno.EFBIG, f"{size:,} bytes exceed the limit of {MAX_DATA_BYTES:,}")
        return os.pread(self.stream.fileno(), size, start)  # forked workers share the position of an open file
