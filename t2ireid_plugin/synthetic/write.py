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

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.synthetic.attributes import Person
from t2ireid_plugin.synthetic.cameras import CAMERAS
from t2ireid_plugin.synthetic.drawing import draw_person
from t2ireid_plugin.synthetic.outfits import MOST_OUTFITS, outfit_of, sample_cast
from t2ireid_plugin.synthetic.sentences import describe
from t2ireid_plugin.synthetic.shot import plan_shot, visible_attributes
from t2ireid_plugin.utils.progress import show_progress
from t2ireid_plugin.utils.safe_io import parse_json, read_bytes

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
    outfits: int = 1,
    train_outfits: int = 1,
    progress: bool = True,
) -> dict:
    """Write `OUT/CUHK-PEDES` with `photos` images a person and `captions` sentences an image.

    Test people wear `outfits` in turn, those of train and val `train_outfits`, see `sample_cast`; each photo's
    captions and truth are of what is worn in it, and `attributes.json` numbers the outfits. With more than one the
    official text-to-image protocol means little: a match is an equal identity, and most matches of a caption wear
    something else than it says. `evaluation.cross_outfit` has the protocols for such a set. More outfits in test leave
    every byte of train and val as it was.

    Returns `{"root", "images", "ids", "captions", "written"}`: the folder, the counts per split, and whether
    anything had to be written. The same arguments give the same bytes, and how many people there are changes
    nothing about the first of them. Raises DataError for an argument out of range and for a folder that
    exists and was not written by these arguments.
    """
    arguments = {
        "train_ids": train_ids, "val_ids": val_ids, "test_ids": test_ids,
        "photos": photos, "captions": captions, "cameras": cameras, "seed": seed,
        "outfits": outfits, "train_outfits": train_outfits,
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
    least = dict.fromkeys(("photos", "captions", "cameras", "outfits", "train_outfits"), 1)
    most = {"cameras": len(CAMERAS), "outfits": MOST_OUTFITS, "train_outfits": MOST_OUTFITS}
    for name, value in arguments.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least.get(name, 0):
            raise DataError(f"{name} must be a whole number of at least {least.get(name, 0)}, got {value!r}")
        if value > most.get(name, value):
            raise DataError(f"{name} must be at most {most[name]}, got {value}")
    for name in ("outfits", "train_outfits"):
        if arguments[name] > arguments["photos"]:
            raise DataError(f"{name} must be at most photos, {arguments['photos']}, got {arguments[name]}")
    if not arguments["train_ids"] + arguments["val_ids"] + arguments["test_ids"]:
        raise DataError("train_ids, val_ids and test_ids are all 0: there is nobody to draw")


def _require_same(root: Path, arguments: dict[str, int]) -> None:
    try:
        made_by = parse_json(read_bytes(root / "synthetic.json"))
    except (OSError, ValueError):
        raise DataError(f"{root} exists and holds no drawn people; choose another folder or remove it") from None
    if made_by != _recorded(arguments):
        raise DataError(f"{root} was drawn with other arguments ({made_by}); choose another folder or remove it")


def _recorded(arguments: dict[str, int]) -> dict[str, int]:
    """What `synthetic.json` holds; one outfit goes without saying, as it did before there were more."""
    said = {name: value for name, value in arguments.items() if value != 1 or not name.endswith("outfits")}
    return {"format": FORMAT, **said}


def _write_all(draft: Path, arguments: dict[str, int], progress: bool) -> None:
    cast = sample_cast(arguments)
    splits = {split for split, _ in cast}
    for folder in {_folder(camera, split) for camera in range(arguments["cameras"]) for split in splits}:
        (draft / "imgs" / folder).mkdir(parents=True)
    settings = {**arguments, "draft": str(draft)}
    jobs = [(outfits, split, settings) for split, outfits in cast]
    rows, photos = [], {}
    for person_rows, person_photos in show_progress(
        map(_write_person, jobs), len(jobs), "drawing people", "person", progress
    ):
        rows += person_rows
        photos.update(person_photos)
    looks = {str(outfits[0].pid): _looks(outfits, arguments) for _, outfits in cast}
    _write_json(draft / "reid_raw.json", rows)
    _write_json(draft / "attributes.json", {"people": looks, "photos": photos})
    _write_json(draft / "synthetic.json", _recorded(arguments))


def _changes_clothes(arguments: dict[str, int]) -> bool:
    return max(arguments["outfits"], arguments["train_outfits"]) > 1


def _looks(outfits: list[Person], arguments: dict[str, int]) -> dict[str, object]:
    """A person in `attributes.json`: its clothing, or a list of them in a set whose people change clothes."""
    clothing = [asdict(person.clothing) for person in outfits]
    worn = {"outfits": clothing} if _changes_clothes(arguments) else {"clothing": clothing[0]}
    return {"identity": asdict(outfits[0].identity), **worn}


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def _folder(camera: int, split: str) -> str:
    folder = CAMERAS[camera].folder
    return folder if folder != "query" else ("train_query" if split == "train" else "test_query")


def _write_person(job: tuple[list[Person], str, dict]) -> tuple[list[dict], dict[str, dict]]:
    """Draw one person's photos; returns the annotation rows and the truth per file path."""
    outfits, split, settings = job
    rng = np.random.default_rng((settings["seed"], outfits[0].pid, 1))
    order = rng.permutation(settings["cameras"])
    rows, truth = [], {}
    for number in range(settings["photos"]):
        outfit = outfit_of(number, settings["photos"], len(outfits))
        person = outfits[outfit]
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
            **({"outfit": outfit} if _changes_clothes(settings) else {}),
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
