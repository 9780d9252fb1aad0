"""LTCC and PRCC, whose people change clothes, as datasets of torchreid, and their protocols.

The protocols are those of guxinqian/Simple-CCReID (Gu et al., CVPR 2022).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torchreid import data as torchreid_data

from t2ireid_plugin.data.clothes import Parts, read_ltcc, read_prcc

Labels = npt.NDArray[np.int64]

# For each protocol, whether gallery photos of the query's person in the same (True) or in other clothes are left out.
PROTOCOLS = {"i2i_changed": True, "i2i_same": False}


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
    read: Callable[[Path], Parts]

    def __init__(self, root: str = "", **kwargs: Any) -> None:
        folder = Path(os.path.abspath(os.path.expanduser(root)), self.dataset_dir)
        train, query, gallery = self.read(folder)
        pids = _numbers(photo.pid for photo in train)
        clothes = _numbers(photo.clothes for photo in (*query, *gallery))
        self.clothes = {photo.path: clothes[photo.clothes] for photo in (*query, *gallery)}
        train = [photo._replace(pid=pids[photo.pid]) for photo in train]
        super().__init__(*([photo[:3] for photo in part] for part in (train, query, gallery)), **kwargs)

    def clothes_of(self, part: str) -> Labels:
        """The clothes in each photo of ``query`` or ``gallery``, as numbers."""
        return np.array([self.clothes[path] for path, *_ in getattr(self, part)], np.int64)


class LTCC(ClothesDataset):
    """See `data.clothes.read_ltcc`."""

    dataset_dir = "LTCC_ReID"
    read = staticmethod(read_ltcc)


class PRCC(ClothesDataset):
    """See `data.clothes.read_prcc`; queries of camera B find their person by ``i2i_same``, of C by ``i2i_changed``."""

    dataset_dir = "prcc/rgb"
    read = staticmethod(read_prcc)


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
