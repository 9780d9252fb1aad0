"""Reads a user's table of images, identities and captions: CSV, TSV or JSON lines, validated cell by cell."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from t2ireid_plugin.data.benchmarks import SPLITS
from t2ireid_plugin.errors import DataError, short_repr
from t2ireid_plugin.utils.safe_io import decode_utf8, parse_json, read_bytes, text_problem

IMAGE, IDENTITY, CAPTION, CAMERA, SPLIT = "image", "identity", "caption", "camera", "split"
ID_TEXT, CLOTH_TEXT = "identity_text", "clothing_text"
# Aliases of each column; case does not matter, and "_", "-" and spaces are equivalent.
_ALIASES = {
    IMAGE: (
        *("file", "path", "file path", "img path", "image path", "file name"),
        *("图片", "图像", "照片", "文件", "文件名", "路径", "图片路径"),
    ),
    IDENTITY: ("id", "pid", "person", "编号", "身份", "行人", "人员", "行人编号", "人员编号", "身份编号"),
    CAPTION: ("captions", "text", "description", "描述", "文本", "句子", "文本描述", "文字描述"),
    CAMERA: ("cam", "camid", "摄像头", "相机", "摄像头编号", "相机编号"),
    SPLIT: ("划分", "数据划分", "数据集划分"),
    ID_TEXT: ("id text", "id caption", "id captions", "身份描述"),
    CLOTH_TEXT: (
        *("cloth text", "clothing caption", "clothing captions", "cloth caption", "cloth captions"),
        *("衣着描述", "服装描述"),
    ),
}
_SPLIT_NAMES = {"训练": "train", "训练集": "train", "验证": "val", "验证集": "val", "测试": "test", "测试集": "test"}
_COLUMNS = {name: column for column, more in _ALIASES.items() for name in (column.replace("_", " "), *more)}
# Columns without gaps, and the effect of leaving the column out.
_COMPLETE = {IDENTITY: "if each image shows a different person", SPLIT: "to have the identities split at random"}
_DELIMITERS = ",;\t"
_IS_JSON = {".csv": False, ".tsv": False, ".jsonl": True, ".ndjson": True}  # by suffix


class TableRow(NamedTuple):
    """One row; texts are verbatim, other cells stripped, and "" where a cell is empty."""

    line: int
    image: str
    identity: str
    camera: str
    split: str
    texts: list[tuple[str, str, str]]  # captions with their identity and clothing texts


class Table(NamedTuple):
    """The rows of a table, and the columns it has."""

    file: Path
    columns: frozenset[str]
    rows: list[TableRow]


def read_table(file: Path, ignore: Sequence[str] = ()) -> Table:
    """The rows of a table in order, without the columns named in ``ignore``.

    Raises:
        DataError: for a file that is missing, of an unknown type or not UTF-8; for unknown, duplicate or missing
            columns; for cells that are empty (a caption may be) or of the wrong type. The message names file, line and
            value.
    """
    suffix = file.suffix.lower()
    if suffix not in _IS_JSON:
        raise DataError(f"'{file}': unknown type of table; use one of {', '.join(_IS_JSON)}")
    text = _decode(file)
    columns: set[str] = set()
    rows = []
    for line, cells in (_json_records if _IS_JSON[suffix] else _csv_records)(text, file, ignore):
        columns.update(cells)
        rows.append(_parse_row(line, cells, f"'{file}', line {line}"))
    if not rows:
        raise DataError(f"'{file}' has no rows; add one row per image and caption")
    for column, effect in _COMPLETE.items():
        gaps = [row.line for row in rows if not getattr(row, column)] if column in columns else []
        if gaps:
            raise DataError(
                f"'{file}', line {gaps[0]}: the column '{column}' is empty in {len(gaps)} of {len(rows)} rows; "
                f"fill it, or leave the whole column out {effect}"
            )
    return Table(file, frozenset(columns), rows)


def _decode(file: Path) -> str:
    try:
        content = read_bytes(file)
    except OSError as error:
        raise DataError(f"cannot read the table '{file}' ({error.strerror})") from error
    try:
        return decode_utf8(content)
    except ValueError as error:
        raise DataError(f"'{file}', {error}, in Excel as 'CSV UTF-8'") from error


def _csv_records(text: str, file: Path, ignore: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """First line and cells of each record."""
    # The header shows the delimiter more reliably than texts full of commas.
    delimiter = max(_DELIMITERS, key="".join(text.strip().splitlines()[:1]).count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str | None] | None = None
    while True:
        line = reader.line_num + 1
        where = f"'{file}', line {line}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{where}: not valid CSV ({error}); put a text with quotes in double quotes and double "
                'its own: "a ""red"" coat"'
            ) from error
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):  # spreadsheets leave empty rows at the end
            continue
        if header is None:
            header = _match_columns(cells, ignore, where)
            continue
        if len(cells) != len(header):
            raise DataError(
                f"{where}: {len(cells)} cells for {len(header)} columns; put texts that contain {delimiter!r} or a "
                "line break in double quotes"
            )
        yield line, {column: cell for column, cell in zip(header, cells) if column}


def _json_records(text: str, file: Path, ignore: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, content in enumerate(text.split("\n"), 1):  # splitlines() also splits at characters inside texts
        if not content.strip():
            continue
        where = f"'{file}', line {line}"
        try:
            record = parse_json(content)
        except ValueError as error:
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            raise DataError(f"{where}: not valid JSON ({reason}); write one object per line") from error
        if not isinstance(record, dict):
            raise DataError(f'{where}: expected an object such as {{"image": "a.jpg", "caption": "…"}}')
        columns = _match_columns(list(record), ignore, where)
        values = ("" if value is None else value for value in record.values())
        yield line, {column: value for column, value in zip(columns, values) if column}


def _match_columns(names: Sequence[str], ignore: Sequence[str], where: str) -> list[str | None]:
    """Our columns for the table's names; None for ignored ones."""
    ignored = {_normalize(name) for name in ignore}
    columns = [None if _normalize(name) in ignored else _COLUMNS.get(_normalize(name), "") for name in names]
    if "" in columns:
        raise DataError(
            f"{where}: unknown column {names[columns.index('')]!r}; valid: {', '.join(_ALIASES)}. "
            "Skip it with --ignore-column NAME"
        )
    for column in columns:
        if column and columns.count(column) > 1:
            same = [name for name, other in zip(names, columns) if other == column]
            raise DataError(f"{where}: the columns {', '.join(map(repr, same))} all mean '{column}'; keep one")
    if IMAGE not in columns:
        raise DataError(f"{where}: no column '{IMAGE}', only {', '.join(map(repr, names))}")
    return columns


