"""A picture of the drawn people for the documentation."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import cv2
import numpy as np

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.utils.safe_io import parse_json, read_bytes

TILE_HEIGHT, TILE_WIDTH = 200, 92
LINE_HEIGHT, FONT_SCALE = 15, 0.36


def contact_sheet(
    root: str | os.PathLike, path: str | os.PathLike, ids: int = 12, *, photos: int = 6, columns: int = 2
) -> Path:
    """Write a PNG of the first `ids` people, a row of up to `photos` images each with one caption below.

    `root` is the folder that holds `CUHK-PEDES`. Raises DataError when it cannot be read or written.
    """
    folder = Path(root) / "CUHK-PEDES"
    try:
        rows = parse_json(read_bytes(folder / "reid_raw.json"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / 'reid_raw.json'} cannot be read: {error}") from None
    people: dict[int, list[dict]] = {}
    for row in rows:
        people.setdefault(row["id"], []).append(row)
    bands = [_band(folder / "imgs", people[pid][:photos], photos) for pid in sorted(people)[:ids]]
    if not bands:
        raise DataError(f"{folder / 'reid_raw.json'} holds nobody")
    blank = np.full_like(bands[0], 255)
    bands += [blank] * (-len(bands) % columns)
    lines = [np.hstack(bands[i : i + columns]) for i in range(0, len(bands), columns)]
    if not cv2.imwrite(str(path), np.vstack(lines)):
        raise DataError(f"{path} cannot be written")
    return Path(path)


def _band(images: Path, rows: list[dict], photos: int) -> np.ndarray:
    """One person's photos [H, W, 3] with the first photo's first caption below."""
    tiles = []
    for row in rows:
        image = cv2.imread(str(images / row["file_path"]))
        if image is None:
            raise DataError(f"{images / row['file_path']} cannot be read")
        interpolation = cv2.INTER_AREA if image.shape[0] > TILE_HEIGHT else cv2.INTER_CUBIC
        tile = cv2.resize(image, (TILE_WIDTH, TILE_HEIGHT), interpolation=interpolation)
        tiles.append(cv2.copyMakeBorder(tile, 3, 3, 3, 3, cv2.BORDER_CONSTANT, value=(255, 255, 255)))
    tiles += [np.full_like(tiles[0], 255)] * (photos - len(tiles))
    strip = np.hstack(tiles)
    lines = textwrap.wrap(rows[0]["captions"][0], strip.shape[1] // 6)
    text = np.full((3 * LINE_HEIGHT + 10, strip.shape[1], 3), 255, np.uint8)
    for number, line in enumerate(lines[:3]):
        at = (6, LINE_HEIGHT * (number + 1) - 2)
        cv2.putText(text, line, at, cv2.FONT_HERSHEY_SIMPLEX, FONT_SCALE, (40, 40, 40), 1, cv2.LINE_AA)
    band = np.vstack([strip, text])
    return cv2.copyMakeBorder(band, 4, 0, 8, 8, cv2.BORDER_CONSTANT, value=(255, 255, 255))
