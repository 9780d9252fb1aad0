"""Segmentation of drawn photos into head, garments, bare skin and background.

A figure's canvas has the part of each pixel beside its colour. In the written photo, which is smaller and blurred, a
pixel belongs to the part that covers most of it, so the edges are uncertain by about a pixel. Occluder and shadow
belong to the background.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from t2ireid_plugin.data.images import read_pixels
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.synthetic.attributes import Person
from t2ireid_plugin.synthetic.canvas import PARTS
from t2ireid_plugin.synthetic.drawing import draw_figure
from t2ireid_plugin.synthetic.folder import FOLDER, FORMAT, read_json
from t2ireid_plugin.synthetic.outfits import sample_cast
from t2ireid_plugin.synthetic.shot import CANVAS_HEIGHT, Shot
from t2ireid_plugin.synthetic.write import draw_photos

Labels = npt.NDArray[np.uint8]  # [H, W], indices into PARTS
Mask = npt.NDArray[np.bool_]  # [H, W]

GARMENTS = ("upper", "lower", "shoes", "bag")

_CHIN = 0.16  # body heights below the top of the head; skin above it is the head's
# Mean difference between a photo and its JPEG in grey levels; usually 3 to 6, and at least 18 to another photo.
_MAX_DIFFERENCE = 10.0


def part_labels(person: Person, shot: Shot) -> Labels:
    """Part of each pixel ``[H, W]`` of the photo that `draw_person` draws."""
    figure = draw_figure(person, shot)
    labels = figure.image[..., 3].copy()
    above_chin = np.arange(len(labels))[:, None] < figure.pixel((0, _CHIN))[1]
    labels[(labels == PARTS.index("skin")) & above_chin] = PARTS.index("head")
    if shot.occluder is not None:
        x0, y0, x1, y1 = (round(value) for value in shot.occluder)
        for thickness in (cv2.FILLED, 4):  # as drawn: the edge reaches beyond the rectangle
            cv2.rectangle(labels, (x0, y0), (x1, y1), PARTS.index("background"), thickness)
    size = round(shot.crop_height * shot.width / CANVAS_HEIGHT), shot.crop_height
    masks = ((labels == i).astype(np.float32) for i in range(len(PARTS)))
    shares = [cv2.resize(mask, size, interpolation=cv2.INTER_AREA) for mask in masks]
    return np.argmax(shares, axis=0).astype(np.uint8)


def part_masks(labels: Labels) -> dict[str, Mask]:
    """Mask ``[H, W]`` of each of `PARTS`, and ``garments`` for the union of `GARMENTS`."""
    masks = {name: labels == i for i, name in enumerate(PARTS)}
    return {**masks, "garments": np.logical_or.reduce([masks[name] for name in GARMENTS])}


def drawn_photos(root: str | Path, split: str = "test") -> Iterator[tuple[dict[str, Any], Labels]]:
    """Rows of one split of ``root/CUHK-PEDES/reid_raw.json``, each with the segmentation of its photo.

    The photos are drawn again.

    Raises:
        DataError: when the folder was not written by `write_synthetic`, was drawn by another version, or has no such
            split.
    """
    folder = Path(root) / FOLDER
    arguments, rows = (read_json(folder / name, "known body parts") for name in ("synthetic.json", "reid_raw.json"))
    if arguments.get("format") != FORMAT:
        raise DataError(f"'{folder}' was drawn by another version; remove it and draw it again")
    cast = sample_cast(arguments)
    tested = [row for row in rows if row["split"] == split]
    if not tested:
        raise DataError(f"'{folder}' has no photos of the split '{split}'")
    for pid, own in groupby(tested, key=itemgetter("id")):
        for row, photo in zip(own, draw_photos(cast[pid - 1][1], arguments), strict=True):
            file, image = folder / "imgs" / row["file_path"], photo.image
            written = read_pixels(file)[..., ::-1]
            if written.shape != image.shape or cv2.absdiff(written, image).mean() > _MAX_DIFFERENCE:
                raise DataError(f"'{file}' is not the photo that the arguments in synthetic.json give; draw it again")
            yield row, part_labels(photo.person, photo.shot)
