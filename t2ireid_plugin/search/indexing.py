"""Brings an index up to date with photo files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from t2ireid_plugin.data.images import Pixels
from t2ireid_plugin.errors import ConfigError, DataError, InputError
from t2ireid_plugin.search.photos import Stamp, compare_files, is_container, list_photos, read_photo
from t2ireid_plugin.search.rows import Box, File, Move, Row, Time, to_seconds
from t2ireid_plugin.search.store import Vectors
from t2ireid_plugin.utils.progress import show_progress

if TYPE_CHECKING:
    from t2ireid_plugin.search.gallery import Gallery

T = TypeVar("T")


class Photo(NamedTuple):
    """A photo file and what is known of it before it is read."""

    stamp: Stamp
    camera: str | None
    time: float | None


FindPeople = Callable[[Pixels], Sequence[Box]]

_BATCH = 32  # photos decoded at once
_COMMIT = 256  # photos per commit
_NOT_UTF8 = "the name is not UTF-8; rename the file"  # of some archives unpacked elsewhere; SQLite takes no such text


class Added(NamedTuple):
    """Numbers of files by what was done with them."""

    new: int
    replaced: int
    moved: int
    removed: int
    unchanged: int
    damaged: dict[str, str]  # reason by path

    def __str__(self) -> str:
        counts = {**self._asdict(), "damaged": len(self.damaged)}
        return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)


def describe_photos(
    places: Sequence[str | Path],
    camera: str | Sequence[str | None] | None,
    time: Time | Sequence[Time | None] | None,
    camera_from: str | None,
) -> dict[str, Photo]:
    """All photos in ``places`` by absolute path; arguments as of `Gallery.add_images`."""
    try:
        pattern = re.compile(camera_from or "(?P<camera>$.)")
        pattern.groupindex["camera"]
    except (re.error, KeyError) as error:
        raise ConfigError(f"camera_from: '{camera_from}' is not an expression with (?P<camera>…): {error}") from error
    photos: dict[str, Photo] = {}
    for place, name, moment in zip(places, per_item(camera, len(places)), per_item(time, len(places))):
        seconds = to_seconds(moment)
        for path, stamp in list_photos(place).items():
            match = None if name else pattern.search(path)
            photos.setdefault(path, Photo(stamp, match["camera"] if match else name, seconds))
    return photos


def per_item(value: Any, count: int) -> Sequence[Any]:
    """One value per item, from one for all or one each.

    Raises:
        InputError: when there are more or fewer than ``count``.
    """
    if isinstance(value, str) or not isinstance(value, (Sequence, np.ndarray)):
        return [value] * count
    if len(value) != count:
        raise InputError(f"{len(value)} values for {count} items")
    return list(value)


def update(
    gallery: Gallery,
    places: Sequence[str | Path],
    photos: Mapping[str, Photo],
    find_people: FindPeople | None,
    show: bool,
) -> Added:
    """Removes, renames and adds rows until the index agrees with ``photos``, all that there are in ``places``."""
    store, folders = gallery.store, [os.path.abspath(place) for place in places if is_container(place)]
    damaged = {path: _NOT_UTF8 for path in photos if not _is_utf8(path)}
    photos = {path: photo for path, photo in photos.items() if path not in damaged}
    with store.writing():
        known = {gallery.absolute_path(path): file for path, file in store.files().items()}
        changes = compare_files({path: photo.stamp for path, photo in photos.items()}, folders, known)
        if changes.gone:
            nothing = np.empty((0, gallery.need_encoder().dim), np.float32)
            store.add(nothing, [], replace=[gallery.stored_path(path) for path in changes.gone])
        moves = [
            Move(gallery.stored_path(old), _stored(gallery, file), photos[file.path].camera)
            for old, file in changes.moved
        ]
        if moves:
            store.move(moves)
        files = changes.new + changes.replaced
        done = _embed(gallery, files, photos, find_people, damaged)
        for _ in show_progress(done, len(files), "embedding", "photo", show and bool(files)):
            pass
    new = sum(file.path not in damaged for file in changes.new)
    replaced = sum(file.path not in damaged for file in changes.replaced)
    return Added(new, replaced, len(changes.moved), len(changes.gone), changes.unchanged, damaged)


def _embed(
    gallery: Gallery,
    files: Sequence[File],
    photos: Mapping[str, Photo],
    find_people: FindPeople | None,
    damaged: dict[str, str],
) -> Iterator[File]:
    """Adds the rows of files and yields each file when its row is committed; fills ``damaged`` with reasons."""
    encoder = gallery.need_encoder()

    def read_or_explain(file: File) -> Pixels | str:
        try:
            pixels = read_photo(file.path)
            # A whole photo is reduced at once to what the model sees; people are looked for in all of it.
            return encoder.read(pixels) if find_people is None else pixels
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor(max_workers=8) as pool:
        for group in _parts(files, _COMMIT):
            vectors: list[Vectors] = [np.empty((0, encoder.dim), np.float32)]
            rows: list[Row] = []
            records: list[File] = []
            for part in _parts(group, _BATCH):
                crops: list[Pixels] = []
                for file, pixels in zip(part, pool.map(read_or_explain, part)):
                    record, photo = _stored(gallery, file), photos[file.path]
                    if isinstance(pixels, str):
                        damaged[file.path] = pixels
                        records.append(record._replace(note=pixels))
                        continue
                    boxes = [None] if find_people is None else find_people(pixels)
                    crops += [_crop(pixels, box) for box in boxes]
                    rows += [Row(record.path, photo.camera, photo.time, box=box) for box in boxes]
                    records.append(record if boxes else record._replace(note="no person"))
                vectors += [encoder.encode_images(some) for some in _parts(crops, _BATCH)]
            gallery.store.add(np.concatenate(vectors), rows, records, replace=[record.path for record in records])
            yield from group


def _crop(pixels: Pixels, box: Box | None) -> Pixels:
    if box is None:
        return pixels
    left, top, right, bottom = (max(0, round(edge)) for edge in box)
    return pixels[top:bottom, left:right].copy()


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _stored(gallery: Gallery, file: File) -> File:
    return file._replace(path=gallery.stored_path(file.path))


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
