"""Image files by the names that annotations give them: other spellings of a name, and other names of a file."""

from __future__ import annotations

import functools
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

from t2ireid_plugin.utils.safe_io import open_file

T = TypeVar("T")

_CHUNK = 256  # files per task of a thread
_HEAD = 4096  # bytes of a file that are compared first
# Differences between a name and that of an existing file that are reported, and what removes them.
_DIFFERENCES: dict[str, Callable[[str], str]] = {
    "upper and lower case": str.casefold,
    "spaces": lambda name: "".join(name.split()),
    "its extension": lambda name: os.path.splitext(name)[0],
    "similar characters": lambda name: unicodedata.normalize("NFKC", name).casefold(),
}


class ImageFile(NamedTuple):
    """An existing file."""

    path: str
    key: object  # equal for all names of one file, links included


def plain_name(name: str, images: str) -> str:
    """A name relative to the folder ``images``, with ``/`` as separator and composed characters (NFC).

    Some annotations name files relative to the folder above, such as ``images/1.jpg``.
    """
    parts = PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/"))).parts
    return "/".join(parts[1:] if len(parts) > 1 and parts[0] == images else parts)


class ImageFolder:
    """Finds the files of a folder by their names in an annotation.

    A name is tried as it is written, then with ``/`` for ``\\``, relative to the folder above, and with characters
    composed (NFC) or decomposed (NFD) as the file's, which macOS writes otherwise than Linux and Windows.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = str(folder)
        self._entries = functools.cache(_list_names)

    def find(self, names: Sequence[str]) -> list[ImageFile | None]:
        """The file of each name; None where there is none."""
        paths = [os.path.normpath(os.path.join(self.folder, name)) for name in names]
        return [file or self._search(name) for name, file in zip(names, map_files(_stat, paths), strict=True)]

    def difference(self, name: str) -> str:
        """Describes an existing file whose name resembles one that was not found; empty without such a file."""
        folder, missing = self._walk(plain_name(name, os.path.basename(self.folder)))
        for difference, simplify in _DIFFERENCES.items():
            for entry in sorted(self._entries(folder).values()):
                if missing and simplify(entry) == simplify(missing[0]):
                    return f"'{folder}' has '{entry}', which differs in {difference}"
        return ""

    def _search(self, name: str) -> ImageFile | None:
        for images in ("", os.path.basename(self.folder)):
            path, missing = self._walk(plain_name(name, images))
            if not missing and path != self.folder:
                return _stat(path)
        return None

    def _walk(self, name: str) -> tuple[str, tuple[str, ...]]:
        """The deepest existing path on the way to a plain name, and the parts of the name behind it."""
        folder, parts = self.folder, PurePosixPath(name).parts
        for number, part in enumerate(parts):
            names = self._entries(folder)
            # Archives that Windows wrote become files with "\" in their names.
            if whole := names.get("/".join(parts[number:])):
                return os.path.join(folder, whole), ()
            if part not in names:
                return folder, parts[number:]
            folder = os.path.join(folder, names[part])
        return folder, ()


def map_files(function: Callable[[str], T], paths: Sequence[str]) -> list[T]:
    """``[function(path) for path in paths]`` in threads, for network drives."""
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    with ThreadPoolExecutor(max_workers=16) as pool:
        return [value for values in pool.map(lambda chunk: [*map(function, chunk)], chunks) for value in values]


def shared_images(first: Iterable[str], second: Iterable[str]) -> list[tuple[str, str]]:
    """Files of ``first`` with one of the same content in ``second``; files that cannot be read are left out."""
    ours, others = _by_digest(first, _HEAD), _by_digest(second, _HEAD)
    common = (ours.keys() & others.keys()) - {b""}  # only these few are read to the end
    ours, others = (_by_digest((path for key in common for path in part[key]), -1) for part in (ours, others))
    return sorted((path, others[key][0]) for key in ours.keys() & others.keys() for path in ours[key])


def _by_digest(paths: Iterable[str], size: int) -> dict[bytes, list[str]]:
    """Files by the digest of their length and their first ``size`` bytes, or all for -1; b"" if there is none."""

    def digest(path: str) -> bytes:
        try:
            with open_file(path) as stream:
                start, length = stream.read(size), os.fstat(stream.fileno()).st_size
        except OSError:
            return b""
        return blake2b(start, digest_size=16).digest() + length.to_bytes(8, "big") if start else b""

    every, groups = list(paths), defaultdict(list)
    for path, key in zip(every, map_files(digest, every), strict=True):
        groups[key].append(path)
    return groups


def _stat(path: str) -> ImageFile | None:
    try:
        info = os.stat(path)
    except (OSError, ValueError):  # ValueError: a zero byte or a lone surrogate
        return None
    # Some file systems of Windows have no inode numbers.
    return ImageFile(path, (info.st_dev, info.st_ino) if info.st_ino else os.path.realpath(path))


def _list_names(folder: str) -> Mapping[str, str]:
    """The names in a folder by their plain names."""
    try:
        names = os.listdir(folder)
    except (OSError, ValueError):
        return {}
    return {plain_name(name, ""): name for name in names}
