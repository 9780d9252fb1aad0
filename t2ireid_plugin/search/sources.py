"""Photos and videos by the names of a command line: folders, files, lists, tar archives, and shards of them."""

from __future__ import annotations

import csv
import itertools
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from t2ireid_plugin.data.images import FORMATS, Pixels, decode_pixels
from t2ireid_plugin.errors import ConfigError, DataError
from t2ireid_plugin.search.indexing import Added, describe_photos
from t2ireid_plugin.search.photos import describe_file, list_photos
from t2ireid_plugin.search.rows import Filter, Row

if TYPE_CHECKING:
    from t2ireid_plugin.search.gallery import Gallery

T = TypeVar("T")

_COLUMNS = ("path", "camera", "time")  # of a list
_COMMIT = 256  # photos of an archive per commit
PHOTO = tuple(suffix for _, suffixes in FORMATS.values() for suffix in suffixes)


class Shard(NamedTuple):
    """Part ``number`` of ``parts``, from 1: consecutive items, so that the parts in order are the whole."""

    number: int = 1
    parts: int = 1

    @classmethod
    def parse(cls, text: str | None) -> Shard:
        """From ``3/64``; without it, from the ranks of torchrun or of SLURM, if there are any.

        Raises:
            ConfigError: for anything else.
        """
        if text is None:
            ranks = ("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")
            own = next((names for names in ranks if set(names) <= set(os.environ)), None)
            return cls() if own is None else cls(int(os.environ[own[0]]) + 1, int(os.environ[own[1]]))
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"--shard: '{text}' is not a part of a number of parts, such as 3/64")
        return cls(int(match[1]), int(match[2]))

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """The items of this part."""
        return items[len(items) * (self.number - 1) // self.parts : len(items) * self.number // self.parts]

    def name(self, index: str) -> str:
        """The index of this part, beside the whole one; names sort as the parts do."""
        return index if self.parts == 1 else f"{index}.{self.number:0{len(str(self.parts))}}of{self.parts}"


def add_photos(gallery: Gallery, source: str, shard: Shard, camera: str | None, **options: Any) -> Added:
    """Adds a folder, a photo or a list, see `Gallery.add_images`; of several shards, a part of the photos.

    Raises:
        DataError: as `read_list` and `Gallery.add_images`.
    """
    if source.lower().endswith(".csv"):
        rows = shard.of(read_list(Path(source)))
        paths = [path for path, _, _ in rows]
        cameras = [own or camera for _, own, _ in rows]
        return gallery.add_images(paths, camera=cameras, time=[time for _, _, time in rows], **options)
    paths = [source] if shard.parts == 1 else list(shard.of(list_photos(source)))
    return gallery.add_images(paths, camera=camera, **options)


def read_list(file: Path) -> list[tuple[str, str | None, str | None]]:
    """Path, camera and time of each line of a CSV file with these columns, of which only ``path`` is needed.

    Paths are relative to the list's folder.

    Raises:
        DataError: for a list without the column ``path``, with unknown ones, without lines, or that cannot be read.
    """
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            table = csv.DictReader(stream)
            columns = table.fieldnames or ()
            if "path" not in columns or set(columns) - set(_COLUMNS):
                raise DataError(f"'{file}' has the columns {', '.join(columns)}; valid: path, and camera and time")
            rows = [tuple(line.get(name) or None for name in _COLUMNS) for line in table]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read '{file}': {error}") from error
    if not rows:
        raise DataError(f"'{file}' lists no photos")
    return [(str(file.parent / (path or "")), camera, time) for path, camera, time in rows]


def add_archive(gallery: Gallery, source: str, camera: str | None, camera_from: str | None) -> Added:
    """Adds the photos of a tar archive, under the archive's path and the name within; a finished one is skipped.

    Raises:
        DataError: when it is not an archive, or has no photos.
    """
    describe_photos([], None, None, camera_from)  # checks the expression
    store, path, encoder = gallery.store, os.path.abspath(source), gallery.need_encoder()
    damaged: dict[str, str] = {}
    count = 0
    with store.writing():
        try:
            file = describe_file(path)._replace(path=gallery.stored_path(path))
            record = store.files().get(file.path)
            if record and record.digest == file.digest:
                return Added(0, 0, 0, 0, 1, {})
            store.delete(Filter(path=file.path))  # of an interrupted call, or of other content
            with tarfile.open(path) as archive:
                photos = _read_photos(archive, path, damaged)
                while batch := list(itertools.islice(photos, _COMMIT)):
                    vectors = encoder.encode_images([pixels for _, pixels in batch])
                    store.add(vectors, [_row(gallery, name, camera, camera_from) for name, _ in batch])
                    count += len(batch)
        except (OSError, tarfile.TarError) as error:
            raise DataError(f"cannot read '{source}': {error}") from error
        if not count:
            raise DataError(f"no photos in '{source}'")
        store.add(np.empty((0, encoder.dim), np.float32), [], [file])
    return Added(count, 0, 0, 0, 0, damaged)


def _row(gallery: Gallery, name: str, camera: str | None, camera_from: str | None) -> Row:
    match = re.search(camera_from, name) if camera_from and not camera else None
    return Row(gallery.stored_path(name), match["camera"] if match else camera)


def _read_photos(archive: tarfile.TarFile, path: str, damaged: dict[str, str]) -> Iterator[tuple[str, Pixels]]:
    for member in archive:
        if member.isfile() and member.name.lower().endswith(PHOTO):
            name = f"{path}/{member.name.removeprefix('./')}"
            content = archive.extractfile(member)
            try:
                yield name, decode_pixels(content.read() if content else b"", name)
            except DataError as error:
                damaged[name] = str(error)
