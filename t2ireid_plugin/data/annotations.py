"""Finds a benchmark's annotation file and validates it while reading, so that no bad row stops training hours later."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from t2ireid_plugin.data.benchmarks import SPLITS, BenchmarkSpec
from t2ireid_plugin.data.formats import read_json
from t2ireid_plugin.data.image_files import ImageFolder, map_files, plain_name
from t2ireid_plugin.errors import DataError, short_repr
from t2ireid_plugin.utils.safe_io import text_problem

# Optional file beside the annotation: {image path: {"identity": [...], "clothing": [...]}}.
INSTRUCTIONS = "instructions.json"
# Alternative keys for the image path; releases of the benchmarks differ.
PATH_KEYS = ("file_path", "img_path")
# Some archives contain this file in place of the annotation.
_WITHOUT_SPLITS = "caption_all.json"

# Outfit of photos whose row has no ``outfit``.
UNKNOWN_OUTFIT = -1

Companion = Mapping[str, Mapping[str, Any]]


class Photo(NamedTuple):
    """One image with its texts."""

    path: str
    pid: int  # as annotated
    camera: str
    split: str
    # Captions with their identity and clothing texts. None: derived from the caption, see `instructions.split_caption`.
    # Empty for a gallery photo that no query describes.
    texts: tuple[tuple[str, str | None, str | None], ...]
    outfit: int = UNKNOWN_OUTFIT  # number among the person's outfits


def find_annotation(root: str | Path, spec: BenchmarkSpec) -> Path:
    """The benchmark's annotation file under ``root``.

    Raises:
        DataError: when the file or the image folder beside it is missing; the message says where to put them.
    """
    base = Path(os.path.expanduser(root))
    folder = base / spec.folder
    file = _annotation_in(folder, spec)
    if file is None:
        names = " or ".join(spec.annotations)
        raise DataError(
            f"{spec.name}: no '{folder / spec.annotations[0]}' (looked for {names}); {_hint_where(base, spec)}"
        )
    images = spec.image_folder(root)
    if not images.is_dir():
        raise DataError(f"{spec.name}: the image folder '{images}' is missing; '{folder}' contains {_listing(folder)}")
    return file


def read_photos(root: str | Path, spec: BenchmarkSpec) -> list[Photo]:
    """All photos of a benchmark in the annotation's order, validated. Opens no image, see `check_images`.

    Rows that name the same file, by other spellings or links too, are one photo with the captions of all of them; a
    caption that is repeated in another row counts once. The queries of composed search stay as they are.

    Raises:
        DataError: for a file that is not a list of rows, a row with a missing key or a bad value, rows of one image
            that contradict each other, an identity in two splits, or a missing image; the message names file, row and
            value.
    """
    file = find_annotation(root, spec)
    companion = read_companion(file, spec)
    photos = [parse_row(row, i, file, spec, companion) for i, row in enumerate(spec.read(file))]
    names = [photo.path for photo in photos]
    unknown = companion.keys() - {plain_name(name, spec.images) for name in names}
    if unknown:
        raise DataError(
            f"'{file.parent / INSTRUCTIONS}' has texts for '{min(unknown)}', which is not in '{file}'; remove them"
        )
    paths = ImageFolder(spec.image_folder(root)).find_all(names, file)
    photos = _merge_rows([photo._replace(path=path) for photo, path in zip(photos, paths)], file, spec)
    _check_identities(photos, file)
    return photos


def read_companion(file: Path, spec: BenchmarkSpec) -> Companion:
    """Identity and clothing texts from ``instructions.json`` beside the annotation, by `plain_name`, if there is one.

    Raises:
        DataError: when it is not a JSON object of objects.
    """
    path = file.parent / INSTRUCTIONS
    if not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(texts, dict) for texts in content.values()):
        raise DataError(f'\'{path}\' must contain an object {{"image path": {{"identity": [], "clothing": []}}}}')
    return {plain_name(name, spec.images): texts for name, texts in content.items()}


def parse_row(row: Any, index: int, file: Path, spec: BenchmarkSpec, companion: Companion) -> Photo:
    """One validated row of the annotation, with the image's path as it is written there.

    Raises:
        DataError: for a missing key or a bad value; the message names file, row and value.
    """
    where = f"'{file}', row {index}"
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object, not {type(row).__name__}")
    path_key = next((key for key in PATH_KEYS if key in row), PATH_KEYS[0])
    for key in ("split", "captions", "id", path_key):
        if key not in row:
            hint = "; training needs an annotation with splits" if key == "split" else ""
            raise DataError(f"{where}: no '{key}', only {', '.join(map(str, row))}{hint}")
    split = row["split"].lower() if isinstance(row["split"], str) else row["split"]
    if split not in SPLITS:
        raise DataError(f"{where}: split {short_repr(row['split'])} must be one of {', '.join(SPLITS)}")
    if type(row["id"]) is not int or not -(2**63) <= row["id"] < 2**63:  # bool is a subclass of int
        raise DataError(f"{where}: id {short_repr(row['id'])} must be an integer of at most 64 bits")
    relative = row[path_key]
    if not isinstance(relative, str) or not relative:
        raise DataError(f"{where}: {path_key} {short_repr(relative)} must be a path")
    if not stays_inside(relative):
        raise DataError(f"{where}: {path_key} {short_repr(relative)} leaves the folder '{spec.images}'")
    where = f"{where} ({relative})"
    in_gallery_only = row["captions"] is None and (split != "train" or not spec.captioned)
    captions = () if in_gallery_only else _texts(row["captions"], f"{where}: captions")
    name = plain_name(relative, spec.images)
    camera = row.get("camera", spec.camera(name))
    if not isinstance(camera, str | int):
        raise DataError(f"{where}: camera {short_repr(camera)} must be a string or an integer")
    outfit = row.get("outfit", UNKNOWN_OUTFIT)
    if type(outfit) is not int or not UNKNOWN_OUTFIT <= outfit < 2**63:
        raise DataError(f"{where}: outfit {short_repr(outfit)} must be an integer from 0, or -1 where it is unknown")
    own = companion.get(name, {})
    id_texts = _parallel_texts(row, "id_captions", own, "identity", len(captions), where)
    cloth_texts = _parallel_texts(row, "cloth_captions", own, "clothing", len(captions), where)
    return Photo(relative, row["id"], str(camera), split, tuple(zip(captions, id_texts, cloth_texts)), outfit)


def stays_inside(relative: str) -> bool:
    """True for a path that stays below its folder, on POSIX and Windows alike.

    Looks at the names alone. Symbolic links are followed wherever they point: large datasets are often shared as
    folders of links, and an annotation cannot create one.
    """
    forward = relative.replace("\\", "/")
    return not forward.startswith("/") and not os.path.isabs(relative) and ".." not in forward.split("/")


def check_images(paths: Sequence[str]) -> None:
    """Checks each image file as `image_problem` does; decoding all of them would take minutes.

    Raises:
        DataError: naming the first file that is missing, empty, truncated or not an image, and the number of others.
    """
    from t2ireid_plugin.data.images import image_problem  # here, as it imports OpenCV

    problems = [problem for problem in map_files(image_problem, paths) if problem]
    if problems:
        raise DataError(f"{problems[0]}{_and_more(problems)}")


def _annotation_in(folder: Path, spec: BenchmarkSpec) -> Path | None:
    for pattern in spec.annotations:
        files = [path for path in sorted(folder.glob(pattern)) if path.name not in (INSTRUCTIONS, _WITHOUT_SPLITS)]
        if len(files) == 1:
            return files[0]
        if files:
            names = ", ".join(path.name for path in files)
            raise DataError(f"{spec.name}: several annotations in '{folder}': {names}; keep one")
    return None


def _hint_where(base: Path, spec: BenchmarkSpec) -> str:
    """A hint for a user whose annotation is missing or in another place."""
    folder = base / spec.folder
    if (folder / _WITHOUT_SPLITS).is_file():
        return f"{_WITHOUT_SPLITS} is there, but it has no splits; get {spec.annotations[0]} from the publishers"
    for candidate in (*sorted(base.glob(f"*/{spec.folder}")), base):  # the root is one level too high or too deep
        if candidate.name == spec.folder and (file := _annotation_in(candidate, spec)):
            return f"found '{file}'; set data.root to '{candidate.parent}'"
    place = folder if folder.is_dir() else base
    photos = "its images" if spec.images == "." else f"{spec.folder}/{spec.images}/…"
    return (
        f"'{place}' {'contains ' + _listing(place) if place.is_dir() else 'does not exist'}. Put the dataset there as "
        f"{spec.folder}/{spec.annotations[0]} and {photos} ({spec.licence}), or set data.root to the folder that "
        f"contains {spec.folder}"
    )


def _listing(folder: Path, limit: int = 8) -> str:
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir() if not path.name.startswith("."))
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "") or "nothing"


def _texts(values: Any, where: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not values:
        raise DataError(f"{where}: expected a list of at least one text, not {short_repr(values)}")
    for text in values:
        if not isinstance(text, str):
            raise DataError(f"{where}: {short_repr(text)} is not a string")
        if not text.strip():
            raise DataError(f"{where}: a text is empty")
        if problem := text_problem(text):
            raise DataError(f"{where}: {short_repr(text)} {problem}")
    return tuple(values)


def _parallel_texts(
    row: Mapping[str, Any], key: str, own: Mapping[str, Any], own_key: str, count: int, where: str
) -> Sequence[str | None]:
    """Identity or clothing texts, one per caption: the row's own, else the companion file's, else None."""
    source, name = (row, key) if key in row else (own, own_key)
    if name not in source:
        return [None] * count
    texts = _texts(source[name], f"{where}: {name}")
    if len(texts) != count:
        raise DataError(f"{where}: {len(texts)} {name} for {count} captions; give one per caption")
    return texts


def _merge_rows(rows: Sequence[Photo], file: Path, spec: BenchmarkSpec) -> list[Photo]:
    """One photo per image file, with the captions of its first row and those that other rows add."""
    merged: dict[tuple[str, int | None], tuple[int, Photo]] = {}
    for number, row in enumerate(rows):
        key = (row.path, number if spec.composed and row.texts else None)
        first, photo = merged.setdefault(key, (number, row))
        cameras = "cameras" * spec.has_cameras
        for field, values in (("pid", "identities"), ("split", "splits"), ("outfit", "outfits"), ("camera", cameras)):
            one, other = getattr(photo, field), getattr(row, field)
            if one != other and values:
                raise DataError(
                    f"'{file}', rows {first} and {number}: one image file, '{row.path}', with the {values} {one!r} and "
                    f"{other!r}; correct or remove one of the rows"
                )
        captions = {caption for caption, *_ in photo.texts}
        new = (texts for texts in row.texts if texts[0] not in captions)
        merged[key] = first, photo._replace(texts=(*photo.texts, *new))
    return [photo for _, photo in merged.values()]


def _check_identities(photos: Sequence[Photo], file: Path) -> None:
    splits: dict[int, set[str]] = defaultdict(set)
    for photo in photos:
        splits[photo.pid].add(photo.split)
    shared = [pid for pid, names in splits.items() if len(names) > 1]
    if shared:
        raise DataError(
            f"'{file}': identity {shared[0]} is in the splits {' and '.join(sorted(splits[shared[0]]))}"
            f"{_and_more(shared)}; an identity seen in training must not be tested on"
        )


def _and_more(problems: Sequence[object]) -> str:
    return f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
