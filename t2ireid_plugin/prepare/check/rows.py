"""Reads the rows of an annotation leniently, and checks them, their identities and the size of each split."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from t2ireid_plugin.data.annotations import (
    INSTRUCTIONS,
    PATH_KEYS,
    parse_row,
    read_companion,
    stays_inside,
)
from t2ireid_plugin.data.benchmarks import SPLITS, BenchmarkSpec, Counts
from t2ireid_plugin.data.image_files import ImageFolder, plain_name
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.prepare.check.report import Example, Findings, shorten

T = TypeVar("T")
K = TypeVar("K")


class Row(NamedTuple):
    """A row; of one that training refuses only the path, so that its image is checked."""

    number: int
    path: str | None  # of the image file, relative to the folder of images; the same in all rows that name the file
    pid: int | None = None
    split: str | None = None
    captions: tuple[str, ...] = ()  # without those of earlier rows of the same image, as training merges them
    other_texts: tuple[str, ...] = ()  # identity and clothing texts


def read_all(file: Path, images: Path, spec: BenchmarkSpec, findings: Findings) -> list[Row]:
    """All rows of an annotation file, whose image paths are relative to ``images``; adds problems to ``findings``.

    Raises:
        DataError: when the annotation or its companion file cannot be read at all.
    """
    companion = read_companion(file, spec)
    rows = []
    for number, raw in enumerate(spec.read(file)):
        try:
            photo = parse_row(raw, number, file, spec, companion)
        except DataError as error:
            name = next((raw[key] for key in PATH_KEYS if key in raw), None) if isinstance(raw, dict) else None
            path = name if isinstance(name, str) and name and stays_inside(name) else None
            reason = str(error).removeprefix(f"'{file}', row {number}").removeprefix(f" ({path})").removeprefix(": ")
            findings.add("row_refused", [Example(number, path or "", shorten(reason))])
            rows.append(Row(number, path))
        else:
            captions = tuple(caption for caption, *_ in photo.texts)
            others = tuple(text for _, *texts in photo.texts for text in texts if text)
            rows.append(Row(number, photo.path, photo.pid, photo.split, captions, others))
    unknown = companion.keys() - {plain_name(row.path, spec.images) for row in rows if row.path}
    findings.add("instructions_unknown", [Example(path=path, value=INSTRUCTIONS) for path in sorted(unknown)])
    return _merge_rows(rows, ImageFolder(images))


def group_by(items: Iterable[T], key: Callable[[T], K | None]) -> dict[K, list[T]]:
    """The items of each key in order, without those whose key is None."""
    groups: dict[K, list[T]] = {}
    for item in items:
        if (value := key(item)) is not None:
            groups.setdefault(value, []).append(item)
    return groups


def check_identities(rows: Sequence[Row], findings: Findings) -> None:
    """Reports identities in several splits and identities with a single photo."""
    for pid, own in group_by(rows, lambda row: row.pid).items():
        splits = [split for split in SPLITS if any(row.split == split for row in own)]
        example = Example(own[0].number, own[0].path or "", f"identity {pid} in {' and '.join(splits)}")
        if len(splits) > 1:
            findings.add("identity_in_two_splits", [example])
        if len({row.path for row in own}) == 1:
            findings.add("identity_of_one_photo", [example])


def check_counts(rows: Sequence[Row], spec: BenchmarkSpec, findings: Findings) -> dict[str, Counts]:
    """The size of each split; reports empty splits and differences from the publishers' counts."""
    counts = {}
    for split, own in ((split, [row for row in rows if row.split == split]) for split in SPLITS):
        images = {row.path for row in own if not (spec.composed and row.captions)}
        ids = {row.pid for row in own}
        counts[split] = Counts(len(images), len(ids), sum(len(row.captions) for row in own))
    for split, ours in counts.items():
        if not ours.images and spec.has(split):
            findings.add("split_empty", [Example(value=split)])
        for name in spec.differing(split, ours):
            official = getattr(spec.official[split], name)
            value = f"{split}: {getattr(ours, name):,} {name}, official {official:,}"
            findings.add("counts_differ", [Example(value=value)])
    return counts


def _merge_rows(rows: Sequence[Row], folder: ImageFolder) -> list[Row]:
    """The rows with one path per image file, and without captions that an earlier row of the file has."""
    names = list({row.path: None for row in rows if row.path is not None})
    files = dict(zip(names, folder.find(names)))
    known: dict[str, set[str]] = defaultdict(set)  # captions by file
    merged = []
    for row in rows:
        if row.path is not None and (file := files[row.path]):
            captions = tuple(text for text in row.captions if text not in known[file])
            known[file].update(row.captions)
            row = row._replace(path=os.path.relpath(file, folder.folder), captions=captions)
        merged.append(row)
    return merged
