"""Where a drawn person's head, garments and bare skin are in the written photo.

The drawing code knows shapes and colours, but no parts. So the figure is drawn once in set colours and once more for
each part with only that part's colours exchanged: where the two differ, the part is. That is exact on the drawing's
canvas. In the written photo, a shrunk and blurred one, a pixel belongs to the part that covers most of it, which
leaves about a pixel of doubt along the edges.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from t2ireid_plugin.data.transforms import read_pixels
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.synthetic.attributes import Person
from t2ireid_plugin.synthetic.cameras import CAMERAS
from t2ireid_plugin.synthetic.drawing import draw_figure, draw_person
from t2ireid_plugin.synthetic.outfits import outfit_of, sample_cast
from t2ireid_plugin.synthetic.sentences import describe
from t2ireid_plugin.synthetic.shot import CANVAS_HEIGHT, Shot, plan_shot, visible_attributes
from t2ireid_plugin.synthetic.write import FORMAT
from t2ireid_plugin.utils.safe_io import parse_json, read_bytes

Labels = npt.NDArray[np.uint8]  # [H, W], indices into PARTS
Mask = npt.NDArray[np.bool_]  # [H, W]

# Head is face, ears, hair and glasses, without a hat; upper includes what an open jacket shows, and a dress; skin is
# bare neck, hands, arms and legs; an occluder and the shadow belong to the background.
PARTS = ("background", "head", "hat", "upper", "lower", "shoes", "bag", "skin")
GARMENTS = ("upper", "lower", "shoes", "bag")

# The two colours of each attribute. Every tone that is made of the first must differ from the one made of the second.
_COLOURS = {
    "skin": {"skin": ("light", "dark")},
    "head": {"hair_colour": ("black", "white")},
    "upper": {
        "upper_colour": ("red", "blue"),
        "pattern_colour": ("yellow", "green"),
        "inner_colour": ("purple", "white"),
    },
    "lower": {"lower_colour": ("black", "light blue")},  # both are colours of denim too
    "shoes": {"shoes_colour": ("white", "black")},
    "bag": {"bag_colour": ("orange", "blue")},
    "hat": {"hat_colour": ("orange", "blue")},
}
_CHIN = 0.16  # body heights below the top of the head; skin above it is the head's
_MOST_DIFFERENCE = (
    10.0  # grey levels between a photo and its JPEG, on average; 3 to 6, and 18 and more to another photo
)


class DrawnPhoto(NamedTuple):
    """A written photo and its parts."""

    file_path: str  # as in reid_raw.json
    pid: int
    labels: Labels


def part_labels(person: Person, shot: Shot) -> Labels:
    """The part at each pixel ``[H, W]`` of the photo that `draw_person` makes of them."""
    labels = _figure_labels(person, shot)
    if shot.occluder is not None:
        x0, y0, x1, y1 = (round(value) for value in shot.occluder)
        for thickness in (cv2.FILLED, 4):  # its edge is as thick, and reaches beyond it
            cv2.rectangle(labels, (x0, y0), (x1, y1), PARTS.index("background"), thickness)
    size = round(shot.crop_height * shot.width / CANVAS_HEIGHT), shot.crop_height
    shares = [cv2.resize((labels == i).astype(np.float32), size, interpolation=cv2.INTER_AREA) for i in _indices()]
    return np.argmax(shares, axis=0).astype(np.uint8)


def part_masks(labels: Labels) -> dict[str, Mask]:
    """A mask ``[H, W]`` for each of `PARTS`, and ``garments`` for all of `GARMENTS` together."""
    masks = {name: labels == i for name, i in zip(PARTS, _indices())}
    return {**masks, "garments": np.logical_or.reduce([masks[name] for name in GARMENTS])}


def is_drawn(root: str | Path, folder: str = "CUHK-PEDES") -> bool:
    """Whether a dataset's folder under ``root`` was written by `write_synthetic`, which keeps the attributes there."""
    return (Path(root) / folder / "attributes.json").is_file()


