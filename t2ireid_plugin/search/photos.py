"""Photos for an index, in folders and in tar files: listing, changes since the last time, and reading.

A photo in a tar file has the path ``FILE.tar/MEMBER``.
"""

from __future__ import annotations

import functools
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from t2ireid_plugin.data.images import FORMATS, Pixels, decode_pixels
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.search.rows import File
from t2ireid_plugin.utils.safe_io import open_file, read_bytes

_SUFFIXES = tuple(suffix for _, suffixes in FORMATS.values() for suffix in suffixes)
_TAR = ".tar"
_WHOLE = 1 << 26  # bytes up to which all of a file is digested


class Stamp(NamedTuple):
    """Size in bytes and time of change in nanoseconds since 1970."""

    size: int
    mtime: int


class Changes(NamedTuple):
    """Differences between photos and their records; paths are absolute."""

    new: list[File]
    replaced: list[File]  # other content under a known path
    moved: list[tuple[str, File]]  # the content of a path that is gone, or the same content with another time
    gone: list[str]
    unchanged: int


def list_photos(place: str | Path) -> dict[str, Stamp]:
    """The photo itself, or all photos in a folder with its folders, or in a tar file, sorted by absolute path.

    Names that begin with a dot are left out.

    Raises:
        DataError: when there is none.
    """
    path = os.path.abspath(place)
    if not os.path.exists(path):
        raise DataError(f"no such file or folder: '{path}'")
    if path.endswith(_TAR):
        photos = {f"{path}/{name}": stamp for name, (_, stamp) in _members(path, os.stat(path).st_mtime_ns).items()}
    elif os.path.isdir(path):
        photos = dict(_walk(path))
    else:
        return {path: _stamp(os.stat(path))}
    if not photos:
        raise DataError(f"no photos in '{path}'; supported: {', '.join(_SUFFIXES)}")
    return dict(sorted(photos.items()))


def read_photo(path: str) -> Pixels:
    """A photo ``[H, W, 3]``, also in a tar file.

    Raises:
        DataError: when it is missing or not an image.
    """
    try:
        return decode_pixels(_content(path), path)
    except OSError as error:
        raise DataError(f"missing image '{path}' ({error.strerror})") from error


def describe_file(path: str) -> File:
    """Size, time and digest of a file; of large ones the beginning and the end are digested.

    Raises:
        OSError: when it cannot be read.
    """
    with open_file(path, 1 << 50) as stream:
        info = os.fstat(stream.fileno())
        content = blake2b(digest_size=16)
        content.update(stream.read(_WHOLE))
        if info.st_size > _WHOLE:
            stream.seek(-_WHOLE, os.SEEK_END)
            content.update(stream.read() + info.st_size.to_bytes(8, "big"))
    return File(path, *_stamp(info), content.digest())


def compare_files(photos: Mapping[str, Stamp], folders: Iterable[str], known: Mapping[str, File]) -> Changes:
    """Compares photos with the records of the last time; only those of another size or time are read.

    Args:
        photos: by absolute path.
        folders: and tar files, whose known photos are gone when they are not among ``photos``.
        known: records by absolute path.
    """
    inside = tuple(f"{folder}/" for folder in folders)
    missing = (path for path in known if path not in photos and path.startswith(inside))
    gone = {path for path in missing if not os.path.exists(path)}  # videos are there but not among the photos
    by_digest = {known[path].digest: path for path in sorted(gone, reverse=True)}
    changes, unchanged = Changes([], [], [], [], 0), 0
    for path, stamp in photos.items():
        record = known.get(path)
        if record and (record.size, record.mtime) == stamp:
            unchanged += 1
            continue
        try:
            file = File(path, *stamp, blake2b(_content(path), digest_size=16).digest())
        except OSError:  # reading for the index will say why
            file = File(path, *stamp, b"")
        if record and record.digest == file.digest:
            changes.moved.append((path, file._replace(note=record.note)))
        elif record:
            changes.replaced.append(file)
        elif file.digest in by_digest:
            old = by_digest.pop(file.digest)
            gone.discard(old)
            changes.moved.append((old, file._replace(note=known[old].note)))
        else:
            changes.new.append(file)
    return changes._replace(gone=sorted(gone), unchanged=unchanged)


def is_container(place: str | Path) -> bool:
    """True for a folder or a tar file."""
    return str(place).endswith(_TAR) or os.path.isdir(place)


def _walk(folder: str) -> Iterator[tuple[str, Stamp]]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in filter(_is_photo, names):
            path = os.path.join(place, name)
            if os.path.exists(path):  # else a broken link
                yield path, _stamp(os.stat(path))


def _is_photo(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES) and not name.startswith(".")


def _stamp(info: os.stat_result) -> Stamp:
    return Stamp(info.st_size, info.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _members(path: str, mtime: int) -> dict[str, tuple[int, Stamp]]:
    """Offset and stamp of each photo in a tar file that was changed at ``mtime``."""
    try:
        with tarfile.open(path, "r:") as tar:
            photos = [member for member in tar if member.isfile() and _is_photo(os.path.basename(member.name))]
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"'{path}' is not a tar file without compression: {error}") from error
    return {os.path.normpath(one.name): (one.offset_data, Stamp(one.size, mtime)) for one in photos}


def _content(path: str) -> bytes:
    tar, found, member = path.rpartition(f"{_TAR}/")
    if not found or not os.path.isfile(tar + _TAR):
        return read_bytes(path)
    offset, stamp = _members(tar + _TAR, os.stat(tar + _TAR).st_mtime_ns).get(member, (0, Stamp(0, 0)))
    with open(tar + _TAR, "rb") as stream:
        stream.seek(offset)
        return stream.read(stamp.size)
