"""An index on a Milvus server or cluster.

The collection ``NAME`` has a row per vector; ``NAME_files`` has the records of files. Milvus has no transactions over
several calls: `MilvusStore.add` inserts rows, then removes those they replace, then records files, so that after an
interruption the next update of the same files completes it. Other processes see a change a moment later.
"""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import json
import logging
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from t2ireid_plugin.errors import ConfigError, DataError, DependencyError
from t2ireid_plugin.search.rows import File, Filter, Move, Row
from t2ireid_plugin.search.store import Ids, Vectors
from t2ireid_plugin.search.store.expressions import among, expression
from t2ireid_plugin.search.store.segments import check_vectors

FORMAT = 1
TIMEOUT = 5.0  # seconds to wait for a server to answer the first time
_INSERT = 500  # rows per call: at most 33 MB with the largest crops, where Milvus accepts 64
_READ = 1000  # rows per call, and values of a list in an expression
_CANDIDATES = 400  # that the index selects per query, as in the folder store, before exact scores order them
_MAX_CANDIDATES = 16_384  # Milvus' limit
_MAX_TEXT = 65_535  # bytes of a text, Milvus' limit
_EMPTY = {"nullable": True}
_Fields = dict[str, tuple[str, dict[str, Any]]]
_ROW: _Fields = {  # fields of `Row`
    "path": ("VARCHAR", {"max_length": 4096}),
    "camera": ("VARCHAR", {"max_length": 1024, **_EMPTY}),
    "time": ("DOUBLE", _EMPTY),
    "track": ("INT64", _EMPTY),
    "box": ("JSON", _EMPTY),
    "frame": ("INT64", _EMPTY),
    "crop": ("VARCHAR", {"max_length": _MAX_TEXT}),  # base64
}
_FILE: _Fields = {  # fields of `File`
    "path": ("VARCHAR", {"is_primary": True, "max_length": 4096}),
    "size": ("INT64", {}),
    "mtime": ("INT64", {}),
    "digest": ("VARCHAR", {"max_length": 128}),  # hexadecimal
    "note": ("VARCHAR", {"max_length": 16_384}),
}


