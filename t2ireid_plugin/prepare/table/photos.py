"""Puts the rows of a user's table together: images with their captions, checked, and the split of each identity."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from t2ireid_plugin.data.annotations import check_images, missing_images
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.prepare.table.table import CLOTH_TEXT, ID_TEXT, IDENTITY, Table, TableRow


class TablePhoto(NamedTuple):
    """All rows of one image; the first one's identity, camera and split are everybody's."""

    path: str  # relative to the folder of images, with forward slashes
    identity: str
    rows: tuple[TableRow, ...]


def collect_photos(table: Table, folder: Path) -> list[TablePhoto]:
    """The table's rows by image, in the order in which the images first appear.

    Raises:
        DataError: for an image outside ``folder``, and for rows of an image that disagree; the message names the lines.
    """
    rows: dict[str, list[TableRow]] = {}
    bases = dict.fromkeys((os.path.abspath(folder), os.path.realpath(folder)))
    for row in table.rows:
        path = _inside(row.image, bases)
        if path is None:
            raise DataError(
                f"'{table.file}', line {row.line}: image {row.image!r} is not inside '{folder}'; "
                "write it relative to that folder, or choose another one with --images"
            )
        rows.setdefault(path, []).append(row)
    photos = []
    for path, own in rows.items():
        for row in own[1:]:
            _check_same(own[0], row, path, table.file)
        identity = own[0].identity if IDENTITY in table.columns else path
        photos.append(TablePhoto(path, identity, tuple(own)))
    return photos


def _inside(image: str, bases: Iterable[str]) -> str | None:
    """The image's path relative to its folder; None when it is elsewhere. ``bases`` are names of that folder."""
    name = image.replace("\\", "/")
    if re.match("[A-Za-z]:/", name) and os.name != "nt":
        return None
    for base in bases:
        path = os.path.normpath(os.path.join(base, name))
        if path.startswith(os.path.join(base, "")):
            return os.path.relpath(path, base).replace(os.sep, "/")
    return None


def _check_same(first: TableRow, row: TableRow, path: str, file: Path) -> None:
    """That two rows of one image agree on all but the captions."""
    where = f"'{file}', lines {first.line} and {row.line}: image {path!r} has"
    for column in ("identity", "camera", "split"):
        one, other = getattr(first, column), getattr(row, column)
        if one != other:
            raise DataError(f"{where} the {column} {one!r} and {other!r}; it can have one only")
    for column, one, other in (
        (ID_TEXT, first.id_texts, row.id_texts),
        (CLOTH_TEXT, first.cloth_texts, row.cloth_texts),
    ):
        if bool(one) != bool(other):
            raise DataError(f"{where} '{column}' in one of them only; give it with each of its captions or with none")


def check_files(photos: Sequence[TablePhoto], folder: Path, file: Path) -> None:
    """That all images of the table ``file`` are in ``folder`` and start like images.

    Raises:
        DataError: when not; the message names the first few and how many there are.
    """
    if not folder.is_dir():
        raise DataError(f"--images '{folder}' is no folder")
    paths = {os.path.join(folder, photo.path): photo for photo in photos}
    missing = [paths[path] for path in missing_images(paths)]
    if missing:
        names = ", ".join(f"{photo.path!r} (line {photo.rows[0].line})" for photo in missing[:3])
        # The folder's own name in each path is the most frequent mistake.
        hint = f"; is --images '{folder.parent}' meant?" if (folder.parent / missing[0].path).is_file() else ""
        raise DataError(
            f"'{file}': {len(missing)} of {len(photos)} images are missing in '{folder}': "
            f"{names}{', …' * (len(missing) > 3)}{hint}"
        )
    try:
        check_images(list(paths))
    except DataError as error:
        raise DataError(f"'{file}': {error}; take it out of the table or save it as JPEG or PNG") from error


def given_splits(photos: Sequence[TablePhoto], file: Path) -> dict[str, str]:
    """The split of each identity, from the table ``file``.

    Raises:
        DataError: for an identity in two splits; the message names the lines.
    """
    first: dict[str, TableRow] = {}
    for photo in photos:
        row = photo.rows[0]
        before = first.setdefault(photo.identity, row)
        if before.split != row.split:
            raise DataError(
                f"'{file}', lines {before.line} and {row.line}: identity {photo.identity!r} is in the splits "
                f"{before.split} and {row.split}; a test on people seen in training means nothing"
            )
    return {identity: row.split for identity, row in first.items()}


def drawn_splits(photos: Sequence[TablePhoto], val_share: float, test_share: float, seed: int) -> dict[str, str]:
    """The split of each identity, by a draw that depends on the seed and the identities only."""
    identities = sorted({photo.identity for photo in photos})
    total = len(identities)
    # One at least to test on, then one to train on, then one to choose the checkpoint on, as far as people go.
    test = min(max(1, round(total * test_share)), total - 1)
    val = min(max(int(val_share > 0), round(total * val_share)), max(0, total - 1 - test))
    names = ["test"] * test + ["val"] * val + ["train"] * (total - test - val)
    order = np.random.default_rng(seed).permutation(total)
    return {identities[place]: name for place, name in zip(order, names)}