def _normalize(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def _parse_row(line: int, cells: Mapping[str, Any], where: str) -> TableRow:
    image, identity, camera, split = (_label(cells, column, where) for column in (IMAGE, IDENTITY, CAMERA, SPLIT))
    if not image:
        raise DataError(f"{where}: the column 'image' is empty")
    captions = _texts(cells, CAPTION, where)
    columns = [captions]
    for column in (ID_TEXT, CLOTH_TEXT):
        texts = _texts(cells, column, where)
        if texts and len(texts) != len(captions):
            raise DataError(f"{where}: {len(texts)} texts in '{column}' for {len(captions)} captions")
        columns.append(texts or [""] * len(captions))
    split = _SPLIT_NAMES.get(split, split)
    if split and split.lower() not in SPLITS:
        hint = "; use test for both" if split.lower() in ("query", "gallery") else ""
        raise DataError(f"{where}: split {short_repr(split)} must be one of {', '.join(SPLITS)}{hint}")
    return TableRow(line, image, identity, camera, split.lower(), list(zip(*columns)))


def _label(cells: Mapping[str, Any], column: str, where: str) -> str:
    value = cells.get(column, "")
    if column in (IDENTITY, CAMERA) and type(value) is int:  # bool is a subclass of int
        return str(value)
    if not isinstance(value, str):
        integer = " or an integer" if column in (IDENTITY, CAMERA) else ""
        raise DataError(f"{where}: {column} {short_repr(value)} must be a string{integer}")
    return _check_text(value, column, where).strip()


def _texts(cells: Mapping[str, Any], column: str, where: str) -> list[str]:
    """The texts of a cell, verbatim; none for an empty cell."""
    values = cells.get(column, [])
    if isinstance(values, str):
        values = [values] if values.strip() else []
    if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
        raise DataError(f"{where}: {column} {short_repr(values)} must be a string or a list of strings")
    if not all(text.strip() for text in values):
        raise DataError(f"{where}: the column '{column}' is empty")
    return [_check_text(text, column, where) for text in values]


def _check_text(text: str, column: str, where: str) -> str:
    if problem := text_problem(text):
        raise DataError(f"{where}: {column} {short_repr(text)} {problem}")
    return text
