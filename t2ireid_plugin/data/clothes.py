"""LTCC and PRCC, whose people change clothes: their photos by the names of files and folders.

Layouts are those of guxinqian/Simple-CCReID (Gu et al., CVPR 2022).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from t2ireid_plugin.errors import DataError


class Photo(NamedTuple):
    """A photo by its file name."""

    path: str
    pid: int
    camera: int  # from 0
    clothes: str  # distinct among the clothes of all people


Parts = tuple[list[Photo], list[Photo], list[Photo]]  # photos to train on, queries and gallery


def read_ltcc(folder: Path) -> Parts:
    """LTCC (Qian et al., ACCV 2020): ``{train,query,test}/<pid>_<clothes>_c<camera>_….png`` in ``LTCC_ReID``.

    Raises:
        DataError: for a missing or empty part, or a file name of another form.
    """

    def photo(path: Path) -> Photo:
        pid, clothes, camera = _match(r"(\d+)_(\d+)_c(\d+)_", path)
        return Photo(str(path), int(pid), int(camera) - 1, f"{pid}_{clothes}")

    train, query, gallery = (_photos(folder / part, "*.png", photo) for part in ("train", "query", "test"))
    return train, query, gallery


def read_prcc(folder: Path) -> Parts:
    """PRCC (Yang et al., TPAMI 2019): ``train/<pid>/<camera>_….jpg``, ``test/<camera>/<pid>/….jpg`` in ``prcc/rgb``.

    Cameras are A, B and C. People wear the same clothes before A and B, and others before C. The gallery is A; queries
    are B and C. All photos of A are searched (multi-shot).

    Raises:
        DataError: as `read_ltcc`.
    """

    def photo(path: Path) -> Photo:
        (pid,) = _match(r"(\d+)$", path.parent)
        camera = path.parent.parent.name  # of a test photo; one to train on begins with it
        (letter,) = _match(r"([ABC])", path if camera == "train" else path.parent.parent)
        return Photo(str(path), int(pid), "ABC".index(letter), pid + "C" * (letter == "C"))

    parts = ("train", "test/A", "test/B", "test/C")
    train, a, b, c = (_photos(folder / part, "*/*.jpg", photo) for part in parts)
    return train, b + c, a


def rows(read: Callable[[Path], Parts], start: Path) -> Iterator[Any]:
    """The photos beside the folder ``start`` as rows of an annotation without captions, see `data.formats`."""
    train, query, gallery = read(start.parent)
    for split, photos, first_id in (("train", train, 0), ("test", [*query, *gallery], 10_000)):
        for photo in photos:
            path = Path(photo.path).relative_to(start.parent).as_posix()
            labels = {"split": split, "id": first_id + photo.pid, "camera": photo.camera}
            yield {**labels, "file_path": path, "captions": None}


def _photos(folder: Path, pattern: str, photo: Callable[[Path], Photo]) -> list[Photo]:
    photos = [photo(path) for path in sorted(folder.glob(pattern))]
    if not photos:
        raise DataError(f"no photos '{folder / pattern}'")
    return photos


def _match(pattern: str, path: Path) -> Sequence[str]:
    found = re.match(pattern, path.name)
    if found is None:
        raise DataError(f"'{path}': the name must begin as {pattern}")
    return found.groups()
