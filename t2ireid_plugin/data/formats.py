"""Readers of the annotation formats in which benchmarks are published.

Each takes the annotation file and gives the rows that `annotations.parse_row` validates: objects with ``split``,
``id``, ``file_path`` and ``captions``, which are None for photos that are only searched. A malformed file may give
malformed rows; the validation names them.
"""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.utils.json_stream import json_elements
from t2ireid_plugin.utils.safe_io import open_file, parse_json, read_bytes

_TRIPLET = "reference_caption, target_caption, edit_caption, reference_image_path, target_image_path"

Reader = Callable[[Path], Iterable[Any]]


def read_rows(file: Path) -> list[Any]:
    """A JSON list with one row per image, as CUHK-PEDES's.

    Raises:
        DataError: when the file is not a JSON list in UTF-8.
    """
    rows = read_json(file)
    if not isinstance(rows, list) or not rows:
        raise DataError(f"'{file}' must contain a list with one row per image")
    return rows


def read_iiitd(file: Path) -> list[Any]:
    """IIITD-20K's ``Filtered.json``: an object of images in the order of their identities, which decides the split.

    Its formatting scripts (vibsterD/Dense-Captioning-for-Text-Image-ReID) number the images from 0 and take the first
    15,000 for training and the next 2,500 for validation. A list of rows, as these scripts write it, is taken as it is.

    Raises:
        DataError: as `read_rows`, and for an image whose file is neither ``.jpeg`` nor ``.jpg``.
    """
    content = read_json(file)
    if not isinstance(content, dict):
        return read_rows(file)
    names = {path.stem: path.name for path in (file.parent / "IIITD-20K").glob("*.jp*g")}
    rows = []
    for number, own in enumerate(content.values()):
        try:
            name, captions = names[own["Image ID"]], [own["Description 1"], own["Description 2"]]
        except (KeyError, TypeError) as error:
            raise DataError(f"'{file}', entry {number}: no {error}, or no such image in IIITD-20K/") from error
        split = "train" if number < 15_000 else "val" if number < 17_500 else "test"
        rows.append({"split": split, "id": number, "file_path": name, "captions": captions})
    return rows


def read_rgbt(file: Path) -> Iterator[Any]:
    """RGBT-PEDES's list of rows; the photo is in ``RGB/`` by its base name, and empty captions are none."""
    for row in read_rows(file):
        if isinstance(row, dict) and isinstance(row.get("captions"), list) and isinstance(row.get("file_path"), str):
            name = PurePosixPath(row["file_path"]).name
            row = {**row, "file_path": name, "captions": [text for text in row["captions"] if text]}
        yield row


def read_pab(file: Path) -> Iterator[Any]:
    """PAB's test rows and, beside ``test/attr.json``, the training rows of ``train/attr_*.json``: one JSON per line.

    A match is an equal ``image_id``, so each is an identity. The other set of test rows, ``ucc.json``, has no training.

    Raises:
        DataError: for a line that is not a JSON object.
    """
    parts = [(file, "test")]
    if file.name == "attr.json":
        train = sorted(file.parent.parent.glob("train/attr_*.json"), key=lambda path: (len(path.name), path.name))
        parts = [*((path, "train") for path in train), *parts]
    numbers: defaultdict[str, int] = defaultdict(itertools.count().__next__)
    for path, split in parts:
        for row in _lines(path):
            pid = numbers[f"{split} {row.get('image_id')}"]
            yield {"split": split, "id": pid, "file_path": row.get("image"), "captions": _list(row.get("caption"))}


def read_orbench(file: Path) -> Iterator[Any]:
    """ORBench's RGB gallery and its queries of text alone, and the training rows of ``train_annos.json``.

    A text query has an identity and no photo. It is given to one of the person's photos, in turn, which changes
    nothing for text-to-image retrieval; photos that get none are in the gallery without captions.

    Raises:
        DataError: for a file of another form.
    """
    for row in read_rows(file.parent / "train_annos.json"):
        yield {**row, "split": "train", "captions": _list(row.get("caption"))} if isinstance(row, dict) else row
    test = read_json(file)
    try:
        photos: defaultdict[int, list[str]] = defaultdict(list)
        for pid, path in test["RGB_GALLERY"]:
            photos[pid].append(path)
        turns = {pid: itertools.cycle(paths) for pid, paths in photos.items()}
        texts: defaultdict[str, list[str]] = defaultdict(list)
        for pid, text in test["TEXT"]:
            texts[next(turns[pid])].append(text)
    except (KeyError, TypeError, ValueError) as error:
        form = "RGB_GALLERY [[id, path], …] and TEXT [[id, text], …]"
        raise DataError(f"'{file}' must contain {form}: {error!r}") from error
    for pid, paths in photos.items():  # other people than those of train, whose numbers may be the same
        yield from (
            {"split": "test", "id": 10_000 + pid, "file_path": path, "captions": texts.get(path)} for path in paths
        )


