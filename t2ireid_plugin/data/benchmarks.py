"""The text-to-image benchmarks, and a user's own data: one small spec each, read by `CaptionDataset`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

SPLITS = ("train", "val", "test")
VAL_SUFFIX = "_val"  # ``<benchmark>_val`` evaluates on the val split


class Counts(NamedTuple):
    """Size of one split."""

    images: int
    ids: int
    captions: int


class Official(NamedTuple):
    """Size of one split as published; None for what the publishers do not tell."""

    images: int
    ids: int | None
    captions: int


@dataclass(frozen=True)
class BenchmarkSpec:
    """Where a benchmark keeps its files, what its annotation calls things, and how large it is.

    Args:
        name: the dataset's name in torchreid.
        folder: its folder under ``data.root``.
        annotations: known file names of the annotation in that folder, the publishers' first; patterns are allowed.
        images: the folder that image paths are relative to.
        licence: on what terms the publishers hand it out.
        camera: camera of an image path, any text; numbered by the dataset. A row's own ``camera`` goes before it.
        has_cameras: what ``camera`` gives are cameras, not sources of images.
        holds_out_val: there is no val split, so a share of the training identities is held out for it.
        official: the publishers' counts a split.
    """

    name: str
    folder: str
    annotations: tuple[str, ...]
    images: str
    licence: str
    camera: Callable[[str], str] = lambda path: ""
    has_cameras: bool = True
    holds_out_val: bool = False
    official: Mapping[str, Official] = field(default_factory=dict)


def top_folder(path: str) -> str:
    """The first folder of a relative image path; CUHK-PEDES keeps one a source of its images."""
    return next(iter(PurePosixPath(path).parts), "")


def name_part(index: int) -> Callable[[str], str]:
    """The camera from a file name such as ``0000_c14_0031.jpg``: the part between underscores at ``index``."""

    def camera(path: str) -> str:
        parts = PurePosixPath(path).stem.split("_")
        return parts[index] if index < len(parts) else ""

    return camera


CUHKPEDES = BenchmarkSpec(
    name="cuhkpedes",
    folder="CUHK-PEDES",
    annotations=("reid_raw.json",),
    images="imgs",
    licence="academic research only, on request from its authors",
    camera=top_folder,
    has_cameras=False,
    official={
        "train": Official(34_054, 11_003, 68_126),
        "val": Official(3_078, 1_000, 6_158),
        "test": Official(3_074, 1_000, 6_156),
    },
)
ICFGPEDES = BenchmarkSpec(
    name="icfgpedes",
    folder="ICFG-PEDES",
    annotations=("ICFG-PEDES.json", "ICFG_PEDES.json"),
    images="imgs",
    licence="academic research only, on request from its authors; its images are MSMT17's",
    camera=name_part(2),  # 0000_000_01_0303morning_0008_0.jpg: identity, number, camera, time, …
    holds_out_val=True,
    official={"train": Official(34_674, 3_102, 34_674), "test": Official(19_848, 1_000, 19_848)},
)
RSTPREID = BenchmarkSpec(
    name="rstpreid",
    folder="RSTPReid",
    annotations=("data_captions.json",),
    images="imgs",
    licence="academic research only, on request from its authors; its images are MSMT17's",
    camera=name_part(1),
    official={
        "train": Official(18_505, 3_701, 37_010),
        "val": Official(1_000, 200, 2_000),
        "test": Official(1_000, 200, 2_000),
    },
)
UFINE6926 = BenchmarkSpec(
    name="ufine6926",
    folder="UFine6926",
    # Its archive holds one annotation, whose name differs from release to release.
    annotations=("UFine6926.json", "data_captions.json", "*.json"),
    images="images",
    licence="academic research only, on request from its authors",
    holds_out_val=True,
    official={"train": Official(18_577, None, 37_154), "test": Official(7_629, None, 15_258)},
)
# What `t2ireid prepare table` writes.
CUSTOM = BenchmarkSpec(
    name="custom",
    folder="custom",
    annotations=("reid_raw.json",),
    images="imgs",
    licence="your own data: write it with 't2ireid prepare table'",
    holds_out_val=True,
)

BENCHMARKS: dict[str, BenchmarkSpec] = {spec.name: spec for spec in (CUHKPEDES, ICFGPEDES, RSTPREID, UFINE6926, CUSTOM)}
