"""Specs of the text-to-image benchmarks and of a user's own data, read by `CaptionDataset`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from t2ireid_plugin.data import clothes, formats
from t2ireid_plugin.utils.text import text_table

SPLITS = ("train", "val", "test")
VAL_SUFFIX = "_val"  # ``<benchmark>_val`` evaluates on the val split


class Counts(NamedTuple):
    """Size of one split."""

    images: int | None  # each None where the publishers give no number
    ids: int | None
    captions: int | None


@dataclass(frozen=True)
class BenchmarkSpec:
    """Layout, keys and size of a benchmark.

    Args:
        name: the dataset's name in torchreid.
        folder: its folder under ``data.root``.
        annotations: file names of the annotation in that folder, the publishers' first; glob patterns are allowed.
        images: folder in it that image paths are relative to.
        licence: terms of its publishers.
        camera_part: the part of a file name such as ``0000_c14_0031.jpg``, between underscores, that is the camera.
        has_cameras: False where the top folder of an image is its source and stands for the camera.
        holds_out_val: the benchmark has no val split, so a share of the training identities is held out for it.
        official: the publishers' counts per split; a split without them is not part of the benchmark.
        read: gives the rows of its annotation file.
        has_msd: its publishers report mSD, see `evaluation.similarity_distribution`.
        composed: each caption is a query together with the photo of its row, which is not searched; the gallery is the
            photos without captions.
        labelled: False where only its organisers know the matches, so that tests write their answers, see
            `evaluation.answers`.
        captioned: False for photos alone, a dataset of torchreid, which `t2ireid prepare check` can check.
    """

    name: str
    folder: str
    annotations: tuple[str, ...]
    images: str
    licence: str
    camera_part: int | None = None
    has_cameras: bool = True
    holds_out_val: bool = False
    official: Mapping[str, Counts] = field(default_factory=dict)
    read: formats.Reader = formats.read_rows
    has_msd: bool = False
    composed: bool = False
    labelled: bool = True
    captioned: bool = True

    def image_folder(self, root: str | Path) -> Path:
        """The folder of its images under ``data.root``."""
        return Path(root).expanduser() / self.folder / self.images

    def has(self, split: str) -> bool:
        """Whether the publishers' annotation should have images of this split."""
        return split in self.official if self.official else not (split == "val" and self.holds_out_val)

    def camera(self, path: str) -> str:
        """Camera of an image by its relative path, which the dataset numbers; a row's own ``camera`` overrides it."""
        if not self.has_cameras:
            return path.partition("/")[0]
        parts = PurePosixPath(path).stem.split("_")
        return parts[self.camera_part] if self.camera_part is not None and self.camera_part < len(parts) else ""

    def differing(self, split: str, counts: Counts) -> list[str]:
        """Names of a split's counts that differ from the publishers'."""
        official = self.official.get(split)
        return [name for name in Counts._fields if getattr(official, name, None) not in (None, getattr(counts, name))]

    def counts_table(self, counts: Mapping[str, Counts], held_out: bool = False) -> str:
        """The size of each split beside the publishers', who count people that are ``held_out`` for val as train."""
        parts = [(split, counts[split], split) for split in SPLITS]
        if held_out:
            total = Counts(*(sum(n or 0 for n in both) for both in zip(counts["train"], counts["val"])))
            parts[:2] = [("train", counts["train"], ""), ("+ val", counts["val"], ""), ("= train", total, "train")]
        rows = []
        for label, ours, split in parts:
            official = " / ".join("?" if n is None else f"{n:,}" for n in self.official.get(split, ()))
            differs = "   <- differs" if self.differing(split, ours) else ""
            rows.append([label, *(f"{n:,}" for n in ours), *([official + differs] if self.official else [])])
        header = ["official images / ids / captions"] if self.official else []
        return text_table(["split", *Counts._fields, *header], rows)


