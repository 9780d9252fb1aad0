"""Photo files for an index: listing, changes since the last time, and reading."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from t2ireid_plugin.data.images import FORMATS
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.search.rows import File
from t2ireid_plugin.utils.safe_io import open_file

_SUFFIXES = tuple(suffix for _, suffixes in FORMATS.values() for suffix in suffixes)
_WHOLE = 1 << 26  # bytes up to which a whole file is digested


class Changes(NamedTuple):
    """Differences between files and their records, as absolute paths."""

    new: list[File]
    replaced: list[File]  # other content under a known path
    moved: list[tuple[str, File]]  # content of a file that is gone, or the same file with another time
    gone: list[str]
    unchanged: int


def list_photos(path: str | Path) -> list[str]:
    """The photo itself, or all photos in a folder and the folders within, sorted; names with a dot first are left out.

    Raises:
        DataError: when it does not exist, or the folder has no photo.
    """
    path = os.path.abspath(path)
    if not os.path.isdir(path):
        if not os.path.exists(path):
            raise DataError(f"no such file or folder: '{path}'")
        return [path]
    photos = sorted(_walk(path))
    if not photos:
        raise DataError(f"no photos in '{path}'; supported: {', '.join(_SUFFIXES)}")
    return photos


def _walk(folder: str) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(_SUFFIXES) and not name.startswith("."):
                yield os.path.join(place, name)


def describe_file(path: str) -> File:
    """Size, time and digest of a file; of large ones the beginning and the end are digested.

    Raises:
        OSError: when it cannot be read.
    """
    with open_file(path, 1 << 50) as stream:
        info = os.fstat(stream.fileno())
        content = blake2b(digest_size=16)
        if info.st_size <= _WHOLE:
            content.update(stream.read())
        else:
            content.update(stream.read(_WHOLE // 2))
            stream.seek(-_WHOLE // 2, os.SEEK_END)
            content.update(stream.read() + info.st_size.to_bytes(8, "big"))
    return File(path, info.st_size, info.st_mtime_ns, content.digest())


def compare_files(paths: Iterable[str], folders: Iterable[str], known: Mapping[str, File]) -> Changes:
    """Compares files with the records of the last time; only those of other size or time are read.

    Args:
        paths: absolute.
        folders: whose known files are gone when they are not among ``paths``.
        known: records by absolute path.
    """
    infos = {path: info for path in paths if (info := _stat(path))}
    inside = tuple(f"{folder}{os.sep}" for folder in folders)
    missing = (path for path in known if path not in infos and path.startswith(inside))
    gone = {path for path in missing if not os.path.exists(path)}  # videos are there but not among the paths
    by_digest = {known[path].digest: path for path in sorted(gone, reverse=True)}
    changes = Changes([], [], [], [], 0)
    unchanged = 0
    for path, info in infos.items():
        record = known.get(path)
        if record and (record.size, record.mtime) == (info.st_size, info.st_mtime_ns):
            unchanged += 1
            continue
        file = describe_file(path)
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


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:  # removed since it was listed
        return None
