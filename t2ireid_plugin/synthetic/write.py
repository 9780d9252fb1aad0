"""Writes drawn people as a CUHK-PEDES folder: images, `reid_raw.json` and the true attributes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.synthetic import chinese, sentences
from t2ireid_plugin.synthetic.attributes import Person
from t2ireid_plugin.synthetic.cameras import CAMERAS, Camera
from t2ireid_plugin.synthetic.drawing import draw_person
from t2ireid_plugin.synthetic.folder import FOLDER, FORMAT, read_json
from t2ireid_plugin.synthetic.layouts import write_layouts
from t2ireid_plugin.synthetic.outfits import MAX_OUTFITS, outfit_of, sample_cast
from t2ireid_plugin.synthetic.sentences import Caption
from t2ireid_plugin.synthetic.shot import Shot, plan_shot, visible_attributes
from t2ireid_plugin.utils.atomic_io import atomic_folder
from t2ireid_plugin.utils.progress import show_progress
from t2ireid_plugin.utils.text import CJK

DESCRIBE = {"en": sentences.describe, "zh": chinese.describe}  # by language of the captions
_TOKEN = re.compile(rf"[{CJK}]|[^\s,.，。、{CJK}]+")  # a word of English, or one Chinese character


class Photo(NamedTuple):
    """One photo with its captions, before it is written."""

    outfit: int  # among the person's outfits, from 0
    person: Person
    camera: Camera
    shot: Shot
    image: np.ndarray  # uint8 BGR [H, W, 3]
    visible: frozenset[str]  # attributes
    captions: list[Caption]


def write_synthetic(
    out: str | os.PathLike,
    *,
    train_ids: int = 1000,
    val_ids: int = 100,
    test_ids: int = 100,
    photos: int = 6,
    captions: int = 2,
    cameras: int = 6,
    seed: int = 0,
    outfits: int = 1,
    train_outfits: int = 1,
    language: str = "en",
    layouts: Sequence[str] = (),
    progress: bool = True,
) -> None:
    """Writes `OUT/CUHK-PEDES` with `photos` images per person and `captions` sentences per image.

    The sentences are English (`language` ``en``) or Chinese (``zh``); attributes have the same names in both.
    Test people wear `outfits` one after the other, those of train and val `train_outfits`, see `sample_cast`; each
    photo's captions and attributes are those of its outfit, whose number is the annotation's `outfit`. With several
    outfits the official text-to-image protocol means little: a match is an equal identity, and most matches of a
    caption wear something else than it says; `probing.cross_outfit` has the protocols for such a set. The number of
    test outfits changes no byte of train and val.

    `layouts` names benchmarks of people who change clothes, in whose layouts the same people are also written, see
    `synthetic.layouts`.

    A folder that is complete already is left unchanged. The same arguments give the same bytes, and the first people do
    not depend on how many follow.

    Raises:
        ConfigError: when another process is drawing into the same folder.
        DataError: for an argument out of range, for a folder that was not written with these arguments, and when it
            cannot be written; nothing is left of it then.
    """
    arguments: dict[str, Any] = {
        "train_ids": train_ids, "val_ids": val_ids, "test_ids": test_ids,
        "photos": photos, "captions": captions, "cameras": cameras, "seed": seed,
        "outfits": outfits, "train_outfits": train_outfits,
    }  # fmt: skip
    _check(arguments)
    if language not in DESCRIBE:
        raise DataError(f"language: '{language}' must be one of {', '.join(DESCRIBE)}")
    arguments["language"] = language
    root = Path(out) / FOLDER
    if not root.exists():
        with atomic_folder(root, "OUT") as draft:
            _write_all(draft, arguments, progress)
    try:
        recorded = read_json(root / "synthetic.json")
    except DataError:
        raise DataError(f"'{root}' exists without drawn people; choose another folder or remove it") from None
    if recorded != _recorded(arguments):
        raise DataError(f"'{root}' was drawn with other arguments ({recorded}); choose another folder or remove it")
    write_layouts(Path(out), layouts)


def draw_photos(outfits: list[Person], arguments: Mapping[str, Any]) -> Iterator[Photo]:
    """Draws and describes the photos of one person; the order of the random numbers is part of the format.

    Args:
        outfits: the person in each outfit.
        arguments: those of `write_synthetic`.
    """
    rng = np.random.default_rng((arguments["seed"], outfits[0].pid, 1))
    cameras = rng.permutation(arguments["cameras"])
    describe = DESCRIBE[arguments.get("language", "en")]
    for number in range(arguments["photos"]):
        outfit = outfit_of(number, arguments["photos"], len(outfits))
        person, camera = outfits[outfit], CAMERAS[cameras[number % len(cameras)]]
        shot = plan_shot(camera.crop_heights, rng)
        image = draw_person(person, camera, rng, shot)
        visible = visible_attributes(person, shot)
        captions = [describe(person, visible, rng) for _ in range(arguments["captions"])]
        yield Photo(outfit, person, camera, shot, image, visible, captions)


def _check(arguments: Mapping[str, int]) -> None:
    low = dict.fromkeys(("photos", "captions", "cameras", "outfits", "train_outfits"), 1)
    outfits = min(MAX_OUTFITS, arguments["photos"])
    high = {"cameras": len(CAMERAS), "outfits": outfits, "train_outfits": outfits}
    for name, value in arguments.items():
        if value < low.get(name, 0):
            raise DataError(f"{name}: {value} must be at least {low.get(name, 0)}")
        if value > high.get(name, value):
            raise DataError(f"{name}: {value} must be at most {high[name]}")
    if not arguments["train_ids"] + arguments["val_ids"] + arguments["test_ids"]:
        raise DataError("train_ids, val_ids and test_ids are all 0; set at least one of them")


def _recorded(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Content of `synthetic.json`; it omits a single outfit and English, as did versions without these arguments.

    Versions whose annotation did not number several outfits had no key `annotation`.
    """
    defaults = {"outfits": 1, "train_outfits": 1, "language": "en"}
    kept = {name: value for name, value in arguments.items() if value != defaults.get(name)}
    several = {"annotation": 2} if max(arguments["outfits"], arguments["train_outfits"]) > 1 else {}
    return {"format": FORMAT, **kept, **several}


