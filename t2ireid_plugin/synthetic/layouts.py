"""Drawn people in the layouts of clothes-changing and composed-search benchmarks, from their folder `CUHK-PEDES`.

Layouts are those of guxinqian/Simple-CCReID (LTCC, PRCC) and Delong-liu-bupt/Composed_Person_Retrieval (ITCPR, SynCPR).
Which photo is a query, which camera PRCC's photo has and who shares a triplet is chosen here, by the photo's number.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.synthetic.folder import FOLDER, read_json
from t2ireid_plugin.utils.atomic_io import atomic_folder


class Drawn(NamedTuple):
    """A drawn photo."""

    file: Path
    split: str
    pid: int
    camera: int
    outfit: int
    number: int  # among the person's photos in this outfit, from 0
    caption: str
    clothing: str  # text


def write_layouts(out: Path, names: Sequence[str]) -> None:
    """Writes the people of ``out/CUHK-PEDES`` in other layouts beside it; those that are there already stay.

    Raises:
        DataError: for an unknown name, people in one outfit, or a folder that was not drawn from the same people.
    """
    recorded = read_json(out / FOLDER / "synthetic.json")
    for name in names:
        if name not in LAYOUTS:
            raise DataError(f"layouts: unknown '{name}'; valid: {', '.join(LAYOUTS)}")
        folder, split, write = LAYOUTS[name]
        argument = "train_outfits" if split == "train" else "outfits"
        if recorded.get(argument, 1) < 2 or recorded["photos"] < 2 * recorded[argument]:
            raise DataError(f"layouts: {name} needs two outfits and two photos of each; set {argument} to at least 2")
        root = out / folder
        if root.exists():
            mark = root / "synthetic.json"
            if not mark.is_file() or read_json(mark) != recorded:
                raise DataError(f"'{root}' was not drawn from '{out / FOLDER}'; choose another folder or remove it")
            continue
        with atomic_folder(root, "OUT") as draft:
            write(draft, read_drawn(out))
            _write_json(draft / "synthetic.json", recorded)


def read_drawn(out: Path) -> list[Drawn]:
    """The photos of ``out/CUHK-PEDES``."""
    seen: dict[tuple[int, int], int] = {}
    photos = []
    for row in read_json(out / FOLDER / "reid_raw.json"):
        file, look = out / FOLDER / "imgs" / row["file_path"], (row["id"], row.get("outfit", 0))
        number = seen[look] = seen.get(look, -1) + 1
        camera = int(file.stem.split("_")[1][1:])
        texts = row["captions"][0], row["cloth_captions"][0]
        photos.append(Drawn(file, row["split"], row["id"], camera, look[1], number, *texts))
    return photos


def write_ltcc(root: Path, photos: Sequence[Drawn]) -> None:
    """``{train,query,test}/<pid>_<clothes>_c<camera>_….png``; the first photo of each outfit is a query."""
    for photo in photos:
        part = "train" if photo.split == "train" else "test" if photo.number else "query"
        if photo.split != "val":
            name = f"{photo.pid:03}_{photo.outfit + 1}_c{photo.camera}_{photo.number:06}.png"
            (root / part).mkdir(exist_ok=True)
            cv2.imwrite(str(root / part / name), cv2.imread(str(photo.file)))


def write_prcc(root: Path, photos: Sequence[Drawn]) -> None:
    """``rgb/train/<pid>/<camera>_….jpg``, ``rgb/test/<camera>/<pid>/….jpg``: A and B in one outfit, C in the others."""
    for photo in photos:
        camera = "C" if photo.outfit else "AB"[photo.number % 2]
        name = f"{photo.outfit}_{photo.number:03}.jpg"
        if photo.split == "train":
            _copy(photo, root / "rgb" / "train" / f"{photo.pid:03}" / f"{camera}_cropped_rgb{name}")
        elif photo.split == "test":
            _copy(photo, root / "rgb" / "test" / camera / f"{photo.pid:03}" / f"cropped_rgb{name}")


def write_itcpr(root: Path, photos: Sequence[Drawn]) -> None:
    """`query.json` and `gallery.json`: the first photo of each outfit, with the words for the person's next one.

    An instance is a person in an outfit. The others of the test people's photos are its matches; the photos of the val
    people match nothing. People take turns in the folders of the three sources.
    """
    looks: dict[tuple[int, int], Drawn] = {}
    for photo in photos:
        looks.setdefault((photo.pid, photo.outfit), photo)
    instances = {look: number for number, (look, photo) in enumerate(looks.items(), 1) if photo.split == "test"}
    queries, gallery = [], []
    for photo in (photo for photo in photos if photo.split != "train"):
        name = f"{photo.pid}_{photo.outfit}{photo.number}_0.jpg"
        path, source = (
            (f"Celeb-reID/{photo.pid:03}/{name}", "Celeb-reID"),
            (f"PRCC/test/A/{photo.pid:03}/{name}", "PRCC"),
            (f"LAST/{photo.pid:06}/{name}", "LAST"),
        )[photo.pid % 3]
        _copy(photo, root / path)
        row = {"file_path": path, "datasets": source, "person_id": photo.pid}
        if photo.split == "val" or photo.number:
            gallery.append({**row, "instance_id": instances.get((photo.pid, photo.outfit), -1)})
        else:
            following = (photo.pid, photo.outfit + 1)
            target = looks.get(following, looks[photo.pid, 0])
            instance = instances[target.pid, target.outfit]
            queries.append({**row, "instance_id": instance, "caption": target.clothing})
    _write_json(root / "query.json", queries)
    _write_json(root / "gallery.json", gallery)


def write_syncpr(root: Path, photos: Sequence[Drawn]) -> None:
    """`SynCPR.json`: each training photo as reference for the same person's photo in another outfit."""
    own = {(photo.pid, photo.outfit, photo.number): photo for photo in photos if photo.split == "train"}
    numbers: dict[tuple[int, int, int], int] = {}
    paths, triplets = {}, []
    for key, photo in own.items():
        side = "left" if photo.outfit == 0 else "right"
        paths[key] = f"test1/sub_img/img_{side}/{photo.pid}{photo.outfit}-{photo.number}_{side}.jpg"
        _copy(photo, root / paths[key])
    for pid, outfit, number in own:
        for other in (o for p, o, n in own if (p, n) == (pid, number) and o != outfit):
            # One caption for all photos of an outfit, as their authors' photos are drawn from captions.
            before, after = own[pid, outfit, 0], own[pid, other, 0]
            triplets.append(
                {
                    "reference_caption": before.caption,
                    "target_caption": after.caption,
                    "reference_image_path": paths[pid, outfit, number],
                    "target_image_path": paths[pid, other, number],
                    "edit_caption": after.clothing,
                    "cpr_id": numbers.setdefault((pid, outfit, other), len(numbers)),
                }
            )
    _write_json(root / "SynCPR.json", triplets)


# By name: folder, the split whose people must change clothes, and the function that fills the folder.
LAYOUTS: Mapping[str, tuple[str, str, Callable[[Path, Sequence[Drawn]], None]]] = {
    "ltcc": ("LTCC_ReID", "test", write_ltcc),
    "prcc": ("prcc", "test", write_prcc),
    "itcpr": ("ITCPR", "test", write_itcpr),
    "syncpr": ("SynCPR", "train", write_syncpr),
}


def _copy(photo: Drawn, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(photo.file, target)


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
