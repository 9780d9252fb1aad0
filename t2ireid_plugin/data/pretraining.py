"""Sets of millions of images with generated captions, for training alone: their specs, and how their rows are read."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2ireid_plugin.data.annotations import find_annotation, stays_inside
from t2ireid_plugin.data.benchmarks import BENCHMARKS, BenchmarkSpec, Counts
from t2ireid_plugin.errors import DataError, short_repr
from t2ireid_plugin.utils.json_stream import json_elements
from t2ireid_plugin.utils.safe_io import open_file

if TYPE_CHECKING:
    from t2ireid_plugin.data.large_table import LargeTable

# An image by its name, its identity (None where it has one of its own), and its captions.
Row = tuple[str, "int | None", Sequence[str]]


@dataclass(frozen=True)
class PretrainingSpec(BenchmarkSpec):
    """Layout of a set that is too large to be checked image by image.

    Args:
        take: the rows of an element of its annotation.
        parts: pattern of the files in ``annotations`` where that is a folder.
        joins: an image may be in several rows, each with other captions.
    """

    take: Callable[[Any], Iterable[Row]] = iter
    parts: str = ""
    joins: bool = False

    def table(self, root: str | Path) -> LargeTable:
        """All its captions.

        Raises:
            DataError: for a missing or malformed annotation, see also `open_table`.
        """
        file = find_annotation(root, self)
        files = sorted(file.glob(self.parts)) if self.parts else [file]
        if not files:
            raise DataError(f"{self.name}: '{file}' has no {self.parts}")
        from t2ireid_plugin.data.large_table import open_table  # here, as it imports PyTorch

        rows = itertools.chain.from_iterable(_rows(path, self.take) for path in files)
        return open_table(self.name, files, rows, self.image_folder(root), self.joins)


def is_pretraining(name: str) -> bool:
    """Whether a name in ``data.sources`` is of one of these sets."""
    return name in PRETRAINING


def spec_of(name: str) -> BenchmarkSpec:
    """The spec of a benchmark or pre-training set."""
    return PRETRAINING.get(name) or BENCHMARKS[name]


def _rows(file: Path, take: Callable[[Any], Iterable[Row]]) -> Iterator[Row]:
    try:
        with open_file(file, sys.maxsize) as stream:
            for number, element in enumerate(json_elements(stream)):
                try:
                    for name, pid, captions in take(element):
                        if type(pid) is not int and pid is not None:
                            raise ValueError(f"id {short_repr(pid)} must be an integer")
                        if type(captions) is not list:
                            raise ValueError(f"captions {short_repr(captions)} must be a list")
                        yield _checked_name(name), pid, captions
                except (LookupError, TypeError, AttributeError) as error:
                    raise ValueError(f"element {number}: not of this set's format ({error!r})") from error
                except ValueError as error:
                    raise ValueError(f"element {number}: {error}") from error
    except OSError as error:
        raise DataError(f"cannot read '{file}' ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"'{file}', {error}") from error


def _checked_name(name: Any) -> str:
    """The path of an image below its folder, with ``/`` as separator.

    Raises:
        ValueError: saying what is wrong.
    """
    if type(name) is not str or not name or "\0" in name or not (name.isascii() or name.encode()):
        raise ValueError(f"{short_repr(name)} must be a path")
    if "\\" in name or ".." in name or ":" in name or name[0] == "/":
        if not stays_inside(name):
            raise ValueError(f"{short_repr(name)} leaves the folder of images")
        return name.replace("\\", "/")
    return name


def _synthpedes(row: Any) -> list[Row]:
    return [(row["file_path"], row["id"], row["captions"])]


def _luperson(row: Any) -> list[Row]:
    """Photos are found by their base name. Captions in which a template was left open are no descriptions.

    The authors' ``datasets/luperson.py`` puts another caption of the photo in their place.
    """
    path, text = row
    return [(f"images/{path.rpartition('/')[2]}", None, [] if "description]" in text or "<" in text else [text])]


def _mals(row: Any) -> list[Row]:
    return [(row["image"], None, [row["caption"]])]


def _webperson(row: Any) -> Iterator[Row]:
    """The authors' ``datasets/webreid.py`` also removes "/n", and makes each caption an identity of its own."""
    for name, texts in row.items():
        yield f"images/{name}", None, [texts[key].replace("/n", "") for key in ("caption1", "caption2")]


_ALL = (
    PretrainingSpec(
        name="synthpedes",
        folder="SYNTH-PEDES",
        annotations=("synthpedes_dataset.json", "synthpedes-dataset.json"),
        images=".",
        licence="research only, from its authors",
        take=_synthpedes,
    ),
    PretrainingSpec(
        name="luperson_mllm",
        folder="LUPerson-MLLM",
        annotations=("captions",),
        images=".",
        licence="its images are LUPerson's, on request from its authors",
        take=_luperson,
        parts="T[sd]-*.json",
        joins=True,
    ),
    PretrainingSpec(
        name="mals",
        folder="MALS",
        annotations=("gene_attrs",),
        images=".",
        licence="research only, from its authors",
        official={"train": Counts(1_510_330, None, 1_510_330)},
        take=_mals,
        parts="g_*_attrs.json",
    ),
    PretrainingSpec(
        name="webperson",
        folder="WebPerson",
        annotations=("*.json",),
        images=".",
        licence="see its page at Hugging Face",
        take=_webperson,
    ),
)
PRETRAINING: dict[str, PretrainingSpec] = {spec.name: spec for spec in _ALL}
