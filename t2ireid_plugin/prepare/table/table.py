"""Reads a user's table of images, identities and captions: CSV, TSV or JSON lines, checked cell by cell."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from t2ireid_plugin.data.benchmarks import SPLITS
from t2ireid_plugin.errors import DataError, short_repr
from t2ireid_plugin.utils.safe_io import parse_json, read_bytes, text_problem

IMAGE, IDENTITY, CAPTION, CAMERA, SPLIT = "image", "identity", "caption", "camera", "split"
ID_TEXT, CLOTH_TEXT = "identity_text", "clothing_text"
# How a column may be spelled besides its name; case, and the choice of "_", "-" or a blank, do not matter.
_SPELLINGS = {
    IMAGE: ("file", "path", "file path", "img path", "image path", "file name"),
    IDENTITY: ("id", "pid", "person"),
    CAPTION: ("captions", "text", "description"),
    CAMERA: ("cam", "camid"),
    SPLIT: (),
    ID_TEXT: ("id text", "id caption", "id captions"),
    CLOTH_TEXT: ("cloth text", "clothing caption", "clothing captions", "cloth caption", "cloth captions"),
}
_COLUMNS = {name: column for column, more in _SPELLINGS.items() for name in (column.replace("_", " "), *more)}
_TEXTS = (CAPTION, ID_TEXT, CLOTH_TEXT)
_ALL_OR_NONE = {
    IDENTITY: "if each image shows somebody else",
    SPLIT: "to have the people divided for you",
}
_DELIMITERS = ",;\t"
_SUFFIXES = {".csv": False, ".tsv": False, ".jsonl": True, ".ndjson": True}


class TableRow(NamedTuple):
    """One row; the texts are as written, the rest without blanks around it, "" where nothing is given."""

    line: int
    image: str
    identity: str
    camera: str
    split: str
    captions: tuple[str, ...]
    id_texts: tuple[str, ...]  # one a caption, or none
    cloth_texts: tuple[str, ...]


class Table(NamedTuple):
    """A table's rows, and which columns it has."""

    file: Path
    columns: frozenset[str]
    rows: list[TableRow]


def read_table(file: Path, ignore: Sequence[str] = ()) -> Table:
    """The rows of a table in its order, without the columns named in ``ignore``.

    Raises:
        DataError: for a file that is not there, of another kind or not in UTF-8; for columns that are unknown, double
            or missing; for cells that are empty or of the wrong type. The message names file, line and value.
    """
    if file.suffix.lower() not in _SUFFIXES:
        raise DataError(f"'{file}': a table is one of {', '.join(_SUFFIXES)}, by the end of its name")
    text = _decode(file)
    records = _json_records(text, file, ignore) if _SUFFIXES[file.suffix.lower()] else _csv_records(text, file, ignore)
    columns: set[str] = set()
    rows = []
    for line, cells in records:
        columns.update(cells)
        rows.append(_row(line, cells, f"'{file}', line {line}"))
    if not rows:
        raise DataError(f"'{file}' has no rows; one row is an image with a caption")
    for column, otherwise in _ALL_OR_NONE.items():
        gaps = [row.line for row in rows if not getattr(row, column)] if column in columns else []
        if gaps:
            lines = f"line{'s' * (len(gaps) > 1)} {', '.join(map(str, gaps[:5]))}{', …' * (len(gaps) > 5)}"
            raise DataError(
                f"'{file}', {lines}: the column '{column}' is empty in {len(gaps)} of {len(rows)} rows; fill it, or "
                f"leave the whole column out {otherwise}"
            )
    return Table(file, frozenset(columns), rows)


def _decode(file: Path) -> str:
    try:
        content = read_bytes(file)
    except OSError as error:
        raise DataError(f"cannot read the table '{file}' ({error.strerror})") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(
            f"'{file}', line {line}: not UTF-8 (byte 0x{error.object[error.start]:02x}); save the table as UTF-8, "
            "in Excel as 'CSV UTF-8'"
        ) from error


