"""Copies whole indexes: merging, and export to FAISS or another store."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from t2ireid_plugin.errors import ConfigError, DataError, DependencyError
from t2ireid_plugin.search.gallery import Gallery
from t2ireid_plugin.search.rows import Row
from t2ireid_plugin.search.store import Store
from t2ireid_plugin.utils.atomic_io import atomic_folder, atomic_write, atomic_write_text


def merge(out: Path, parts: Sequence[str | Path]) -> int:
    """Puts indexes into a new one, in their order; returns its number of rows. It is complete or not there.

    Raises:
        ConfigError: when ``out`` exists, or a part is given twice.
        DataError: when a part is not an index, is damaged, or is of another model than the first.
    """
    if os.path.lexists(out):
        raise ConfigError(f"'{out}' already exists; merge writes a new index")
    places = [os.path.realpath(part) for part in parts]
    if twice := [part for i, part in enumerate(parts) if places[i] in places[:i]]:
        raise ConfigError(f"'{twice[0]}' is given twice; its rows would be in the index twice")
    with Gallery.open(parts[0], create=False) as first:
        dim, fingerprint, root = first.store.dim, first.store.fingerprint, first.store.root
    with atomic_folder(Path(os.path.abspath(out)), "OUT") as draft:
        with Gallery.open(draft, root=root) as gallery:
            gallery.store.dim, gallery.store.fingerprint = dim, fingerprint
            for part in parts:
                with Gallery.open(part, create=False) as source:
                    if source.store.fingerprint != fingerprint or source.store.dim != dim:
                        own = source.store.fingerprint
                        raise DataError(f"'{part}' is of model {own}, but '{parts[0]}' is of {fingerprint}")
                    copy_rows(source.store, gallery.store)
            count = len(gallery)
        encoders = [Path(part) / "encoder" for part in parts]
        for encoder in [folder for folder in encoders if folder.is_dir()][:1]:
            shutil.copytree(encoder, draft / "encoder")
        header = json.loads((draft / "index.json").read_text(encoding="utf-8"))
        if root == os.path.dirname(os.path.abspath(out)):  # they move together
            atomic_write_text(draft / "index.json", json.dumps({**header, "root": ".."}, indent=2) + "\n")
    return count


def copy_rows(source: Store, target: Store) -> int:
    """Copies all rows and the records of files; returns the number of rows. Tracks get numbers that are free."""
    first_track, count = target.last_track() + 1, 0

    def moved(path: str) -> str:
        whole = path if "://" in path else os.path.join(source.root, path)
        return whole.removeprefix(os.path.join(target.root, ""))

    with source.writing(), target.writing():
        for vectors, rows in source.scan():
            tracks = [None if row.track is None else row.track + first_track for row in rows]
            target.add(vectors, [row._replace(path=moved(row.path), track=t) for row, t in zip(rows, tracks)])
            count += len(rows)
        files = [file._replace(path=moved(file.path)) for file in source.files().values()]
        if files:
            target.add(np.empty((0, source.dim or 0), np.float32), [], files)
    return count


def export_faiss(gallery: Gallery, file: Path) -> int:
    """Writes a flat FAISS index of inner products, and ``FILE.csv`` with the row of each vector, in their order.

    Raises:
        DependencyError: without faiss-cpu.
        DataError: when a file cannot be written.
    """
    try:
        import faiss
    except ImportError as error:
        raise DependencyError("--faiss needs faiss; pip install faiss-cpu") from error
    index = faiss.IndexFlatIP(gallery.store.dim or 0)
    names = [name for name in Row._fields if name != "crop"]

    def write_rows(draft: Path) -> None:
        with open(draft, "w", encoding="utf-8", newline="") as stream, gallery.store.writing():
            table = csv.writer(stream)
            table.writerow(names)
            for vectors, rows in gallery.store.scan():
                index.add(vectors)
                paths = (gallery.absolute_path(row.path) for row in rows)
                table.writerows([path, *row[1:-1]] for path, row in zip(paths, rows))

    atomic_write(file.with_name(f"{file.name}.csv"), write_rows)
    atomic_write(file, lambda draft: faiss.write_index(index, str(draft)))
    return index.ntotal
