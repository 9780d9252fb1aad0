"""Finds a benchmark's annotation file and reads it, checked, so that nothing breaks hours into a training."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from t2ireid_plugin.data.benchmarks import SPLITS, BenchmarkSpec
from t2ireid_plugin.errors import DataError, short_repr
from t2ireid_plugin.utils.safe_io import open_file, parse_json, read_bytes, text_problem

# A companion of the annotation: {path: {"identity": [...], "clothing": [...]}}.
INSTRUCTIONS = "instructions.json"
# Rows name their image by either key, whichever set they are of.
_PATH_KEYS = ("file_path", "img_path")
# Handed around in place of the real annotation by some archives.
_WITHOUT_SPLITS = "caption_all.json"
# First bytes of what OpenCV decodes and the benchmarks use.
_IMAGE_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF", b"II*\x00", b"MM\x00*")

Companion = Mapping[str, Mapping[str, Any]]


class Photo(NamedTuple):
    """One image with its texts; the tuples of texts are equally long."""

    path: str
    pid: int  # as annotated
    camera: str
    split: str
    captions: tuple[str, ...]
    id_texts: tuple[str, ...] | None  # None: parts of the captions, see `instructions.split_caption`
    cloth_texts: tuple[str, ...] | None


def find_annotation(root: str | Path, spec: BenchmarkSpec) -> Path:
    """The benchmark's annotation file under ``root``, beside its folder of images.

    Raises:
        DataError: when one of them is not there; the message says what was looked for and what was found instead.
    """
    base = Path(root).expanduser()
    folder = base / spec.folder
    file = _annotation_in(folder, spec)
    if file is None:
        names = " or ".join(spec.annotations)
        raise DataError(
            f"{spec.name}: no '{folder / spec.annotations[0]}' (looked for {names}); {_elsewhere(base, spec)}"
        )
    if not (folder / spec.images).is_dir():
        raise DataError(
            f"{spec.name}: '{file}' is there, but its images are not: no folder '{folder / spec.images}'; "
            f"'{folder}' holds {_listing(folder)}"
        )
    return file


def read_photos(root: str | Path, spec: BenchmarkSpec) -> list[Photo]:
    """All photos of a benchmark in the annotation's order, checked. No image is opened, see `check_images`.

    Raises:
        DataError: for an annotation that is no such list, rows without a key, captions that are empty or no strings,
            an identity in two splits, and images that are missing; the message names the culprit.
    """
    file = find_annotation(root, spec)
    companion = read_companion(file)
    photos = [parse_row(row, i, file, spec, companion) for i, row in enumerate(read_rows(file))]
    images = file.parent / spec.images
    unknown = set(companion).difference(os.path.relpath(photo.path, images) for photo in photos) if companion else ()
    if unknown:
        raise DataError(f"'{file.parent / INSTRUCTIONS}' has texts for '{min(unknown)}', which '{file}' does not name")
    _check_identities(photos, file)
    missing = missing_images([photo.path for photo in photos])
    if missing:
        raise DataError(f"missing image '{missing[0]}'{_and_more(missing)}, named in '{file}'")
    return photos


def read_rows(file: Path) -> list[Any]:
    """The rows of an annotation file, unchecked.

    Raises:
        DataError: when it is no JSON list in UTF-8.
    """
    rows = _read_json(file)
    if not isinstance(rows, list) or not rows:
        raise DataError(f"'{file}' must hold a list with a row for each image")
    return rows


def read_companion(file: Path) -> Companion:
    """Identity and clothing texts from ``instructions.json`` beside the annotation; empty when there is none.

    Raises:
        DataError: when it is no JSON object of objects.
    """
    path = file.parent / INSTRUCTIONS
    if not path.is_file():
        return {}
    content = _read_json(path)
    if not isinstance(content, dict) or not all(isinstance(texts, dict) for texts in content.values()):
        raise DataError(f'\'{path}\' must hold an object such as {{"image path": {{"identity": [], "clothing": []}}}}')
    return content


def parse_row(row: Any, index: int, file: Path, spec: BenchmarkSpec, companion: Companion) -> Photo:
    """One row of the annotation, checked.

    Raises:
        DataError: for a missing key or a bad value; the message names file, row and value.
    """
    where = f"'{file}', row {index}"
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object, not {type(row).__name__}")
    path_key = next((key for key in _PATH_KEYS if key in row), _PATH_KEYS[0])
    for key in ("split", "captions", "id", path_key):
        if key not in row:
            hint = "; a file without splits cannot be trained on" if key == "split" else ""
            raise DataError(f"{where}: no '{key}' (found {', '.join(map(str, row))}){hint}")
    split = row["split"].lower() if isinstance(row["split"], str) else row["split"]
    if split not in SPLITS:
        raise DataError(f"{where}: split {short_repr(row['split'])} is none of {', '.join(SPLITS)}")
    if type(row["id"]) is not int:  # true and false are int to isinstance
        raise DataError(f"{where}: id {short_repr(row['id'])} is not a whole number")
    if not -(2**63) <= row["id"] < 2**63:
        raise DataError(f"{where}: id {short_repr(row['id'])} does not fit into 64 bits")
    relative = row[path_key]
    if not isinstance(relative, str) or not relative:
        raise DataError(f"{where}: {path_key} {short_repr(relative)} is not a path")
    if not stays_inside(relative):
        raise DataError(f"{where}: {path_key} {short_repr(relative)} leaves the folder '{spec.images}'")
    where = f"{where} ({relative})"
    captions = _texts(row["captions"], f"{where}: captions")
    camera = row.get("camera", spec.camera(relative))
    if not isinstance(camera, str | int) or text_problem(str(camera)):
        raise DataError(f"{where}: camera {short_repr(camera)} is no text or whole number")
    own = companion.get(relative, {})
    return Photo(
        path=os.path.join(file.parent, spec.images, relative),
        pid=row["id"],
        camera=str(camera),
        split=split,
        captions=captions,
        id_texts=_parallel(row, "id_captions", own, "identity", len(captions), where),
        cloth_texts=_parallel(row, "cloth_captions", own, "clothing", len(captions), where),
    )


def stays_inside(relative: str) -> bool:
    """Whether a path of an annotation stays below the folder that it is relative to, on every system.

    It goes by the names alone. Links are followed wherever they point: large sets are shared as folders of links, and
    no annotation can make one.
    """
    forward = relative.replace("\\", "/")
    return not forward.startswith("/") and not os.path.isabs(relative) and ".." not in PurePosixPath(forward).parts


def check_images(paths: Sequence[str]) -> None:
    """That each image starts like one; decoding them all would take minutes.

    Raises:
        DataError: naming the first that is missing, empty or no image, and how many more there are.
    """
    with ThreadPoolExecutor(max_workers=16) as pool:
        problems = [problem for problem in pool.map(_image_problem, paths) if problem]
    if problems:
        raise DataError(f"{problems[0]}{_and_more(problems)}")


def missing_images(paths: Iterable[str]) -> list[str]:
    """Which of the paths are not there, found by listing each folder once instead of asking for each file."""
    names: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in names:
            try:
                names[folder] = {entry.name for entry in os.scandir(folder)}
            except (OSError, ValueError):  # ValueError: a zero byte, or what the file system cannot encode
                names[folder] = set()
        if name not in names[folder]:
            missing.append(path)
    return missing


def _annotation_in(folder: Path, spec: BenchmarkSpec) -> Path | None:
    for pattern in spec.annotations:
        found = [path for path in sorted(folder.glob(pattern)) if path.name not in (INSTRUCTIONS, _WITHOUT_SPLITS)]
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(f"{spec.name}: several annotations in '{folder}': {', '.join(path.name for path in found)}")
    return None


def _elsewhere(base: Path, spec: BenchmarkSpec) -> str:
    """What a user who has no annotation where it belongs may have done instead."""
    folder = base / spec.folder
    if (folder / _WITHOUT_SPLITS).is_file():
        return f"{_WITHOUT_SPLITS} is there, but it has no splits. Get {spec.annotations[0]} from the publishers"
    for deeper in sorted(base.glob(f"*/{spec.folder}")):  # the root is one level up, or the archive in one too many
        found = _annotation_in(deeper, spec)
        if found:
            return f"found '{found}'; set data.root to '{deeper.parent}'"
    found = _annotation_in(base, spec)
    if found and base.name == spec.folder:
        return f"found '{found}'; set data.root to the folder that holds {spec.folder}: '{base.parent}'"
    place = folder if folder.is_dir() else base
    return (
        f"'{place}' {'holds ' + _listing(place) if place.is_dir() else 'does not exist'}. Put the dataset there as "
        f"{spec.folder}/{spec.annotations[0]} and {spec.folder}/{spec.images}/… ({spec.licence}), or set data.root to "
        f"the folder that holds {spec.folder}"
    )


def _listing(folder: Path, most: int = 8) -> str:
    """The first names in a folder."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir() if not path.name.startswith("."))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "nothing"


