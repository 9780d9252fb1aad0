"""Photos by the names of a command line: folders, files, tar files and lists, and shards of them."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from t2ireid_plugin.data.images import FORMATS
from t2ireid_plugin.errors import ConfigError, DataError
from t2ireid_plugin.search.indexing import Added
from t2ireid_plugin.search.photos import list_photos

if TYPE_CHECKING:
    from t2ireid_plugin.search.gallery import Gallery

T = TypeVar("T")

_COLUMNS = ("path", "camera", "time")  # of a list
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
    """Adds a folder, photo, tar file or list, see `Gallery.add_images`; of several shards, a part of the photos.

    Raises:
        DataError: as `read_list` and `Gallery.add_images`.
    """
    if source.lower().endswith(".csv"):
        rows = shard.of(read_list(Path(source)))
        paths = [path for path, _, _ in rows]
        cameras = [own or camera for _, own, _ in rows]
        return gallery.add_images(paths, camera=cameras, time=[time for _, _, time in rows], **options)
    paths = [source] if shard.parts == 1 else list(shard.of(list(list_photos(source))))
    return gallery.add_images(paths, camera=camera, **options)


def read_list(file: Path) -> list[tuple[str, str | None, str | None]]:
    """Path, camera and time of each line of a CSV file with these columns, of which only ``path`` is needed.

    Paths are relative to the list's folder.

    Raises:
        DataError: for a list without the column ``path``, with unknown ones, without lines, with a line that names no
            path, or that cannot be read.
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
    if without := [number for number, (path, _, _) in enumerate(rows, 1) if not path]:
        raise DataError(f"'{file}': row {without[0]} below the header has no path")
    return [(str(file.parent / str(path)), camera, time) for path, camera, time in rows]