def read_itcpr(file: Path) -> Iterator[Any]:
    """ITCPR's queries, each a photo with a caption of other clothes, and the photos of ``gallery.json`` beside it.

    A match is an equal ``instance_id``, which therefore is the identity; -1 is of no query.

    Raises:
        DataError: as `read_rows`.
    """
    for part in (file, file.with_name("gallery.json")):
        for row in read_rows(part):
            if isinstance(row, dict):
                texts = _list(row.get("caption"))
                number = row.get("instance_id")
                number = int(number) if isinstance(number, str) and number.lstrip("-").isdecimal() else number
                row = {"split": "test", "id": number, "file_path": row.get("file_path"), "captions": texts}
                row |= {"cloth_captions": texts} if texts else {}
            yield row


def read_track4(file: Path) -> Iterator[Any]:
    """The renamed test set of AI City 2026 Track 4: ``query_text.json``, one JSON per line, and ``gallery/``.

    Its queries have the order of ``query_index.txt``, and nobody but the organisers knows whom they describe: each is
    given to one of the photos, which makes it a query and says nothing about a match.

    Raises:
        DataError: for a file of another form, and a query without a text.
    """
    order = file.with_name("query_index.txt")
    try:
        names = read_bytes(order).decode().split()
        texts = {row["query_index"]: row["caption"] for row in _lines(file)}
        captions = [texts[name] for name in names]
    except OSError as error:
        raise DataError(f"cannot read '{order}' ({error.strerror})") from error
    except (KeyError, TypeError, UnicodeDecodeError) as error:
        raise DataError(f"'{file}' must have a caption for each query_index in '{order}': {error!r}") from error
    gallery = file.with_name("gallery")
    photos = sorted(path.relative_to(gallery).as_posix() for path in gallery.rglob("*.jpg"))
    if len(photos) < len(names):
        raise DataError(f"'{gallery}' has {len(photos)} photos for {len(names)} queries; unpack gallery.zip there")
    for pid, (photo, caption) in enumerate(itertools.zip_longest(photos, captions)):
        yield {"split": "test", "id": pid, "file_path": photo, "captions": _list(caption)}


def read_syncpr(file: Path) -> Iterator[Any]:
    """SynCPR's photos: the target of each triplet with the words that ask for it, then references that are no target.

    A triplet is drawn from two captions. Both together stand for the person, and each for an outfit, so that all
    targets of a ``cpr_id`` match its queries, as in its authors' loss (SDM). The words are the target's clothing text.

    Raises:
        DataError: for a file that is not a JSON list, and a triplet without these captions and paths.
    """
    seen: set[int] = set()  # hashes of the paths
    for side, text in (("target", "edit_caption"), ("reference", "")):
        for number, row in enumerate(read_elements(file)):
            try:
                own = sys.intern(row[f"{side}_caption"])  # shared by many triplets
                both = sorted((row["reference_caption"], row["target_caption"]))
                path, words = row[f"{side}_image_path"], {"cloth_captions": [sys.intern(row[text])]} if text else {}
                person = blake2b("\n".join(both).encode("utf-8", "surrogatepass"), digest_size=7).digest()
            except (KeyError, TypeError) as error:
                raise DataError(f"'{file}', triplet {number}: {error!r}; it must have {_TRIPLET}") from error
            if hash(path) not in seen:
                seen.add(hash(path))
                labels = {"split": "train", "id": int.from_bytes(person, "big"), "outfit": both.index(own)}
                yield {**labels, "file_path": path, "captions": [own], **words}


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: when it cannot be read.
    """
    try:
        return parse_json(read_bytes(file))
    except OSError as error:
        raise DataError(f"cannot read '{file}' ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"'{file}' is not valid JSON in UTF-8: {error}") from error


def read_elements(file: Path) -> Iterator[Any]:
    """The elements of a JSON list or object of any size, one after the other.

    Raises:
        DataError: when it cannot be read.
    """
    try:
        with open_file(file, sys.maxsize) as stream:
            yield from json_elements(stream)
    except OSError as error:
        raise DataError(f"cannot read '{file}' ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"'{file}' is not a JSON list in UTF-8: {error}") from error


def _list(texts: Any) -> Any:
    return [texts] if isinstance(texts, str) else texts


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    try:
        with open_file(file) as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield _object(line, f"'{file}', line {number}")
    except OSError as error:
        raise DataError(f"cannot read '{file}' ({error.strerror})") from error


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = parse_json(line)
        if not isinstance(row, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise DataError(f"{where}: {error}; each line must be a JSON object") from error
    return row
