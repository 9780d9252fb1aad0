"""Writes drawn people as a CUHK-PEDES folder: images, `reid_raw.json` and the true attributes."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from t2ireid_plugin.data.progress import show_progress
from t2ireid_plugin.data.synthetic.attributes import Person, sample_people
from t2ireid_plugin.data.synthetic.cameras import CAMERAS
from t2ireid_plugin.data.synthetic.drawing import draw_person
from t2ireid_plugin.data.synthetic.sentences import describe
from t2ireid_plugin.data.synthetic.shot import plan_shot, visible_attributes
from t2ireid_plugin.errors import DataError

# Raised when the same arguments no longer give the same bytes, so that an older folder is not taken for it.
FORMAT = 4


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
    progress: bool = True,
) -> dict:
    """Write `OUT/CUHK-PEDES` with `photos` images a person and `captions` sentences an image.

    Returns `{"root", "images", "ids", "captions", "written"}`: the folder, the counts per split, and whether
    anything had to be written. The same arguments give the same bytes, and how many people there are changes
    nothing about the first of them. Raises DataError for an argument out of range and for a folder that
    exists and was not written by these arguments.
    """
    arguments = {
        "train_ids": train_ids, "val_ids": val_ids, "test_ids": test_ids,
        "photos": photos, "captions": captions, "cameras": cameras, "seed": seed,
    }  # fmt: skip
    _check(arguments)
    root = Path(out) / "CUHK-PEDES"
    written = not root.exists()
    if written:
        _write_whole(root, arguments, progress)
    else:
        _require_same(root, arguments)
    ids = {"train": train_ids, "val": val_ids, "test": test_ids}
    return {
        "root": str(root),
        "ids": ids,
        "images": {split: count * photos for split, count in ids.items()},
        "captions": {split: count * photos * captions for split, count in ids.items()},
        "written": written,
    }


def _write_whole(root: Path, arguments: dict[str, int], progress: bool) -> None:
    """All of it or nothing: drawn in a folder next to `root`, which takes its name at the end."""
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".CUHK-PEDES-", dir=root.parent))
    except OSError as error:
        raise DataError(f"{root.parent} cannot be written: {error}") from None
    try:
        _write_all(draft, arguments, progress)
        draft.chmod(0o755)  # mkdtemp's is private to the user
        draft.rename(root)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _check(arguments: dict[str, int]) -> None:
    least = {"train_ids": 0, "val_ids": 0, "test_ids": 0, "photos": 1, "captions": 1, "cameras": 1, "seed": 0}
    for name, value in arguments.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least[name]:
            raise DataError(f"{name} must be a whole number of at least {least[name]}, got {value!r}")
    if arguments["cameras"] > len(CAMERAS):
        raise DataError(f"cameras must be at most {len(CAMERAS)}, got {arguments['cameras']}")
    if not arguments["train_ids"] + arguments["val_ids"] + arguments["test_ids"]:
        raise DataError("train_ids, val_ids and test_ids are all 0: there is nobody to draw")


def _require_same(root: Path, arguments: dict[str, int]) -> None:
    try:
        made_by = json.loads((root / "synthetic.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(f"{root} exists and holds no drawn people; choose another folder or remove it") from None
    if made_by != {"format": FORMAT, **arguments}:
        raise DataError(f"{root} was drawn with other arguments ({made_by}); choose another folder or remove it")


def _write_all(draft: Path, arguments: dict[str, int], progress: bool) -> None:
    splits = [split for split in ("train", "val", "test") for _ in range(arguments[f"{split}_ids"])]
    people = sample_people(len(splits), arguments["seed"])
    for folder in {_folder(camera, split) for camera in range(arguments["cameras"]) for split in set(splits)}:
        (draft / "imgs" / folder).mkdir(parents=True)
    settings = {**arguments, "draft": str(draft)}
    jobs = [(person, split, settings) for person, split in zip(people, splits, strict=True)]
    rows, photos = [], {}
    for person_rows, person_photos in show_progress(
        map(_write_person, jobs), len(jobs), "drawing people", "person", progress
    ):
        rows += person_rows
        photos.update(person_photos)
    looks = {
        str(person.pid): {"identity": asdict(person.identity), "clothing": asdict(person.clothing)} for person in people
    }
    _write_json(draft / "reid_raw.json", rows)
    _write_json(draft / "attributes.json", {"people": looks, "photos": photos})
    _write_json(draft / "synthetic.json", {"format": FORMAT, **arguments})


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def _folder(camera: int, split: str) -> str:
    folder = CAMERAS[camera].folder
    return folder if folder != "query" else ("train_query" if split == "train" else "test_query")


def _write_person(job: tuple[Person, str, dict]) -> tuple[list[dict], dict[str, dict]]:
    """Draw one person's photos; returns the annotation rows and the truth per file path."""
    person, split, settings = job
    rng = np.random.default_rng((settings["seed"], person.pid, 1))
    order = rng.permutation(settings["cameras"])
    rows, truth = [], {}
    for number in range(settings["photos"]):
        camera = CAMERAS[order[number % len(order)]]
        shot = plan_shot(camera.crop_heights, rng)
        image = draw_person(person, camera, rng, shot)
        file_path = f"{_folder(camera.index, split)}/{person.pid:05d}_c{camera.index}_{number:02d}.jpg"
        _save_jpeg(Path(settings["draft"]) / "imgs" / file_path, image, camera.quality)
        visible = visible_attributes(person, shot)
        told = [describe(person, visible, rng) for _ in range(settings["captions"])]
        rows.append(
            {
                "split": split,
                "captions": [caption.text for caption in told],
                "file_path": file_path,
                "processed_tokens": [
                    caption.text.lower().replace(",", "").replace(".", "").split() for caption in told
                ],
                "id": person.pid,
                "id_captions": [caption.identity for caption in told],
                "cloth_captions": [caption.clothing for caption in told],
            }
        )
        truth[file_path] = {
            "id": person.pid,
            "camera": camera.index,
            "viewpoint": shot.viewpoint,
            "occlusion": shot.occlusion,
            "visible": sorted(visible),
            "mentioned": [list(caption.mentioned) for caption in told],
            "phrases": [
                {"identity": list(caption.identity_phrases), "clothing": list(caption.clothing_phrases)}
                for caption in told
            ],
        }
    return rows, truth


def _save_jpeg(path: Path, image: np.ndarray, quality: int) -> None:
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise DataError(f"OpenCV could not encode {path.name}")
    path.write_bytes(data.tobytes())