def _write_all(draft: Path, arguments: Mapping[str, Any], progress: bool) -> None:
    cast = sample_cast(arguments)
    changes_clothes = max(arguments["outfits"], arguments["train_outfits"]) > 1
    rows, people, photos = [], {}, {}
    for split, outfits in show_progress(cast, len(cast), "drawing people", "person", progress):
        clothing = [asdict(person.clothing) for person in outfits]
        worn = {"outfits": clothing} if changes_clothes else {"clothing": clothing[0]}
        people[str(outfits[0].pid)] = {"identity": asdict(outfits[0].identity), **worn}
        for number, photo in enumerate(draw_photos(outfits, arguments)):
            camera, prefix = photo.camera, "train" if split == "train" else "test"
            place = f"{prefix}_query" if camera.folder == "query" else camera.folder
            path = f"{place}/{photo.person.pid:05d}_c{camera.index}_{number:02d}.jpg"
            file = draft / "imgs" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            _, jpeg = cv2.imencode(".jpg", photo.image, [cv2.IMWRITE_JPEG_QUALITY, camera.quality])
            file.write_bytes(jpeg.tobytes())
            outfit = {"outfit": photo.outfit}
            rows.append(_annotation(photo, split, path) | (outfit if len(outfits) > 1 else {}))
            photos[path] = {"id": photo.person.pid, **(outfit if changes_clothes else {}), **_truth(photo)}
    contents = {"reid_raw": rows, "attributes": {"people": people, "photos": photos}, "synthetic": _recorded(arguments)}
    for name, content in contents.items():
        (draft / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def _annotation(photo: Photo, split: str, path: str) -> dict[str, Any]:
    """A row of `reid_raw.json`."""
    texts = [caption.text for caption in photo.captions]
    return {
        "split": split,
        "captions": texts,
        "file_path": path,
        "processed_tokens": [_TOKEN.findall(text.lower()) for text in texts],
        "id": photo.person.pid,
        "id_captions": [caption.identity for caption in photo.captions],
        "cloth_captions": [caption.clothing for caption in photo.captions],
    }


def _truth(photo: Photo) -> dict[str, Any]:
    """A photo's entry in `attributes.json`."""
    return {
        "camera": photo.camera.index,
        "viewpoint": "back" if photo.shot.back else "front",
        "occlusion": photo.shot.occlusion,
        "visible": sorted(photo.visible),
        "mentioned": [caption.mentioned for caption in photo.captions],
        "phrases": [
            {"identity": caption.identity_phrases, "clothing": caption.clothing_phrases} for caption in photo.captions
        ],
    }