def _csv_records(text: str, file: Path, ignore: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """First line and cells of each record."""
    # A header tells its delimiter better than texts full of commas do.
    delimiter = max(_DELIMITERS, key=lambda mark: _known_columns(text, mark, file))
    header: list[str | None] | None = None
    for line, cells in _filled(text, delimiter, file):
        if header is None:
            header = _match(cells, ignore, f"'{file}', line {line}")
            for needed in (IMAGE, CAPTION):
                if needed not in header:
                    raise DataError(f"'{file}', line {line}: no column '{needed}' (found {_quoted(cells)})")
            continue
        if len(cells) != len(header):
            raise DataError(
                f"'{file}', line {line}: {len(cells)} cells for {len(header)} columns; a text with a "
                f"{delimiter!r} or a line break in it needs double quotes around it"
            )
        yield line, {column: cell for column, cell in zip(header, cells) if column}


def _known_columns(text: str, delimiter: str, file: Path) -> int:
    try:
        _, header = next(_filled(text, delimiter, file), (1, []))
    except DataError:  # quotes that make no sense with this delimiter
        return -1
    return sum(_plain(name) in _COLUMNS for name in header)


def _filled(text: str, delimiter: str, file: Path) -> Iterator[tuple[int, list[str]]]:
    """Records that are not blank, with the line that each begins on."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"'{file}', line {line}: not valid CSV ({error}); a text with quotes in it needs double quotes "
                'around it, and two for each of its own: "a ""red"" coat"'
            ) from error
        if cells is None:
            return
        if any(cell.strip() for cell in cells):  # spreadsheets leave rows of empty cells at the end
            yield line, cells


def _json_records(text: str, file: Path, ignore: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    # Not splitlines(), which also splits at characters that JSON allows inside a text.
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        where = f"'{file}', line {line}"
        try:
            record = parse_json(content)
        except ValueError as error:
            what = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            raise DataError(f"{where}: not valid JSON ({what}); each line is an object of its own") from error
        if not isinstance(record, dict):
            raise DataError(f'{where}: expected an object such as {{"image": "a.jpg", "caption": "…"}}')
        columns = _match(list(record), ignore, where)
        values = ("" if value is None else value for value in record.values())
        yield line, {column: value for column, value in zip(columns, values) if column}


def _match(names: Sequence[str], ignore: Sequence[str], where: str) -> list[str | None]:
    """Our columns for the table's names; None for those to ignore."""
    ignored = {_plain(name) for name in ignore}
    columns = [None if _plain(name) in ignored else _COLUMNS.get(_plain(name), "") for name in names]
    if "" in columns:
        raise DataError(
            f"{where}: unknown column {names[columns.index('')]!r}; valid: {', '.join(_SPELLINGS)}. "
            "Leave it out with --ignore-column NAME"
        )
    for column in columns:
        if column and columns.count(column) > 1:
            double = [name for name, found in zip(names, columns) if found == column]
            raise DataError(f"{where}: the columns {_quoted(double)} all mean '{column}'; keep one")
    return columns


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _row(line: int, cells: Mapping[str, Any], where: str) -> TableRow:
    for needed in (IMAGE, CAPTION):
        if needed not in cells:
            raise DataError(f"{where}: no '{needed}' (found {_quoted(list(cells))})")
    image, identity, camera, split = (_label(cells, column, where) for column in (IMAGE, IDENTITY, CAMERA, SPLIT))
    if not image:
        raise DataError(f"{where}: the column 'image' is empty")
    captions, id_texts, cloth_texts = (_texts(cells, column, where) for column in _TEXTS)
    for column, texts in ((ID_TEXT, id_texts), (CLOTH_TEXT, cloth_texts)):
        if texts and len(texts) != len(captions):
            raise DataError(f"{where}: {len(texts)} texts in '{column}' for {len(captions)} captions")
    return TableRow(line, image, identity, camera, _split(split, where), captions, id_texts, cloth_texts)


def _label(cells: Mapping[str, Any], column: str, where: str) -> str:
    value = cells.get(column, "")
    numbers = column in (IDENTITY, CAMERA)
    if numbers and type(value) is int:  # true and false are int to isinstance
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"{where}: {column} {short_repr(value)} is no text{' or whole number' if numbers else ''}")
    return _whole(value, column, where).strip()


def _texts(cells: Mapping[str, Any], column: str, where: str) -> tuple[str, ...]:
    """The texts of a cell, untouched; an empty identity or clothing text is none."""
    values = cells.get(column, [])
    if isinstance(values, str):
        values = [values] if values.strip() or column == CAPTION else []
    if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
        raise DataError(f"{where}: {column} {short_repr(values)} is no text or list of texts")
    if not all(text.strip() for text in values) or (column == CAPTION and not values):
        raise DataError(f"{where}: the column '{column}' is empty")
    return tuple(_whole(text, column, where) for text in values)


def _split(split: str, where: str) -> str:
    name = split.lower()
    if not name or name in SPLITS:
        return name
    if name in ("query", "gallery"):
        raise DataError(
            f"{where}: split {short_repr(split)} is not used here; use test for both: each caption of the test images "
            "is a query, the images are the gallery"
        )
    raise DataError(f"{where}: split {short_repr(split)} is none of {', '.join(SPLITS)}")


def _whole(text: str, column: str, where: str) -> str:
    problem = text_problem(text)
    if problem:
        raise DataError(f"{where}: {column} {short_repr(text)} {problem}")
    return text
