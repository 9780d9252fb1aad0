"""The text-to-image benchmarks: one small spec each, read by `CaptionDataset`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

SPLITS = ("train", "val", "test")


class Counts(NamedTuple):
    """Size of one split."""

    images: int
    ids: int
    captions: int


@dataclass(frozen=True)
class BenchmarkSpec:
    """Where a benchmark keeps its files, what its annotation calls things, and how large it is.

    Args:
        name: the dataset's name in torchreid.
        folder: its folder under ``data.root``.
        annotation: the annotation's file name in that folder.
        images: the folder that ``path_key`` is relative to.
        path_key: annotation key of the image path.
        camera: camera of an image path, any hashable; numbered by the dataset.
        official: the publishers' counts a split.
        licence: on what terms the publishers hand it out.
    """

    name: str
    folder: str
    annotation: str
    images: str
    path_key: str
    camera: Callable[[str], str]
    official: Mapping[str, Counts]
    licence: str


def top_folder(path: str) -> str:
    """The first folder of a relative image path; CUHK-PEDES keeps one a source of its images."""
    return next(iter(PurePosixPath(path).parts), "")


BENCHMARKS: dict[str, BenchmarkSpec] = {
    spec.name: spec
    for spec in (
        BenchmarkSpec(
            name="cuhkpedes",
            folder="CUHK-PEDES",
            annotation="reid_raw.json",
            images="imgs",
            path_key="file_path",
            camera=top_folder,
            official={
                "train": Counts(34_054, 11_003, 68_126),
                "val": Counts(3_078, 1_000, 6_158),
                "test": Counts(3_074, 1_000, 6_156),
            },
            licence="academic research only, on request from its authors",
        ),
    )
}
