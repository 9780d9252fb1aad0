"""The SQLite file of an index: its schema, rows and filters."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.search.rows import Filter, Row
from t2ireid_plugin.search.store import Ids

_BUSY = 30.0  # seconds to wait for another process's transaction
_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "9p", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "afs", "sshfs")
# Replacing `counters.commits` tells readers that there is something new. Ids of deleted rows are in `dead` for as long
# as a segment has their vectors.
SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
    id INTEGER PRIMARY KEY, path TEXT NOT NULL, camera TEXT, time REAL, track INTEGER,
    x0 REAL, y0 REAL, x1 REAL, y1 REAL, frame INTEGER);
CREATE INDEX IF NOT EXISTS rows_path ON rows(path);
CREATE INDEX IF NOT EXISTS rows_camera ON rows(camera, time);
CREATE INDEX IF NOT EXISTS rows_time ON rows(time) WHERE time IS NOT NULL;
CREATE INDEX IF NOT EXISTS rows_track ON rows(track) WHERE track IS NOT NULL;
CREATE TABLE IF NOT EXISTS crops (id INTEGER PRIMARY KEY, jpeg BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, digest BLOB, note TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segments (number INTEGER PRIMARY KEY, name TEXT, checksum INTEGER, ids BLOB);
CREATE TABLE IF NOT EXISTS dead (id INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS counters (commits INTEGER, next_id INTEGER);
INSERT INTO counters SELECT 0, 0 WHERE NOT EXISTS (SELECT 1 FROM counters);
"""
ROWS = "SELECT rows.*, jpeg FROM rows LEFT JOIN crops USING (id)"  # for `to_row`


def connect(folder: Path | None, create: bool = False) -> sqlite3.Connection:
    """Connects to the database in ``folder``, or to a new one in memory."""
    if folder is None:
        return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    path = folder.absolute() / "rows.sqlite"
    # Without write permission SQLite cannot make the shared memory that its log needs.
    fixed = not os.access(folder, os.W_OK) and not path.with_name("rows.sqlite-wal").exists()
    mode = "immutable=1" if fixed else "mode=rwc" if create else "mode=rw"
    db = sqlite3.connect(f"{path.as_uri()}?{mode}", _BUSY, isolation_level=None, check_same_thread=False, uri=True)
    if not fixed:
        db.execute(f"PRAGMA journal_mode = {'DELETE' if on_network(folder) else 'WAL'}").fetchone()
    for setting in ("synchronous = FULL", "secure_delete = ON", "temp_store = MEMORY"):
        db.execute(f"PRAGMA {setting}").fetchone()
    return db


def on_network(folder: Path) -> bool:
    """True for a folder on a network file system, where SQLite's write-ahead log does not work; False if unknown."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    path = f"{folder.resolve()}/"
    kinds = {place: kind for _, place, kind, *_ in map(str.split, mounts) if path.startswith(f"{place.rstrip('/')}/")}
    return bool(kinds) and kinds[max(kinds, key=len)].removeprefix("fuse.") in _NETWORK


@contextlib.contextmanager
def explain_errors(folder: Path | None) -> Iterator[None]:
    """Turns errors of SQLite that a user can fix into one line.

    Raises:
        DataError: for a disk that is full, a damaged file, a lock that another process keeps and the like.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        if type(error) not in (sqlite3.OperationalError, sqlite3.DatabaseError):
            raise
        raise DataError(f"'{folder}/rows.sqlite': {error}; the index is as after its last commit") from error


def where(filter: Filter) -> tuple[str, list[Any]]:
    """The filter as an SQL condition with its values."""
    terms: dict[str, Sequence[Any]] = {}
    if filter.camera is not None:
        cameras = (filter.camera,) if isinstance(filter.camera, str) else filter.camera
        terms[f"camera IN ({', '.join('?' * len(cameras))})"] = cameras
    for condition, value in (("time >= ?", filter.after), ("time < ?", filter.before), ("track = ?", filter.track)):
        if value is not None:
            terms[condition] = [value]
    if filter.path is not None:
        # "0" is the character after "/".
        terms["(path = ? OR path >= ? AND path < ?)"] = [filter.path, f"{filter.path}/", f"{filter.path}0"]
    return " AND ".join(terms) or "1", [value for values in terms.values() for value in values]


def to_row(_id: int, path: str, camera: str, time: float, track: int, *rest: Any) -> Row:
    """A result of `ROWS` as a row."""
    *box, frame, crop = rest
    return Row(
        path, camera, time, track, None if box[0] is None else (box[0], box[1], box[2], box[3]), frame, crop or b""
    )


def insert_rows(db: sqlite3.Connection, ids: Ids, rows: Iterable[Row]) -> None:
    """Adds rows; ValueError when they are not as many as the ids."""
    crops = []

    def values() -> Iterator[tuple[Any, ...]]:
        for i, row in zip(ids.tolist(), rows, strict=True):
            if row.crop:
                crops.append((i, row.crop))
            yield (i, row.path, row.camera, row.time, row.track, *(row.box or (None,) * 4), row.frame)

    db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values())
    db.executemany("INSERT INTO crops VALUES (?, ?)", crops)


def delete_rows(db: sqlite3.Connection, condition: str, values: Sequence[Any]) -> int:
    """Deletes rows, their crops, and the records of files that have no other row; returns how many rows."""
    db.execute("CREATE TEMP TABLE IF NOT EXISTS gone (id INTEGER PRIMARY KEY, path TEXT)")
    db.execute(f"INSERT INTO gone SELECT id, path FROM rows WHERE {condition}", values)
    for statement in (
        "INSERT INTO dead SELECT id FROM gone",
        "DELETE FROM crops WHERE id IN (SELECT id FROM gone)",
        "DELETE FROM rows WHERE id IN (SELECT id FROM gone)",
        "DELETE FROM files WHERE path IN (SELECT path FROM gone)"
        " AND NOT EXISTS (SELECT 1 FROM rows WHERE rows.path = files.path)",
    ):
        db.execute(statement)
    return db.execute("DELETE FROM gone").rowcount


def read_ids(db: sqlite3.Connection, query: str, values: Sequence[Any] = ()) -> Ids:
    """The sorted numbers that a query of one column gives, ``[n]``."""
    return np.sort(np.fromiter((number for (number,) in db.execute(query, values)), np.int64))


def segment_ids(db: sqlite3.Connection, number: int) -> Ids:
    """The ids of a segment's vectors, ``[n]``."""
    return np.frombuffer(db.execute("SELECT ids FROM segments WHERE number = ?", (number,)).fetchone()[0], "<i8")


def alive(db: sqlite3.Connection, ids: Ids) -> npt.NDArray[np.bool_]:
    """True for ids that are not deleted, ``[n]``."""
    return ~np.isin(ids, read_ids(db, "SELECT id FROM dead"))