def _read_json(file: Path) -> Any:
    try:
        return parse_json(read_bytes(file))
    except OSError as error:
        raise DataError(f"cannot read '{file}' ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"'{file}' is not valid JSON in UTF-8: {error}") from error


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


def _parallel(
    row: Mapping[str, Any], key: str, own: Mapping[str, Any], own_key: str, count: int, where: str
) -> tuple[str, ...] | None:
    """Identity or clothing texts, one a caption: the row's own, the companion file's, or None."""
    if key not in row and own_key not in own:
        return None
    source, name = (row, key) if key in row else (own, own_key)
    texts = _texts(source[name], f"{where}: {name}")
    if len(texts) != count:
        raise DataError(f"{where}: {len(texts)} {name} for {count} captions")
    return texts


def _check_identities(photos: Sequence[Photo], file: Path) -> None:
    splits: dict[int, set[str]] = defaultdict(set)
    for photo in photos:
        splits[photo.pid].add(photo.split)
    shared = [pid for pid, found in splits.items() if len(found) > 1]
    if shared:
        pid = shared[0]
        raise DataError(
            f"'{file}': identity {pid} is in the splits {' and '.join(sorted(splits[pid]))} "
            f"({len(shared)} such identities); a test on people seen in training means nothing"
        )


def _image_problem(path: str) -> str | None:
    try:
        with open_file(path) as stream:
            start = stream.read(8)
    except OSError as error:
        return f"missing image '{path}' ({error.strerror})"
    if not start.startswith(_IMAGE_SIGNATURES):
        return f"unreadable image '{path}': {'it is empty' if not start else 'not an image file'}"
    return None


def _and_more(problems: Sequence[str]) -> str:
    return f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
