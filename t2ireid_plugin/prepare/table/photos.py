"""Groups the rows of a user's table by image, checks them, and assigns each identity to a split."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from t2ireid_plugin.data.image_files import ImageFolder, plain_name
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.prepare.table.table import CLOTH_TEXT, ID_TEXT, IDENTITY, Table, TableRow


class TablePhoto(NamedTuple):
    """All rows of one image, which agree on identity, camera and split."""

    path: str  # in the dataset, relative to its folder of images, with forward slashes
    identity: str
    source: str  # the user's file
    row: TableRow  # the first
    texts: dict[str, tuple[str, str, str]]  # of all rows, by caption; empty for a photo of the gallery alone


def collect_photos(table: Table, folder: Path) -> list[TablePhoto]:
    """The table's rows by image file, in order of first appearance; a repeated caption of an image counts once.

    Raises:
        DataError: for an image that is missing or outside ``folder``, and for rows of an image that disagree; the
            message names the lines.
    """
    if not folder.is_dir():
        raise DataError(f"--images '{folder}' is not a folder")
    names = []
    bases = dict.fromkeys((os.path.abspath(folder), os.path.realpath(folder)))
    for row in table.rows:
        name = _relative_path(row.image, bases)
        if name is None:
            raise DataError(
                f"'{table.file}', line {row.line}: image {row.image!r} is not inside '{folder}'; "
                "write it relative to that folder, or choose another one with --images"
            )
        names.append(name)
    photos: dict[str, TablePhoto] = {}
    for file, row in zip(ImageFolder(folder).find_all(names, table.file), table.rows):
        path = plain_name(os.path.relpath(file, folder))
        identity = row.identity if IDENTITY in table.columns else path
        photo = photos.setdefault(path, TablePhoto(path, identity, file, row, {}))
        _check_agreement(photo, row, f"'{table.file}', lines {photo.row.line} and {row.line}: image {path!r} has")
        for texts in row.texts:
            photo.texts.setdefault(texts[0], texts)
    return list(photos.values())


def given_splits(photos: Sequence[TablePhoto], file: Path) -> dict[str, str]:
    """The split of each identity as given in the table ``file``.

    Raises:
        DataError: for an identity in two splits; the message names the lines.
    """
    first: dict[str, TableRow] = {}
    for photo in photos:
        row = photo.row
        other = first.setdefault(photo.identity, row)
        if other.split != row.split:
            raise DataError(
                f"'{file}', lines {other.line} and {row.line}: identity {photo.identity!r} is in the splits "
                f"{other.split} and {row.split}; an identity seen in training must not be tested on"
            )
    return {identity: row.split for identity, row in first.items()}


def drawn_splits(photos: Sequence[TablePhoto], val_share: float, test_share: float, seed: int) -> dict[str, str]:
    """A random split of the identities, which depends on the seed and the identities alone.

    Identities without a caption are in test, where they enlarge the gallery.
    """
    described = {photo.identity for photo in photos if photo.texts}
    undescribed = {photo.identity for photo in photos} - described
    identities = sorted(described)
    total = len(identities)
    # With few identities test gets the first one, train the second and val the third.
    test = min(max(1, round(total * test_share)), total - 1)
    val = min(max(int(val_share > 0), round(total * val_share)), max(0, total - 1 - test))
    names = ["test"] * test + ["val"] * val + ["train"] * (total - test - val)
    order = np.random.default_rng(seed).permutation(total)
    return {identities[place]: name for place, name in zip(order, names)} | dict.fromkeys(undescribed, "test")


def _relative_path(image: str, bases: Iterable[str]) -> str | None:
    """The image's path relative to its folder, None if it is elsewhere; ``bases`` are absolute paths of the folder."""
    name = image.replace("\\", "/")
    for base in bases:
        path = os.path.normpath(os.path.join(base, name))
        if path.startswith(os.path.join(base, "")):
            return os.path.relpath(path, base)
    return None


def _check_agreement(photo: TablePhoto, row: TableRow, where: str) -> None:
    for column in ("identity", "camera", "split"):
        one, other = getattr(photo.row, column), getattr(row, column)
        if one != other:
            raise DataError(f"{where} the {column} {one!r} and {other!r}; keep one")
    for texts, others in zip([*photo.texts.values()][:1], row.texts):
        for column, one, other in zip((ID_TEXT, CLOTH_TEXT), texts[1:], others[1:]):
            if bool(one) != bool(other):
                raise DataError(f"{where} '{column}' in one of them only; give it for each caption or for none")
