"""An index in a folder, or in memory: rows in SQLite, vectors in files.

```
index.json      format, length of a vector, fingerprint of the encoder, folder of the photos
rows.sqlite     rows, files, and which segments count; its commits are the index's commits
segments/*.npy  vectors, never changed
codes/*.faiss   derived from segments, may be deleted at any time
```

A segment is written, flushed and renamed before the commit that names it, so a reader sees a commit or the one before,
and what a killed process leaves behind is a file that no commit names, which the next writer removes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.search.rows import File, Filter, Move, Row
from t2ireid_plugin.search.store import Ids, Vectors, database
from t2ireid_plugin.search.store.codes import MIN_INDEX, MIN_SEGMENT, build_codes, can_code, has_faiss
from t2ireid_plugin.search.store.segments import SegmentFiles, check_vectors, checksum, chunks
from t2ireid_plugin.search.store.snapshot import Segment, Snapshot
from t2ireid_plugin.utils.atomic_io import atomic_write_text
from t2ireid_plugin.utils.file_lock import lock_folder
from t2ireid_plugin.utils.safe_io import parse_json, read_bytes

logger = logging.getLogger(__name__)

FORMAT = 1
_MAX_MERGED = 1 << 18  # rows of a segment that was put together from smaller ones
_MAX_SEGMENT = 1 << 20  # rows
_OURS = (".lock", "segments", "codes", "encoder", *(f"rows.sqlite{end}" for end in ("", "-wal", "-shm", "-journal")))


class FolderStore:
    """`Store` in a folder, which the first `add` creates, or in memory.

    Args:
        folder: None for memory.
        dim: length of a vector; None to take it from the index or from the first vectors.
        fingerprint: of the encoder; None for any.
        root: folder of relative paths; None for the one in the index, which is by default the folder that contains it.

    Raises:
        DataError: when the folder is not an index, is damaged, has a newer format, or another encoder made it.
    """

    def __init__(
        self,
        folder: str | Path | None,
        dim: int | None = None,
        fingerprint: str | None = None,
        root: str | Path | None = None,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.dim, self.fingerprint = dim, fingerprint or ""
        self._given = dim, fingerprint, root
        self.root = os.path.abspath(root or (self.folder.absolute().parent if self.folder else "."))
        self._files = SegmentFiles(self.folder)
        self._db: sqlite3.Connection | None = None
        self._snapshot, self._commits = Snapshot([], np.empty(0, np.int64), self._files), -1
        self._mutex, self._writers, self._lock = threading.RLock(), 0, contextlib.ExitStack()
        self._warned = False
        self._open()

    @property
    def exists(self) -> bool:
        """See `Store`."""
        return self._db is not None

    # Opening, locks and transactions

    def _open(self) -> None:
        """Connects to an index that exists."""
        if self._db is not None or self.folder is None or not self.folder.exists():
            return
        if not (self.folder / "index.json").exists():
            strange = [path.name for path in self.folder.iterdir() if path.name not in _OURS]
            if strange:
                raise DataError(f"'{self.folder}' is not an index: it holds '{min(strange)}' and no index.json")
            return
        header = read_header(self.folder)
        dim, fingerprint, root = self._given
        if fingerprint is not None and fingerprint != header["fingerprint"]:
            raise DataError(
                f"'{self.folder}' was built by another model, of fingerprint {header['fingerprint'] or 'none'}; this "
                f"model has {fingerprint}: use that model, or build a new index"
            )
        if dim is not None and dim != header["dim"]:
            raise DataError(f"'{self.folder}' holds vectors of {header['dim']} values, not {dim}; build a new index")
        self.dim, self.fingerprint = header["dim"], header["fingerprint"]
        if root is None:
            self.root = os.path.normpath(self.folder.absolute() / header["root"])
        with database.explain_errors(self.folder):
            self._db = database.connect(self.folder)

    def _create(self, dim: int) -> None:
        """Makes an empty index; ``index.json``, written last, is what makes the folder one."""
        self.dim = dim
        with database.explain_errors(self.folder):
            self._db = database.connect(self.folder, create=True)
            self._db.executescript(database.SCHEMA)
        if self.folder is not None:
            root = ".." if Path(self.root) == self.folder.absolute().parent else self.root
            header = {"format": FORMAT, "dim": dim, "fingerprint": self.fingerprint, "root": root}
            atomic_write_text(self.folder / "index.json", json.dumps(header, indent=2) + "\n")

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """See `Store.writing`; the outermost block ends with building codes."""
        with self._mutex:
            if not self._writers and self.folder is not None:
                try:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    self._lock.enter_context(lock_folder(self.folder, "index"))
                except OSError as error:
                    raise DataError(f"cannot write '{self.folder}': {error.strerror}") from error
            self._writers += 1
        try:
            yield
            if self._writers == 1:
                self._build_codes()
        finally:
            with self._mutex:
                self._writers -= 1
                if not self._writers:
                    self._lock.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One commit, and the removal of files that no segment names."""
        with self.writing(), self._mutex, database.explain_errors(self.folder):
            db = self._db
            assert db is not None
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("UPDATE counters SET commits = commits + 1")
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                db.execute("BEGIN IMMEDIATE")  # or a new file of another writer, not yet committed, would be removed
                self._files.sweep({name for (name,) in db.execute("SELECT name FROM segments")})
                db.execute("COMMIT")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """A read transaction, with `_snapshot` of the same commit; None without an index."""
        with self._mutex, database.explain_errors(self.folder):
            self._open()
            db = self._db
            if db is None or db.in_transaction:
                yield db
                return
            try:
                self._begin(db)
                yield db
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    def _begin(self, db: sqlite3.Connection, attempts: int = 10) -> None:
        db.execute("BEGIN")
        try:
            self._refresh(db)
        except FileNotFoundError as error:  # a writer has just replaced a segment, or a file is lost
            db.execute("ROLLBACK")
            if attempts == 1:
                raise DataError(f"'{self.folder}' is damaged: '{error.filename}' is missing") from error
            self._begin(db, attempts - 1)

    def _refresh(self, db: sqlite3.Connection) -> None:
        (commits,) = db.execute("SELECT commits FROM counters").fetchone()
        if commits == self._commits:
            return
        known = {segment.name: segment for segment in self._snapshot.segments}
        segments = []
        for number, name in db.execute("SELECT number, name FROM segments ORDER BY number").fetchall():
            segments.append(known.get(name) or Segment(name, database.segment_ids(db, number), self._files.load(name)))
        dead = database.read_ids(db, "SELECT id FROM dead")
        self._snapshot = Snapshot(segments, dead, self._files, self._snapshot.codes)
        self._commits = commits

    # Writing

    def add(
        self, vectors: Vectors, rows: Iterable[Row], files: Sequence[File] = (), replace: Collection[str] = ()
    ) -> Ids:
        """See `Store.add`.

        Raises:
            InputError: for vectors of another length or with values that are not finite.
            DataError: when the index cannot be written; then nothing is added.
        """
        vectors = check_vectors(vectors, self.dim)
        with self.writing():
            self._open()
            if self._db is None:
                self._create(vectors.shape[1])
            with self._transaction() as db:
                for path in replace:
                    database.delete_rows(db, "path = ?", [path])
                    db.execute("DELETE FROM files WHERE path = ?", (path,))
                (first,) = db.execute("SELECT next_id FROM counters").fetchone()
                ids = np.arange(first, first + len(vectors))
                database.insert_rows(db, ids, rows)
                for start in range(0, len(vectors), _MAX_SEGMENT):
                    part = slice(start, start + _MAX_SEGMENT)
                    self._add_segment(db, ids[part], vectors[part])
                db.execute("UPDATE counters SET next_id = next_id + ?", (len(vectors),))
                db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", files)
        return ids

    def _add_segment(self, db: sqlite3.Connection, ids: Ids, vectors: Vectors) -> None:
        """Adds a segment that takes in earlier ones of at most its size, so that small batches give few segments."""
        numbers, parts, size = [], [(ids, vectors)], len(ids)
        for number, name in db.execute("SELECT number, name FROM segments ORDER BY number DESC").fetchall():
            earlier = database.segment_ids(db, number)
            if len(earlier) > size or len(earlier) + size > _MAX_MERGED:
                break
            keep = database.alive(db, earlier)
            parts.insert(0, (earlier[keep], self._files.load(name)[keep]))
            numbers.append(number)
            size += len(earlier)
        self._replace_segments(db, numbers, parts)

    def _replace_segments(
        self, db: sqlite3.Connection, numbers: Sequence[int], parts: Sequence[tuple[Ids, Vectors]]
    ) -> None:
        """Puts one segment in the place of the segments ``numbers``, or at the end without any."""
        for number in numbers:
            ids = database.segment_ids(db, number)
            db.executemany("DELETE FROM dead WHERE id = ?", ((int(i),) for i in ids[~database.alive(db, ids)]))
            db.execute("DELETE FROM segments WHERE number = ?", (number,))
        ids = np.concatenate([np.empty(0, np.int64), *(ids for ids, _ in parts)])
        if len(ids):
            assert self.dim is not None
            name, crc = self._files.write([part for _, part in parts], len(ids), self.dim)
            values = min(numbers, default=None), name, crc, ids.astype("<i8").tobytes()
            db.execute("INSERT INTO segments VALUES (?, ?, ?, ?)", values)

    def move(self, moves: Sequence[Move]) -> None:
        """See `Store.move`."""
        with self._transaction() as db:
            for old, file, camera in moves:
                db.execute(
                    "UPDATE rows SET path = ?, camera = coalesce(?, camera) WHERE path = ?", (file.path, camera, old)
                )
                db.execute("DELETE FROM files WHERE path = ?", (old,))
                db.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", file)

    def delete(self, filter: Filter) -> int:
        """See `Store.delete`."""
        self._open()
        if self._db is None:
            return 0
        condition, values = database.where(filter)
        with self._transaction() as db:
            count = database.delete_rows(db, condition, values)
            if filter == Filter(path=filter.path):
                db.execute(f"DELETE FROM files WHERE {condition}", values)
        return count

    def purge(self) -> None:
        """Rewrites the segments that hold deleted vectors, and SQLite's file without its log.

        Raises:
            DataError: when a reader keeps the log; then it may still hold deleted rows.
        """
        self._open()
        if self._db is None:
            return
        with self.writing():
            with self._transaction() as db:
                for number, name in db.execute("SELECT number, name FROM segments").fetchall():
                    ids = database.segment_ids(db, number)
                    places = np.flatnonzero(database.alive(db, ids))
                    if len(places) < len(ids):
                        vectors = self._files.load(name)
                        self._replace_segments(db, [number], [(ids[part], vectors[part]) for part in chunks(places)])
            with self._mutex, database.explain_errors(self.folder):
                self._db.execute("VACUUM")
                (busy, *_) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                raise DataError(f"'{self.folder}': a reader keeps SQLite's log, which may hold deleted rows; try again")

    def _build_codes(self) -> None:
        """Gives codes to the segments that should have them, and lets readers know."""
        if not has_faiss() or self.dim is None or not can_code(self.dim):
            return
        with self._reading():
            segments = self._snapshot.segments if len(self._snapshot) > MIN_INDEX else []
        missing = [s for s in segments if len(s.ids) >= MIN_SEGMENT and not self._files.has_codes(s.name)]
        for segment in missing:
            self._files.write_codes(segment.name, build_codes(segment.vectors))
        if missing:
            with self._transaction():
                pass

    # Reading

    def files(self) -> dict[str, File]:
        """See `Store.files`."""
        with self._reading() as db:
            return {row[0]: File(*row) for row in (db.execute("SELECT * FROM files") if db else ())}

    def count(self, filter: Filter | None = None) -> int:
        """See `Store.count`."""
        with self._reading() as db:
            if db is None or not filter:
                return len(self._snapshot)
            condition, values = database.where(filter)
            return db.execute(f"SELECT count(*) FROM rows WHERE {condition}", values).fetchone()[0]

    def cameras(self) -> list[str]:
        """See `Store.cameras`."""
        with self._reading() as db:
            found = db.execute("SELECT DISTINCT camera FROM rows WHERE camera NOT NULL ORDER BY 1") if db else ()
            return [camera for (camera,) in found]

    def last_track(self) -> int:
        """See `Store.last_track`."""
        with self._reading() as db:
            last = db.execute("SELECT max(track) FROM rows WHERE track NOT NULL").fetchone()[0] if db else None
            return -1 if last is None else last

    def search(
        self, queries: Vectors, k: int, filter: Filter | None = None, exact: bool = False
    ) -> tuple[npt.NDArray[np.float32], Ids]:
        """See `Store.search`.

        Raises:
            InputError: for queries of another length or with values that are not finite.
        """
        queries = check_vectors(queries, self.dim)
        with self._reading() as db:
            snapshot, ids = self._snapshot, None
            if db is not None and filter:
                condition, values = database.where(filter)
                ids = database.read_ids(db, f"SELECT id FROM rows WHERE {condition}", values)
        if ids is None and not exact and len(snapshot) > MIN_INDEX and not has_faiss() and not self._warned:
            self._warned = True
            seconds = len(snapshot) * queries.shape[1] * 4e-10  # measured: 0.1 s for a million of 256
            rows = f"{len(snapshot):,}"
            logger.warning("without faiss-cpu a query compares all %s vectors, about %.1f s of CPU", rows, seconds)
        return snapshot.search(queries, k, ids, exact)

    def rows(self, ids: Sequence[int] | Ids) -> dict[int, Row]:
        """See `Store.rows`."""
        with self._reading() as db:
            found = (db.execute(f"{database.ROWS} WHERE id = ?", (int(i),)).fetchone() for i in ids) if db else ()
            return {values[0]: database.to_row(*values) for values in found if values}

    def scan(self, batch: int = 65_536) -> Iterator[tuple[Vectors, list[Row]]]:
        """See `Store.scan`."""
        with self._reading():
            snapshot = self._snapshot
        slots = np.setdiff1d(np.arange(len(snapshot.ids)), snapshot.dead)
        for start in range(0, len(slots), batch):
            part = slots[start : start + batch]
            with self._reading() as db:
                assert db is not None
                ends = [int(snapshot.ids[place]) for place in (part[0], part[-1])]
                found = db.execute(f"{database.ROWS} WHERE id BETWEEN ? AND ? ORDER BY id", ends)
                rows = [database.to_row(*values) for values in found]
            yield snapshot.vectors(part), rows

    def info(self, verify: bool = False) -> dict[str, Any]:
        """See `Store.info`."""
        with self._reading() as db:
            snapshot = self._snapshot
            first, last = db.execute("SELECT min(time), max(time) FROM rows").fetchone() if db else (None, None)
            figures = {
                "format": FORMAT,
                "rows": len(snapshot),
                "files": db.execute("SELECT count(*) FROM files").fetchone()[0] if db else 0,
                "dim": self.dim,
                "fingerprint": self.fingerprint,
                "root": self.root,
                "cameras": self.cameras(),
                "first": first,
                "last": last,
                "segments": len(snapshot.segments),
                "segments_with_codes": sum(self._files.has_codes(segment.name) for segment in snapshot.segments),
                "deleted_not_purged": len(snapshot.dead),
                "bytes": self._files.size() + sum(path.stat().st_size for path in self._database_files()),
            }
            if verify:
                figures["problems"] = self._problems(db) if db else []
        return figures

    def _database_files(self) -> list[Path]:
        return [] if self.folder is None else list(self.folder.glob("rows.*"))

    def _problems(self, db: sqlite3.Connection) -> list[str]:
        snapshot = self._snapshot
        problems = [text for (text,) in db.execute("PRAGMA integrity_check") if text != "ok"]
        written = dict(db.execute("SELECT name, checksum FROM segments"))
        for name, ids, vectors in snapshot.segments:
            if vectors.shape != (len(ids), self.dim) or checksum(vectors) != written[name]:
                problems.append(f"segments/{name}.npy differs from what was written")
        rows = database.read_ids(db, "SELECT id FROM rows")
        if not np.array_equal(np.delete(snapshot.ids, snapshot.dead), rows):
            problems.append(f"{len(rows):,} rows but {len(snapshot):,} vectors, or of other numbers")
        return problems

    def close(self) -> None:
        """See `Store.close`."""
        with self._mutex:
            if self._db is not None:
                self._db.close()
                self._db = None

    def __enter__(self) -> FolderStore:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def read_header(folder: Path) -> dict[str, Any]:
    """``index.json``: dim, fingerprint and root.

    Raises:
        DataError: when it is damaged or of a newer format.
    """
    file = folder / "index.json"
    try:
        header = parse_json(read_bytes(file))
        version = int(header["format"])
        kept = {"dim": int(header["dim"]), "fingerprint": str(header["fingerprint"]), "root": str(header["root"])}
    except OSError as error:
        raise DataError(f"cannot read '{file}': {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"'{file}' is damaged: {error!r}") from error
    if version > FORMAT:
        raise DataError(f"'{folder}' has the format {version}, newer than {FORMAT}; update t2ireid_plugin")
    return kept
