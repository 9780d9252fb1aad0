"""Reads a benchmark's annotation file and checks it, so that nothing breaks hours into a training."""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from t2ireid_plugin.data.benchmarks import SPLITS, BenchmarkSpec, Counts
from t2ireid_plugin.errors import DataError

# First bytes of what OpenCV decodes and the benchmarks use.
_IMAGE_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF", b"II*\x00", b"MM\x00*")


class Photo(NamedTuple):
    """One image with its texts; the three tuples of texts are equally long."""

    path: str
    pid: int  # as annotated
    camera: str
    split: str
    captions: tuple[str, ...]
    id_texts: tuple[str, ...]
    cloth_texts: tuple[str, ...]


def find_annotation(root: str | Path, spec: BenchmarkSpec) -> Path:
    """The benchmark's annotation file under ``root``.

    Raises:
        DataError: when it is not there; the message says what was looked for and what was found.
    """
    base = Path(root).expanduser()
    file = base / spec.folder / spec.annotation
    if file.is_file():
        return file
    wanted = f"{spec.name}: no '{file}'"
    if (base / spec.annotation).is_file():
        raise DataError(f"{wanted}; data.root should be the folder that holds {spec.folder}: '{base.parent}'")
    if (base / spec.folder / "caption_all.json").is_file():
        raise DataError(
            f"{wanted}; caption_all.json is there, but it has no splits. Get {spec.annotation} from the publishers"
        )
    raise DataError(
        f"{wanted}. Put the dataset there as {spec.folder}/{spec.annotation} and {spec.folder}/{spec.images}/… "
        f"({spec.licence}), or set data.root to the folder that holds {spec.folder}"
    )


def read_photos(root: str | Path, spec: BenchmarkSpec) -> list[Photo]:
    """All photos of a benchmark in the annotation's order, checked.

    Raises:
        DataError: for an annotation that is no such list, rows without a key, captions that are empty or no strings,
            an identity in two splits, and images that are missing or no images; the message names the culprit.
    """
    file = find_annotation(root, spec)
    return _read_photos(file, file.stat().st_mtime_ns, spec.name)


@functools.lru_cache(maxsize=8)
def _read_photos(file: Path, _modified: int, spec_name: str) -> list[Photo]:
    """Cached, since torchreid builds a dataset for every split of every loader; the time makes edits count."""
    from t2ireid_plugin.data.benchmarks import BENCHMARKS

    spec = BENCHMARKS[spec_name]
    photos = [_parse_row(row, i, file, spec) for i, row in enumerate(_read_rows(file))]
    _check_identities(photos, file)
    _check_images([photo.path for photo in photos], file)
    return photos


def count(photos: Iterable[Photo]) -> Counts:
    """Images, identities and captions."""
    photos = list(photos)
    return Counts(len(photos), len({p.pid for p in photos}), sum(len(p.captions) for p in photos))


def _read_rows(file: Path) -> list[Any]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"'{file}' is not valid JSON in UTF-8: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise DataError(f"'{file}' must hold a list with a row for each image")
    return rows


def _parse_row(row: Any, index: int, file: Path, spec: BenchmarkSpec) -> Photo:
    where = f"'{file}', row {index}"
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object, not {type(row).__name__}")
    for key in ("split", "captions", "id", spec.path_key):
        if key not in row:
            hint = "; a file without splits cannot be trained on" if key == "split" else ""
            raise DataError(f"{where}: no '{key}' (found {', '.join(map(str, row))}){hint}")
    if row["split"] not in SPLITS:
        raise DataError(f"{where}: split {row['split']!r} is none of {', '.join(SPLITS)}")
    if type(row["id"]) is not int:  # true and false are int to isinstance
        raise DataError(f"{where}: id {row['id']!r} is not a whole number")
    relative = row[spec.path_key]
    if not isinstance(relative, str) or not relative:
        raise DataError(f"{where}: {spec.path_key} {relative!r} is not a path")
    captions = _texts(row["captions"], f"{where} ({relative}): captions")
    return Photo(
        path=str(file.parent / spec.images / relative),
        pid=row["id"],
        camera=spec.camera(relative),
        split=row["split"],
        captions=captions,
        # Where a row does not tell identity and clothing apart, the full caption stands in.
        id_texts=_companion(row, "id_captions", captions, f"{where} ({relative})"),
        cloth_texts=_companion(row, "cloth_captions", captions, f"{where} ({relative})"),
    )


def _texts(values: Any, where: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not values:
        raise DataError(f"{where}: expected a list of at least one text, not {values!r}")
    for text in values:
        if not isinstance(text, str):
            raise DataError(f"{where}: {text!r} is not a string")
        if not text.strip():
            raise DataError(f"{where}: a text is empty")
    return tuple(values)


def _companion(row: dict[str, Any], key: str, captions: tuple[str, ...], where: str) -> tuple[str, ...]:
    if key not in row:
        return captions
    texts = _texts(row[key], f"{where}: {key}")
    if len(texts) != len(captions):
        raise DataError(f"{where}: {len(texts)} {key} for {len(captions)} captions")
    return texts


def _check_identities(photos: list[Photo], file: Path) -> None:
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


def _check_images(paths: list[str], file: Path) -> None:
    """That each image is there and starts like one; decoding them all would take minutes."""
    with ThreadPoolExecutor(max_workers=16) as pool:
        problems = [problem for problem in pool.map(_image_problem, paths) if problem]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(f"{problems[0]}{more}, named in '{file}'")


def _image_problem(path: str) -> str | None:
    try:
        with open(path, "rb") as stream:
            start = stream.read(8)
    except OSError as error:
        return f"missing image '{path}' ({error.strerror})"
    except ValueError as error:  # a zero byte, or what the file system cannot encode
        return f"missing image {path!r} ({error})"
    if not start.startswith(_IMAGE_SIGNATURES):
        return f"unreadable image '{path}': {'it is empty' if not start else 'not an image file'}"
    return None
