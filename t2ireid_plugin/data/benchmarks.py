"""Specs of the text-to-image benchmarks and of a user's own data, read by `CaptionDataset`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

SPLITS = ("train", "val", "test")
VAL_SUFFIX = "_val"  # ``<benchmark>_val`` evaluates on the val split


def no_camera(path: str) -> str:
    """The camera of every image where cameras are unknown."""
    return ""


def top_folder(path: str) -> str:
    """The first folder of a relative image path; CUHK-PEDES has one per source of its images."""
    return next(iter(PurePosixPath(path).parts), "")


def name_part(index: int) -> Callable[[str], str]:
    """Reads the camera from a file name such as ``0000_c14_0031.jpg``: the part at ``index`` between underscores."""
    return functools.partial(_name_part, index)


def _name_part(index: int, path: str) -> str:
    parts = PurePosixPath(path).stem.split("_")
    return parts[index] if index < len(parts) else ""


class Counts(NamedTuple):
    """Size of one split."""

    images: int
    ids: int
    captions: int


class Official(NamedTuple):
    """Size of one split as published; None where the publishers give no number."""

    images: int
    ids: int | None
    captions: int


@dataclass(frozen=True)
class BenchmarkSpec:
    """Layout, keys and size of a benchmark.

    Args:
        name: the dataset's name in torchreid.
        folder: its folder under ``data.root``.
        annotations: file names of the annotation in that folder, the publishers' first; glob patterns are allowed.
        images: folder that image paths are relative to.
        licence: terms of its publishers.
        camera: camera of an image path as a string, which the dataset numbers; a row's own ``camera`` overrides it.
            Not a lambda, as data workers may receive a pickled copy.
        has_cameras: False if ``camera`` returns the source of an image, not a camera.
        holds_out_val: the benchmark has no val split, so a share of the training identities is held out for it.
        official: the publishers' counts per split.
    """

    name: str
    folder: str
    annotations: tuple[str, ...]
    images: str
    licence: str
    camera: Callable[[str], str] = no_camera
    has_cameras: bool = True
    holds_out_val: bool = False
    official: Mapping[str, Official] = field(default_factory=dict)

    def differing(self, split: str, counts: Counts) -> list[str]:
        """Names of a split's counts that differ from the publishers'."""
        official = self.official.get(split)
        return [name for name in Counts._fields if getattr(official, name, None) not in (None, getattr(counts, name))]


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
    # Its archive contains one annotation, whose name differs between releases.
    annotations=("UFine6926.json", "data_captions.json", "*.json"),
    images="images",
    licence="academic research only, on request from its authors",
    holds_out_val=True,
    official={"train": Official(18_577, None, 37_154), "test": Official(7_629, None, 15_258)},
)
# Written by `t2ireid prepare table`.
CUSTOM = BenchmarkSpec(
    name="custom",
    folder="custom",
    annotations=("reid_raw.json",),
    images="imgs",
    licence="your own data: write it with 't2ireid prepare table'",
    holds_out_val=True,
)

BENCHMARKS: dict[str, BenchmarkSpec] = {spec.name: spec for spec in (CUHKPEDES, ICFGPEDES, RSTPREID, UFINE6926, CUSTOM)}
