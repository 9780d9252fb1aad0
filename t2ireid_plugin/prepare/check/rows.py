"""Rows of an annotation read leniently: what is wrong is noted, and what is right of a bad row is still checked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from t2ireid_plugin.data.annotations import (
    INSTRUCTIONS,
    Companion,
    Photo,
    parse_row,
    read_companion,
    read_rows,
    stays_inside,
)
from t2ireid_plugin.data.benchmarks import SPLITS, BenchmarkSpec
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.prepare.check.findings import Example, Findings
from t2ireid_plugin.utils.safe_io import is_unicode

# Stands in for what was noted already, so that the reader goes on to what else is wrong with the row.
_SOME_TEXT, _SOME_ID = "-", 0
_SHOWN = 120


class Row(NamedTuple):
    """What could be made out of a row."""

    number: int
    path: str | None  # below the folder of images, normalised
    pid: int | None
    split: str | None
    captions: tuple[str, ...]
    other_texts: tuple[str, ...]  # of identity and clothing


def read_all(file: Path, spec: BenchmarkSpec, findings: Findings) -> list[Row]:
    """All rows of an annotation file; what is wrong with them is added to ``findings``.

    Raises:
        DataError: when the annotation or its companion as a whole cannot be read.
    """
    companion = read_companion(file)
    rows = [_read(raw, number, file, spec, companion, findings) for number, raw in enumerate(read_rows(file))]
    unknown = sorted(set(companion).difference(row.path for row in rows if row.path))
    findings.add("instructions_unknown", [Example(path=path, value=INSTRUCTIONS) for path in unknown])
    return rows


def shown(text: str) -> str:
    """A text on one line, cut at a readable length."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"


def _read(raw: Any, number: int, file: Path, spec: BenchmarkSpec, companion: Companion, findings: Findings) -> Row:
    fields = raw if isinstance(raw, dict) else {}
    path = _first_path(fields)
    captions, mended = _captions(fields, number, path, findings)
    pid = _whole_number(fields, number, path, findings)
    if "id" in fields and pid is None:
        mended["id"] = _SOME_ID
    photo: Photo | None = None
    try:
        photo = parse_row({**fields, **mended} if fields else raw, number, file, spec, companion)
    except DataError as error:
        reason = str(error).removeprefix(f"'{file}', row {number}").removeprefix(f" ({path})").removeprefix(": ")
        kind = "caption_not_unicode" if "lone surrogate" in reason else "row_refused"  # an identity or clothing text
        findings.add(kind, [Example(number, path, shown(reason))])
    others = (*(photo.id_texts or ()), *(photo.cloth_texts or ())) if photo else ()
    split = fields.get("split")
    split = split.lower() if isinstance(split, str) else None
    inside = photo is not None or (path and stays_inside(path))
    return Row(
        number=number,
        path=os.path.normpath(path) if inside else None,
        pid=pid,
        split=split if split in SPLITS else None,
        captions=captions,
        other_texts=others,
    )


def _first_path(fields: dict[str, Any]) -> str:
    """The row's image as written, empty when there is none."""
    for key in ("file_path", "img_path"):
        if key in fields:
            return fields[key] if isinstance(fields[key], str) else ""
    return ""


def _captions(
    fields: dict[str, Any], number: int, path: str, findings: Findings
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The captions that are good, and the row's field with a word in place of those that are not."""
    values = fields.get("captions")
    if not isinstance(values, list):
        return (), {}
    wrong = [_wrong_with(value) for value in values]
    for kind, value in zip(wrong, values, strict=True):
        if kind:
            findings.add(kind, [Example(number, path, shown(ascii(value)))])
    good = tuple(value for kind, value in zip(wrong, values, strict=True) if not kind)
    return good, {"captions": [_SOME_TEXT if kind else value for kind, value in zip(wrong, values, strict=True)]}


def _wrong_with(caption: Any) -> str | None:
    if not isinstance(caption, str):
        return "caption_not_text"
    if not caption.strip():
        return "caption_empty"
    return None if is_unicode(caption) else "caption_not_unicode"


def _whole_number(fields: dict[str, Any], number: int, path: str, findings: Findings) -> int | None:
    if "id" not in fields:
        return None
    pid = fields["id"]
    if type(pid) is int:  # true and false are int to isinstance
        return pid
    findings.add("id_not_whole", [Example(number, path, shown(repr(pid)))])
    return None


def by_path(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each image, in the annotation's order."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        if row.path is not None:
            grouped.setdefault(row.path, []).append(row)
    return grouped
