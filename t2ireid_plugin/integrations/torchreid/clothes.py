"""LTCC and PRCC, whose people change clothes, as datasets of torchreid, and their protocols.

Layouts and protocols are those of guxinqian/Simple-CCReID (Gu et al., CVPR 2022).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torchreid import data as torchreid_data

from t2ireid_plugin.errors import DataError

Labels = npt.NDArray[np.int64]

# For each protocol, whether gallery photos of the query's person in the same (True) or in other clothes are left out.
PROTOCOLS = {"i2i_changed": True, "i2i_same": False}


class Photo(NamedTuple):
    """A photo by its file name."""

    path: str
    pid: int
    camera: int  # from 0
    clothes: str  # distinct among the clothes of all people


class ClothesDataset(torchreid_data.ImageDataset):
    """A dataset of torchreid that knows what each person wears.

    Its test has the protocols ``i2i`` (standard: photos of the query's person by its camera are left out),
    ``i2i_changed`` (also those in the query's clothes) and ``i2i_same`` (also those in other clothes).

    Args:
        root: torchreid's ``root``, the folder that contains ``dataset_dir``.
        **kwargs: torchreid's.

    Raises:
        DataError: for a missing or empty part, or a file name of another form.
    """

    dataset_dir = ""

    def __init__(self, root: str = "", **kwargs: Any) -> None:
        folder = Path(os.path.abspath(os.path.expanduser(root)), self.dataset_dir)
        train, query, gallery = self.read(folder)
        pids = _numbers(photo.pid for photo in train)
        clothes = _numbers(photo.clothes for photo in (*query, *gallery))
        self.clothes = {photo.path: clothes[photo.clothes] for photo in (*query, *gallery)}
        train = [photo._replace(pid=pids[photo.pid]) for photo in train]
        super().__init__(*([photo[:3] for photo in part] for part in (train, query, gallery)), **kwargs)

    def read(self, folder: Path) -> tuple[list[Photo], list[Photo], list[Photo]]:
        """Photos to train on, queries and gallery."""
        raise NotImplementedError

    def clothes_of(self, part: str) -> Labels:
        """The clothes in each photo of ``query`` or ``gallery``, as numbers."""
        return np.array([self.clothes[path] for path, *_ in getattr(self, part)], np.int64)


class LTCC(ClothesDataset):
    """LTCC (Qian et al., ACCV 2020): ``LTCC_ReID/{train,query,test}/<pid>_<clothes>_c<camera>_….png``."""

    dataset_dir = "LTCC_ReID"

    def read(self, folder: Path) -> tuple[list[Photo], list[Photo], list[Photo]]:
        """See `ClothesDataset`."""

        def photo(path: Path) -> Photo:
            pid, clothes, camera = _match(r"(\d+)_(\d+)_c(\d+)_", path)
            return Photo(str(path), int(pid), int(camera) - 1, f"{pid}_{clothes}")

        train, query, gallery = (_photos(folder / part, "*.png", photo) for part in ("train", "query", "test"))
        return train, query, gallery


class PRCC(ClothesDataset):
    """PRCC (Yang et al., TPAMI 2019): ``prcc/rgb/train/<pid>/<camera>_….jpg``, ``prcc/rgb/test/<camera>/<pid>/….jpg``.

    Cameras are A, B and C. People wear the same clothes before A and B, and others before C. The gallery is A; queries
    are B, which find it by ``i2i_same``, and C, by ``i2i_changed``. All photos of A are searched (multi-shot).
    """

    dataset_dir = "prcc"

    def read(self, folder: Path) -> tuple[list[Photo], list[Photo], list[Photo]]:
        """See `ClothesDataset`."""

        def photo(path: Path) -> Photo:
            (pid,) = _match(r"(\d+)$", path.parent)
            camera = path.parent.parent.name  # of a test photo; one to train on begins with it
            (letter,) = _match(r"([ABC])", path if camera == "train" else path.parent.parent)
            return Photo(str(path), int(pid), "ABC".index(letter), pid + "C" * (letter == "C"))

        parts = ("train", "test/A", "test/B", "test/C")
        train, a, b, c = (_photos(folder / "rgb" / part, "*/*.jpg", photo) for part in parts)
        return train, b + c, a


DATASETS: dict[str, type[ClothesDataset]] = {"ltcc": LTCC, "prcc": PRCC}


def clothes_protocols(dataset: object, q_pids: Labels, g_pids: Labels) -> Mapping[str, npt.NDArray[np.bool_]]:
    """Gallery photos ``[q, g]`` to leave out for each protocol besides the standard one; empty without clothes."""
    if not isinstance(dataset, ClothesDataset):
        return {}
    person = q_pids[:, None] == g_pids
    same = dataset.clothes_of("query")[:, None] == dataset.clothes_of("gallery")
    return {name: person & (same if changed else ~same) for name, changed in PROTOCOLS.items()}


def _numbers(values: Iterable[Any]) -> dict[Any, int]:
    """The distinct values, numbered in their order."""
    return {value: number for number, value in enumerate(sorted(set(values)))}


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
