"""Groups the rows of a user's table by image, checks them, and assigns each identity to a split."""

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
    """All rows of one image, which agree on identity, camera and split."""

    path: str  # relative to the folder of images, with forward slashes
    identity: str
    rows: tuple[TableRow, ...]


def collect_photos(table: Table, folder: Path) -> list[TablePhoto]:
    """The table's rows by image, in order of first appearance.

    Raises:
        DataError: for an image outside ``folder``, and for rows of an image that disagree; the message names the lines.
    """
    rows: dict[str, list[TableRow]] = {}
    bases = dict.fromkeys((os.path.abspath(folder), os.path.realpath(folder)))
    for row in table.rows:
        path = _relative_path(row.image, bases)
        if path is None:
            raise DataError(
                f"'{table.file}', line {row.line}: image {row.image!r} is not inside '{folder}'; "
                "write it relative to that folder, or choose another one with --images"
            )
        rows.setdefault(path, []).append(row)
    for path, own in rows.items():
        for row in own[1:]:
            _check_agreement(own[0], row, f"'{table.file}', lines {own[0].line} and {row.line}: image {path!r} has")
    has_identity = IDENTITY in table.columns
    return [TablePhoto(path, own[0].identity if has_identity else path, tuple(own)) for path, own in rows.items()]


def check_files(photos: Sequence[TablePhoto], folder: Path, file: Path) -> None:
    """Checks that all images of the table ``file`` are in ``folder`` and begin like images.

    Raises:
        DataError: naming the first of them and their number.
    """
    if not folder.is_dir():
        raise DataError(f"--images '{folder}' is not a folder")
    paths = {os.path.join(folder, photo.path): photo for photo in photos}
    missing = [paths[path] for path in missing_images(paths)]
    if missing:
        names = ", ".join(f"{photo.path!r} (line {photo.rows[0].line})" for photo in missing[:3])
        # A frequent mistake: paths that begin with the folder's own name.
        hint = f"; did you mean --images '{folder.parent}'?" if (folder.parent / missing[0].path).is_file() else ""
        raise DataError(
            f"'{file}': {len(missing)} of {len(photos)} images are missing in '{folder}': "
            f"{names}{', …' * (len(missing) > 3)}{hint}"
        )
    try:
        check_images(list(paths))
    except DataError as error:
        raise DataError(f"'{file}': {error}; remove it from the table or save it as JPEG or PNG") from error


def given_splits(photos: Sequence[TablePhoto], file: Path) -> dict[str, str]:
    """The split of each identity as given in the table ``file``.

    Raises:
        DataError: for an identity in two splits; the message names the lines.
    """
    first: dict[str, TableRow] = {}
    for photo in photos:
        row = photo.rows[0]
        other = first.setdefault(photo.identity, row)
        if other.split != row.split:
            raise DataError(
                f"'{file}', lines {other.line} and {row.line}: identity {photo.identity!r} is in the splits "
                f"{other.split} and {row.split}; an identity seen in training must not be tested on"
            )
    return {identity: row.split for identity, row in first.items()}


def drawn_splits(photos: Sequence[TablePhoto], val_share: float, test_share: float, seed: int) -> dict[str, str]:
    """A random split of the identities, which depends on the seed and the identities alone."""
    identities = sorted({photo.identity for photo in photos})
    total = len(identities)
    # With few identities test gets the first one, train the second and val the third.
    test = min(max(1, round(total * test_share)), total - 1)
    val = min(max(int(val_share > 0), round(total * val_share)), max(0, total - 1 - test))
    names = ["test"] * test + ["val"] * val + ["train"] * (total - test - val)
    order = np.random.default_rng(seed).permutation(total)
    return {identities[place]: name for place, name in zip(order, names)}


def _relative_path(image: str, bases: Iterable[str]) -> str | None:
    """The image's path relative to its folder, None if it is elsewhere; ``bases`` are absolute paths of the folder."""
    name = image.replace("\\", "/")
    if re.match("[A-Za-z]:/", name) and os.name != "nt":
        return None
    for base in bases:
        path = os.path.normpath(os.path.join(base, name))
        if path.startswith(os.path.join(base, "")):
            return os.path.relpath(path, base).replace(os.sep, "/")
    return None


def _check_agreement(first: TableRow, row: TableRow, where: str) -> None:
    for column in ("identity", "camera", "split"):
        one, other = getattr(first, column), getattr(row, column)
        if one != other:
            raise DataError(f"{where} the {column} {one!r} and {other!r}; keep one")
    pairs = {ID_TEXT: (first.id_texts, row.id_texts), CLOTH_TEXT: (first.cloth_texts, row.cloth_texts)}
    for column, (texts, others) in pairs.items():
        if bool(texts) != bool(others):
            raise DataError(f"{where} '{column}' in one of them only; give it for each caption or for none")
