"""Image files by the names that annotations give them: other spellings of a name, and other names of a file."""

from __future__ import annotations

import functools
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import TypeVar

from t2ireid_plugin.errors import DataError, printable
from t2ireid_plugin.utils.safe_io import open_file

T = TypeVar("T")

_CHUNK = 256  # files per task of a thread
_HEAD = 4096  # bytes of a file that are compared first


def plain_name(name: str, images: str = "") -> str:
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

    def find(self, names: Sequence[str]) -> list[str | None]:
        """The path of each name's file or None; all names of one file, links included, have the path of the first."""
        first: dict[object, str] = {}
        paths = []
        for name, (path, key) in zip(names, map_files(self._locate, names), strict=True):
            if key is None:
                path = next((self.files[other] for other in self._spellings(name) if other in self.files), "")
                key = _file_key(path)
            paths.append(first.setdefault(key, path) if key else None)
        return paths

    def find_all(self, names: Sequence[str], file: Path) -> list[str]:
        """As `find`, for names that are listed in ``file``.

        Raises:
            DataError: naming the first that is missing, the number of others and a similar name.
        """
        paths = self.find(names)
        missing = list(dict.fromkeys(name for name, path in zip(names, paths) if path is None))
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            name = printable(os.path.join(self.folder, missing[0]))
            problem = f"missing image '{name}'{more}, listed in '{file}'"
            raise DataError("; ".join(filter(None, (problem, self.difference(missing[0])))))
        return [path for path in paths if path]

    def difference(self, name: str) -> str:
        """Describes an existing file whose name resembles one that was not found; empty without such a file."""
        similar = self._similar.get(_simplified(plain_name(name, os.path.basename(self.folder))), "")
        return similar and f"'{self.folder}' has '{similar}', which differs in case, spaces, extension or the like"

    @functools.cached_property
    def files(self) -> dict[str, str]:
        """Paths of all files by `plain_name`. Links to folders are not followed, they may form a cycle."""
        paths = (os.path.join(place, name) for place, _, names in os.walk(self.folder) for name in names)
        # Archives that Windows wrote become files with "\" in their names.
        return {plain_name(os.path.relpath(path, self.folder)): path for path in paths}

    @functools.cached_property
    def _similar(self) -> dict[str, str]:
        return {_simplified(plain): plain for plain in sorted(self.files, reverse=True)}

    def _spellings(self, name: str) -> Iterator[str]:
        yield name
        yield plain_name(name)
        yield plain_name(name, os.path.basename(self.folder))

    def _locate(self, name: str) -> tuple[str, object]:
        """The path of a name and the key of its file, None where there is none."""
        for spelling in self._spellings(name):
            path = os.path.normpath(os.path.join(self.folder, spelling))
            if key := _file_key(path):
                return path, key
        return path, None


def map_files(function: Callable[[str], T], paths: Sequence[str]) -> list[T]:
    """``[function(path) for path in paths]`` in threads, for network drives."""
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    with ThreadPoolExecutor(max_workers=16) as pool:
        return [value for values in pool.map(lambda chunk: [*map(function, chunk)], chunks) for value in values]


def shared_images(first: Sequence[str], second: Sequence[str]) -> list[tuple[str, str]]:
    """Files of ``first`` with one of the same content in ``second``; files that cannot be read are left out."""
    for size in (_HEAD, -1):  # the few that begin alike are read to the end
        ours, others = _digests(first, size), _digests(second, size)
        common = set(ours.values()) & set(others.values())
        first, second = ([path for path in part if part[path] in common] for part in (ours, others))
    by_digest = {others[path]: path for path in second}
    return sorted((path, by_digest[ours[path]]) for path in first)


def _digests(paths: Sequence[str], size: int) -> dict[str, bytes]:
    """Digests of the files' lengths and first ``size`` bytes, or all for -1; without empty files."""

    def digest(path: str) -> bytes:
        try:
            with open_file(path) as stream:
                start, length = stream.read(size), os.fstat(stream.fileno()).st_size
        except OSError:
            return b""
        return blake2b(start, digest_size=16).digest() + length.to_bytes(8, "big") if start else b""

    return {path: key for path, key in zip(paths, map_files(digest, paths), strict=True) if key}


def _file_key(path: str) -> object:
    """Equal for all names of one file, links included; None without a file."""
    try:
        info = os.stat(path)
    except (OSError, ValueError):  # ValueError: a zero byte or a lone surrogate
        return None
    # Some file systems of Windows have no inode numbers.
    return (info.st_dev, info.st_ino) if info.st_ino else os.path.realpath(path)


def _simplified(name: str) -> str:
    """A name without what is easily mistaken: case, spaces, extension, and similar characters such as full-width."""
    return "".join(unicodedata.normalize("NFKC", os.path.splitext(name)[0]).casefold().split())