def drawn_photos(root: str | Path, split: str = "test") -> Iterator[DrawnPhoto]:
    """The photos of one split under ``root/CUHK-PEDES``, in the order of their annotations.

    Raises:
        DataError: when the folder was not written by `write_synthetic`, or by another version that drew otherwise,
            or has no such split.
    """
    folder = Path(root) / "CUHK-PEDES"
    made_by, rows = (_read_json(folder / name) for name in ("synthetic.json", "reid_raw.json"))
    if not isinstance(made_by, dict) or made_by.get("format") != FORMAT:
        raise DataError(f"{folder} was drawn by another version; remove it and draw it again")
    cast = sample_cast(made_by)
    paths: dict[int, list[str]] = {}
    for row in rows:
        if row["split"] == split:
            paths.setdefault(row["id"], []).append(row["file_path"])
    if not paths:
        raise DataError(f"{folder} has no photos of the split '{split}'")
    for pid, own in paths.items():
        for file_path, (image, labels) in zip(own, _replay(cast[pid - 1][1], made_by), strict=True):
            written = read_pixels(folder / "imgs" / file_path)[..., ::-1]
            if written.shape != image.shape or cv2.absdiff(written, image).mean() > _MOST_DIFFERENCE:
                raise DataError(f"{folder / 'imgs' / file_path} is not the photo that its arguments give now")
            yield DrawnPhoto(file_path, pid, labels)


def _replay(outfits: list[Person], made_by: dict[str, int]) -> Iterator[tuple[npt.NDArray[np.uint8], Labels]]:
    """Each photo BGR ``[H, W, 3]`` and its labels; takes random numbers in the order in which writing took them."""
    rng = np.random.default_rng((made_by["seed"], outfits[0].pid, 1))
    order = rng.permutation(made_by["cameras"])
    for number in range(made_by["photos"]):
        person = outfits[outfit_of(number, made_by["photos"], len(outfits))]
        camera = CAMERAS[order[number % len(order)]]
        shot = plan_shot(camera.crop_heights, rng)
        image = draw_person(person, camera, rng, shot)
        for _ in range(made_by["captions"]):
            describe(person, visible_attributes(person, shot), rng)
        yield image, part_labels(person, shot)


def _figure_labels(person: Person, shot: Shot) -> Labels:
    """The part at each pixel of the canvas, before occluder and camera."""
    for part in _COLOURS:
        person = _recoloured(person, part, 0)
    figure = draw_figure(person, shot)
    above_chin = np.arange(figure.image.shape[0])[:, None] < figure.pixel((0, _CHIN))[1]
    # What no colour changes lies on the face (eyes, glasses, lips) or on the upper garment (a hood's white strings).
    rest = np.where(above_chin, PARTS.index("head"), PARTS.index("upper"))
    labels = np.where(figure.silhouette() > 0, rest, PARTS.index("background")).astype(np.uint8)
    for part in _COLOURS:
        changed = (draw_figure(_recoloured(person, part, 1), shot).image != figure.image).any(axis=-1)
        labels[changed] = PARTS.index(part)
        if part == "skin":
            labels[changed & above_chin] = PARTS.index("head")
    return labels


def _recoloured(person: Person, part: str, which: int) -> Person:
    """The person with one part in its first or second colours; what is not there stays so."""
    identity, clothing = person.identity, person.clothing
    colours = {name: pair[which] for name, pair in _COLOURS[part].items() if person.attributes()[name] != "none"}
    own = {field.name for field in fields(identity)}
    return replace(
        person,
        identity=replace(identity, **{name: colour for name, colour in colours.items() if name in own}),
        clothing=replace(clothing, **{name: colour for name, colour in colours.items() if name not in own}),
    )


def _indices() -> range:
    return range(len(PARTS))


def _read_json(path: Path) -> Any:
    try:
        return parse_json(read_bytes(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