class MilvusStore:
    """`Store` in a collection of Milvus, which the first `add` creates.

    The environment variable ``MILVUS_TOKEN``, as ``user:password``, is sent to servers that ask for one.

    Args:
        where: ``milvus://HOST:PORT/NAME``.
        dim: length of a vector; None to take it from the collection or from the first vectors.
        fingerprint: of the encoder; None for any.
        root: folder of relative paths; None for the one in the collection, which by default keeps absolute paths.

    Raises:
        ConfigError: for an address of another form.
        DependencyError: without pymilvus.
        DataError: when the server cannot be reached, or the collection is of another encoder, dimension or format, or
            is not an index.
    """

    def __init__(
        self, where: str, dim: int | None = None, fingerprint: str | None = None, root: str | Path | None = None
    ) -> None:
        address = re.fullmatch(r"milvus://([^/@]+:\d+)/([A-Za-z_]\w*)", where)
        if address is None:
            raise ConfigError(f"'{where}' is not an address such as milvus://localhost:19530/people")
        try:
            import pymilvus
        except ImportError as error:
            raise DependencyError("milvus:// needs pymilvus; pip install pymilvus") from error
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs the traceback of each error it raises
        self._where, self._rows, self._files = where, address[2], f"{address[2]}_files"
        self._milvus = pymilvus
        self.dim, self.fingerprint, self.root = dim, fingerprint or "", "" if root is None else os.path.abspath(root)
        with self._explained():
            server, token = f"http://{address[1]}", os.environ.get("MILVUS_TOKEN", "")
            # Milvus Lite ends connections that are pinged while idle, by default every ten seconds.
            quiet = {"grpc.keepalive_permit_without_calls": False}
            options = {"dedicated": True, "grpc_options": quiet}  # dedicated: close() closes it
            self._client = pymilvus.MilvusClient(server, token=token, timeout=TIMEOUT, **options)
            self.exists = self._client.has_collection(self._rows)
            if self.exists:
                self._open(dim, fingerprint, root)

    def _open(self, dim: int | None, fingerprint: str | None, root: str | Path | None) -> None:
        about = self._client.describe_collection(self._rows)
        try:
            header = json.loads(about["properties"]["t2ireid"])
            version, made_by, stored_root = header["format"], header["fingerprint"], header["root"]
        except (KeyError, ValueError) as error:
            raise DataError(f"'{self._where}' is not an index; name a new collection") from error
        if version > FORMAT:
            raise DataError(f"'{self._where}' has the format {version}, newer than {FORMAT}; update t2ireid_plugin")
        stored = next(int(f["params"]["dim"]) for f in about["fields"] if f["name"] == "vector")
        if fingerprint is not None and fingerprint != made_by:
            raise DataError(
                f"'{self._where}' was built by another model, of fingerprint {made_by or 'none'}; this model has "
                f"{fingerprint}: use that model, or name a new collection"
            )
        if dim is not None and dim != stored:
            raise DataError(f"'{self._where}' holds vectors of {stored} values, not {dim}; name a new collection")
        self.dim, self.fingerprint = stored, made_by
        if root is None:
            self.root = stored_root
        for collection in (self._rows, self._files):
            self._client.load_collection(collection)

    def _create(self, dim: int) -> None:
        """Makes both collections; the one of rows, made last, is what makes an index."""
        self.dim = dim
        rows: _Fields = {"id": ("INT64", {"is_primary": True, "auto_id": True}), "vector": _vector(dim), **_ROW}
        files = {"vector": _vector(2), **_FILE}  # zeros, for Milvus has no collection without vectors
        header = json.dumps({"format": FORMAT, "fingerprint": self.fingerprint, "root": self.root})
        for name, fields in ((self._files, files), (self._rows, rows)):
            if self._client.has_collection(name):
                continue
            schema = self._client.create_schema()
            for field, (kind, options) in fields.items():
                schema.add_field(field, self._milvus.DataType[kind], **options)
            index = self._client.prepare_index_params()
            index.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
            about = {"consistency_level": "Session", "properties": {"t2ireid": header}}
            self._client.create_collection(name, schema=schema, index_params=index, **about)
        self.exists = True

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns errors of the server into one line."""
        try:
            yield
        except self._milvus.MilvusException as error:
            reason = " ".join(str(error.message).split())
            raise DataError(f"'{self._where}': {reason}; check the address and the server") from error

    def writing(self) -> AbstractContextManager[None]:
        """Does nothing: Milvus cannot keep other processes from writing. Let one process write at a time."""
        return contextlib.nullcontext()

    # Writing

    def add(
        self, vectors: Vectors, rows: Iterable[Row], files: Sequence[File] = (), replace: Collection[str] = ()
    ) -> Ids:
        """See `Store.add`, and the module for what an interruption leaves.

        Raises:
            InputError: for vectors of another length or with values that are not finite.
            DataError: for errors of the server.
        """
        vectors = check_vectors(vectors, self.dim)
        with self._explained():
            if not self.exists:
                self._create(vectors.shape[1])
            old = [row["id"] for part in _parts(replace) for row in self._query(among("path", part), ["path"])]
            ids: list[int] = []
            pairs = zip(vectors, rows, strict=True)
            for batch in _parts((_to_entity(row, vector) for vector, row in pairs), _INSERT):
                ids += self._client.insert(self._rows, batch)["ids"]
            self._remove(self._rows, "id", old)
            self._remove(self._files, "path", replace)
            records = [{**f._asdict(), "digest": f.digest.hex(), "vector": np.zeros(2, np.float32)} for f in files]
            for batch in _parts(records):
                self._client.upsert(self._files, batch)
        return np.array(ids, np.int64)

    def _remove(self, collection: str, key: str, values: Iterable[int | str]) -> None:
        for part in _parts(values):
            self._client.delete(collection, filter=among(key, part))

    def move(self, moves: Sequence[Move]) -> None:
        """See `Store.move`; the rows get new ids."""
        with self._explained():
            for part in _parts(moves):
                targets = {old: (file.path, camera) for old, file, camera in part}
                moved, old_ids = [], []
                for row in self._query(among("path", list(targets)), ["vector", *_ROW]):
                    path, camera = targets[row["path"]]
                    changes = {"path": path, "camera": row["camera"] if camera is None else camera}
                    if changes.items() <= row.items():
                        continue  # only its size or time changed
                    old_ids.append(row.pop("id"))
                    moved.append({**row, **changes})
                for batch in _parts(moved, _INSERT):
                    self._client.insert(self._rows, batch)
                self._remove(self._rows, "id", old_ids)
                self._remove(self._files, "path", targets)
        self.add(np.empty((0, self.dim or 0), np.float32), [], [file for _, file, _ in moves])

    def delete(self, filter: Filter) -> int:
        """See `Store.delete`."""
        if not self.exists:
            return 0
        chosen = expression(filter)
        with self._explained():
            rows = list(self._query(chosen, ["path"]))
            self._remove(self._rows, "id", [row["id"] for row in rows])
            for part in _parts(list({row["path"] for row in rows})):
                left = {row["path"] for row in self._query(among("path", part), ["path"])}
                self._remove(self._files, "path", [path for path in part if path not in left])
            if filter == Filter(path=filter.path):
                self._client.delete(self._files, filter=chosen)
        return len(rows)

    def purge(self) -> None:
        """Has Milvus rewrite its segments without deleted rows, and waits for it.

        Milvus removes the files of the segments before, and its log, only later, as its garbage collection is set.
        """
        if not self.exists:
            return
        with self._explained():
            for collection in (self._rows, self._files):
                self._client.flush(collection)
                job = self._client.compact(collection)
                while self._client.get_compaction_state(job) != "Completed":
                    time.sleep(1)

    # Reading

    def _query(self, chosen: str, fields: Iterable[str], collection: str | None = None) -> Iterator[dict[str, Any]]:
        """Entities that match an expression, in the order of their ids."""
        name = collection or self._rows
        found = self._client.query_iterator(name, batch_size=_READ, filter=chosen, output_fields=list(fields))
        with contextlib.closing(found):
            while batch := found.next():
                yield from batch

    def files(self) -> dict[str, File]:
        """See `Store.files`."""
        with self._explained():
            records = self._query("", _FILE, self._files) if self.exists else ()
            return {r["path"]: File(**{**r, "digest": bytes.fromhex(r["digest"])}) for r in records}

    def count(self, filter: Filter | None = None) -> int:
        """See `Store.count`."""
        return self._count(self._rows, expression(filter) if filter else "")

    def _count(self, collection: str, chosen: str = "") -> int:
        if not self.exists:
            return 0
        with self._explained():
            return self._client.query(collection, filter=chosen, output_fields=["count(*)"])[0]["count(*)"]

    def cameras(self) -> list[str]:
        """See `Store.cameras`; one query per camera, since Milvus does not list distinct values."""
        known: list[str] = []
        with self._explained():
            while self.exists:
                unseen = f"camera is not null and not ({among('camera', known)})" if known else "camera is not null"
                found = self._client.query(self._rows, filter=unseen, output_fields=["camera"], limit=1)
                if not found:
                    break
                known.append(found[0]["camera"])
        return sorted(known)

    def last_track(self) -> int:
        """See `Store.last_track`; by halving, since Milvus has no maximum."""
        last, step = -1, 1 << 40
        with self._explained():
            while self.exists and step:
                beyond = f"track > {last + step - 1}"
                found = self._client.query(self._rows, filter=beyond, output_fields=["track"], limit=1)
                last, step = (found[0]["track"], step) if found else (last, step // 2)
        return last

    def search(
        self, queries: Vectors, k: int, filter: Filter | None = None, exact: bool = False
    ) -> tuple[npt.NDArray[np.float32], Ids]:
        """See `Store.search`; by Milvus' index where more rows match than it gives, else by reading all of them.

        Raises:
            InputError: for queries of another length or with values that are not finite.
            DataError: for errors of the server.
        """
        queries = check_vectors(queries, self.dim)
        with self._explained():
            chosen, count = expression(filter) if filter else "", max(_CANDIDATES, 2 * k)
            if exact or count > _MAX_CANDIDATES or self.count(filter) <= count:
                found = self._query(chosen, ["vector"]) if self.exists else iter(())
            else:
                options: dict[str, Any] = {"filter": chosen, "limit": count, "output_fields": ["vector"]}
                hits = self._client.search(self._rows, data=list(queries), anns_field="vector", **options)
                found = iter({hit["id"]: {"id": hit["id"], **hit["entity"]} for best in hits for hit in best}.values())
            ids, products = [], [np.empty((len(queries), 0))]
            for part in _parts(found):
                ids += [entity["id"] for entity in part]
                products.append(queries.astype(np.float64) @ np.array([entity["vector"] for entity in part]).T)
        scores = np.concatenate(products, axis=1).astype(np.float32)  # [q, n]
        numbers = np.broadcast_to(np.array(ids, np.int64), scores.shape)
        order = np.lexsort((numbers, -scores))[:, :k]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(numbers, order, axis=1)

    def rows(self, ids: Sequence[int] | Ids) -> dict[int, Row]:
        """See `Store.rows`."""
        with self._explained():
            parts = _parts([int(i) for i in ids]) if self.exists else ()
            found = (row for part in parts for row in self._client.get(self._rows, ids=part, output_fields=list(_ROW)))
            return {row["id"]: _to_row(row) for row in found}

    def scan(self, batch: int = _READ) -> Iterator[tuple[Vectors, list[Row]]]:
        """See `Store.scan`."""
        with self._explained():
            found = self._query("", ["vector", *_ROW]) if self.exists else iter(())
            for part in _parts(found, batch):
                yield np.array([row["vector"] for row in part], np.float32), [_to_row(row) for row in part]

    def info(self, verify: bool = False) -> dict[str, Any]:
        """See `Store.info`."""
        with self._explained():
            figures: dict[str, Any] = {
                "format": FORMAT,
                "rows": self.count(),
                "files": self._count(self._files),
                "dim": self.dim,
                "fingerprint": self.fingerprint,
                "root": self.root,
                "cameras": self.cameras(),
                "server": self._client.get_server_version(),
            }
            if verify:
                read = sum(np.isfinite(vectors).all(axis=1).sum() for vectors, _ in self.scan())
                figures["problems"] = [] if read == figures["rows"] else [f"{read:,} of {figures['rows']:,} rows read"]
        return figures

    def close(self) -> None:
        """See `Store.close`."""
        self._client.close()


def _vector(dim: int) -> tuple[str, dict[str, Any]]:
    return "FLOAT_VECTOR", {"dim": dim}


def _parts(items: Iterable[Any], size: int = _READ) -> Iterator[list[Any]]:
    iterator = iter(items)
    while part := list(itertools.islice(iterator, size)):
        yield part


def _to_entity(row: Row, vector: npt.NDArray[np.float32]) -> dict[str, Any]:
    box = row.box and {"corners": [float(edge) for edge in row.box]}
    return {**row._asdict(), "box": box, "crop": _to_text(row.crop), "vector": vector}


def _to_row(entity: dict[str, Any]) -> Row:
    box = entity["box"] and tuple(entity["box"]["corners"])
    return Row(**{**{name: entity[name] for name in _ROW}, "box": box, "crop": base64.b64decode(entity["crop"])})


def _to_text(crop: bytes) -> str:
    """A JPEG file as base64, of half the size as often as Milvus' limit needs."""
    while len(crop) > _MAX_TEXT * 3 // 4 - 2:
        smaller = io.BytesIO()
        Image.open(io.BytesIO(crop)).reduce(2).save(smaller, "JPEG", quality=90)
        crop = smaller.getvalue()
    return base64.b64encode(crop).decode()