CUHKPEDES = BenchmarkSpec(
    name="cuhkpedes",
    folder="CUHK-PEDES",
    annotations=("reid_raw.json",),
    images="imgs",
    licence="academic research only, on request from its authors",
    has_cameras=False,
    official={
        "train": Counts(34_054, 11_003, 68_126),
        "val": Counts(3_078, 1_000, 6_158),
        "test": Counts(3_074, 1_000, 6_156),
    },
)
ICFGPEDES = BenchmarkSpec(
    name="icfgpedes",
    folder="ICFG-PEDES",
    annotations=("ICFG-PEDES.json", "ICFG_PEDES.json"),
    images="imgs",
    licence="academic research only, on request from its authors; its images are MSMT17's",
    camera_part=2,  # 0000_000_01_0303morning_0008_0.jpg: identity, number, camera, time, …
    holds_out_val=True,
    official={"train": Counts(34_674, 3_102, 34_674), "test": Counts(19_848, 1_000, 19_848)},
)
RSTPREID = BenchmarkSpec(
    name="rstpreid",
    folder="RSTPReid",
    annotations=("data_captions.json",),
    images="imgs",
    licence="academic research only, on request from its authors; its images are MSMT17's",
    camera_part=1,
    official={
        "train": Counts(18_505, 3_701, 37_010),
        "val": Counts(1_000, 200, 2_000),
        "test": Counts(1_000, 200, 2_000),
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
    official={"train": Counts(18_577, None, 37_154), "test": Counts(7_629, None, 15_258)},
    has_msd=True,
)
UFINE3C = BenchmarkSpec(
    name="ufine3c",
    folder="UFine3C",
    annotations=("UFine3C_Annotations.json", "UFine3C.json", "*.json"),
    images="images",
    licence="academic research only, on request from its authors",
    official={"test": Counts(7_446, 2_250, 37_939)},
    has_msd=True,
)
IIITD20K = BenchmarkSpec(
    name="iiitd20k",
    folder="IIITD-20K-Dataset",
    annotations=("Filtered.json", "IIITD-20K-CUHK-FORMAT.json", "IIITD-20K-ICFG-FORMAT.json"),
    images="IIITD-20K",
    licence="academic research only, from its authors",
    read=formats.read_iiitd,
    official={
        "train": Counts(15_000, 15_000, 30_000),
        "val": Counts(2_500, 2_500, 5_000),
        "test": Counts(2_500, 2_500, 5_000),
    },
)
RGBTPEDES = BenchmarkSpec(
    name="rgbtpedes",
    folder="RGBT-PEDES",
    annotations=("caption_2_no_color.json",),
    images="RGB",
    licence="academic research only, from its authors",
    read=formats.read_rgbt,
)
PAB = BenchmarkSpec(
    name="pab",
    folder="PAB",
    annotations=("annotation/test/attr.json",),
    images=".",
    licence="research only, from its authors",
    holds_out_val=True,
    read=formats.read_pab,
    official={"train": Counts(1_013_605, None, 1_013_605), "test": Counts(1_978, None, 1_978)},
)
PAB_UCC = BenchmarkSpec(
    name="pab_ucc",
    folder="PAB",
    annotations=("annotation/test/ucc.json",),
    images=".",
    licence="research only, from its authors",
    read=formats.read_pab,
    official={"test": Counts(5_320, None, 5_320)},
)
PAB_TRACK4 = BenchmarkSpec(
    name="pab_track4",
    folder="PAB",
    annotations=("name-masked_test-set/query_text.json",),
    images="name-masked_test-set/gallery",
    licence="for participants of AI City 2026 Track 4, from its organisers",
    read=formats.read_track4,
    official={"test": Counts(36_773, None, 1_978)},
    labelled=False,
)
ORBENCH = BenchmarkSpec(
    name="orbench",
    folder="ORBench",
    annotations=("test_gallery_and_queries.json",),
    images=".",
    licence="on request from its authors, with a signed agreement",
    holds_out_val=True,
    read=formats.read_orbench,
)
ITCPR = BenchmarkSpec(
    name="itcpr",
    folder="ITCPR",
    annotations=("query.json",),
    images=".",
    licence="its photos are those of Celeb-reID, PRCC and LaST: academic research only, from their authors",
    read=formats.read_itcpr,
    official={"test": Counts(20_510, None, 2_202)},
    composed=True,
)
SYNCPR = BenchmarkSpec(
    name="syncpr",
    folder="SynCPR",
    annotations=("SynCPR.json",),
    images=".",
    licence="research only, from its authors",
    holds_out_val=True,
    read=formats.read_syncpr,
    official={"train": Counts(None, None, None)},  # its authors count triplets: 1.15 M
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

_ALL = (
    *(CUHKPEDES, ICFGPEDES, RSTPREID, UFINE6926, UFINE3C, IIITD20K, RGBTPEDES, PAB, PAB_UCC, PAB_TRACK4),
    *(ORBENCH, ITCPR, SYNCPR, CUSTOM),
)
BENCHMARKS: dict[str, BenchmarkSpec] = {spec.name: spec for spec in _ALL}
LTCC = BenchmarkSpec(
    name="ltcc",
    folder="LTCC_ReID",
    annotations=("train",),  # the folder itself
    images=".",
    licence="academic research only, from its authors",
    read=functools.partial(clothes.rows, clothes.read_ltcc),
    official={"train": Counts(9_576, 77, 0), "test": Counts(7_543, 75, 0)},  # 493 queries and 7,050 to search
    captioned=False,
)
PRCC = BenchmarkSpec(
    name="prcc",
    folder="prcc",
    annotations=("rgb/train",),
    images="rgb",
    licence="academic research only, from its authors",
    read=functools.partial(clothes.rows, clothes.read_prcc),
    official={"train": Counts(17_896, 150, 0), "test": Counts(10_800, 71, 0)},  # A 3,384, B 3,543, C 3,873
    captioned=False,
)
WITHOUT_CAPTIONS = {spec.name: spec for spec in (LTCC, PRCC)}
