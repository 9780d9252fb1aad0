"""Search in a large index: CPU time and memory of a query, recall, adding, filters, erasing, and killed writers.

Vectors are made like embeddings of photos and sentences: photos of one person lie close together on a curved surface of
few dimensions, and sentences lie apart from all photos, which makes approximate search harder than photos as queries.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.search_kills import kill_writers
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.search import Gallery, Hits
from t2ireid_plugin.utils.text import text_table

Array = npt.NDArray[np.float32]

DIM, _LATENT, _PHOTOS = 256, 48, 20  # values of a vector, dimensions of the surface, photos per person
_SPREAD, _VAGUENESS, _GAP = 0.35, 0.5, 0.6  # of a person's photos, of sentences, and between sentences and photos
_CAMERAS, _SECONDS = 10, 60 * 86_400  # of 60 days
_WEEK = ("cam3", 14 * 86_400.0, 21 * 86_400.0)
_CHUNK = 50_000
_TARGETS = {
    "query_cpu_ms_p50": 10, "query_cpu_ms_p95": 20, "recall_at_10": 0.995, "anonymous_mb": 200, "open_cpu_seconds": 0.5,
    "codes_mb": 64, "add_cpu_seconds": 30, "filter_cpu_ms": 50, "filter_recall": 1.0, "open_after_kill_cpu_seconds": 2,
}  # fmt: skip
_AT_LEAST = ("recall_at_10", "filter_recall")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``tools/benchmark.py search``."""
    parser.add_argument("--rows", type=int, default=1_000_000, metavar="N", help="vectors (1,000,000)")
    parser.add_argument("--queries", type=int, default=200, metavar="N", help="sentences (200)")
    parser.add_argument("--kills", type=int, default=30, metavar="N", help="writers to kill (30)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures in processes with one thread each, prints the figures beside their targets, and returns them.

    Raises:
        DataError: when a deleted vector is still in a file after purging, or a killed writer has lost rows.
    """
    from benchmarks.tiny import in_subprocess  # loads PyTorch, which a search does not

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes below
    figures: dict[str, Any] = {"rows": options.rows, "queries": options.queries}
    with tempfile.TemporaryDirectory() as folder:
        for part in ("build", "query", "erase"):
            arguments = {"part": part, "folder": folder, "rows": options.rows, "queries": options.queries}
            figures |= in_subprocess("benchmarks.search", **arguments)
    if options.kills:
        with tempfile.TemporaryDirectory() as folder:
            killed = kill_writers(Path(folder), options.kills)
        figures["open_after_kill_cpu_seconds"] = killed.pop("open_cpu_seconds")
        figures |= killed
    print(_table(figures))
    return figures


def _table(figures: dict[str, Any]) -> str:
    rows = []
    for name, value in figures.items():
        sign = "≥" if name in _AT_LEAST else "≤"
        target = f"{sign} {_TARGETS[name]}" if name in _TARGETS else ""
        rows.append([name, f"{value:,}" if isinstance(value, int) else f"{value:.4g}", target])
    return text_table(["", "measured", "target"], rows)


def make_photos(rows: int, seed: int = 0) -> Iterator[Array]:
    """Embeddings of photos in parts ``[n, 256]`` of unit norm, together ``rows``."""
    surface, rng = _Surface(), np.random.default_rng(seed)
    for start in range(0, rows, _CHUNK):
        count = min(_CHUNK, rows - start)
        people = rng.standard_normal((-(-count // _PHOTOS), _LATENT), dtype=np.float32)
        points = np.repeat(people, _PHOTOS, axis=0)[:count]
        yield surface.embed(points + _SPREAD * rng.standard_normal(points.shape, dtype=np.float32))


def make_sentences(count: int, seed: int = 0) -> Array:
    """Embeddings of sentences about the first people of `make_photos`, ``[count, 256]`` of unit norm."""
    surface, rng = _Surface(), np.random.default_rng(seed)
    people = rng.standard_normal((_CHUNK // _PHOTOS, _LATENT), dtype=np.float32)
    noise = np.random.default_rng(seed + 1)
    points = people[noise.integers(0, len(people), count)]
    photos = surface.embed(points + _VAGUENESS * noise.standard_normal(points.shape, dtype=np.float32))
    return _unit(photos + _GAP * surface.gap)


class _Surface:
    """A curved surface in the space of embeddings."""

    def __init__(self) -> None:
        rng = np.random.default_rng(48)
        self._bend = rng.standard_normal((_LATENT, 128), dtype=np.float32) / np.sqrt(_LATENT)
        self._place = rng.standard_normal((128, DIM), dtype=np.float32) / np.sqrt(128)
        self.gap = _unit(rng.standard_normal((1, DIM), dtype=np.float32))

    def embed(self, points: Array) -> Array:
        return _unit(np.tanh(1.5 * points @ self._bend) @ self._place)


def _unit(vectors: Array) -> Array:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _build(folder: Path, rows: int, queries: int) -> dict[str, Any]:
    """Adds all vectors with rows, and keeps the true answers, from plain products, for `_query`."""
    photos = np.concatenate(list(make_photos(rows)))
    rng = np.random.default_rng(7)
    cameras = [f"cam{camera}" for camera in rng.integers(0, _CAMERAS, rows).tolist()]
    times = np.sort(rng.uniform(0, _SECONDS, rows))
    paths = [f"/photos/{camera}/{number:08d}.jpg" for number, camera in enumerate(cameras)]
    started = time.process_time()
    with Gallery.open(folder / "people.idx", root="/photos") as gallery:
        gallery.add_embeddings(photos, paths, camera=cameras, time=times.tolist())
    seconds = time.process_time() - started
    sentences = make_sentences(queries)
    camera, after, before = _WEEK
    inside = np.flatnonzero((np.array(cameras) == camera) & (times >= after) & (times < before))
    best = [np.argsort(-(photos @ sentence), kind="stable")[:10] for sentence in sentences]
    best_inside = [inside[np.argsort(-(photos[inside] @ sentence), kind="stable")[:10]] for sentence in sentences]
    np.savez(folder / "answers.npz", sentences=sentences, best=best, best_inside=best_inside)
    sizes = {name: _size(folder / "people.idx" / name) / 1e6 for name in ("segments", "codes")}
    sizes["sqlite"] = (folder / "people.idx" / "rows.sqlite").stat().st_size / 1e6
    return {"add_cpu_seconds": seconds, **{f"{name}_mb": size for name, size in sizes.items()}, "filtered": len(inside)}


def _query(folder: Path, rows: int, queries: int) -> dict[str, Any]:
    """Times and memory of searching in a fresh process."""
    answers = np.load(folder / "answers.npz")
    before, started = _anonymous(), time.process_time()
    gallery = Gallery.open(folder / "people.idx", create=False)
    opened = time.process_time() - started
    gallery.search_embedding(answers["sentences"][0], k=10)
    first = time.process_time() - started
    camera, after, until = _WEEK
    sentences = answers["sentences"]
    plain = _timed(sentences, answers["best"], partial(gallery.search_embedding, k=10))
    week = partial(gallery.search_embedding, k=10, camera=camera, after=after, before=until)
    filtered = _timed(sentences, answers["best_inside"], week)
    memory = _anonymous()
    exact = _timed(sentences[:10], answers["best"], partial(gallery.search_embedding, k=10, exact=True))
    gallery.close()
    return {
        "query_cpu_ms_p50": np.percentile(plain[0], 50),
        "query_cpu_ms_p95": np.percentile(plain[0], 95),
        "recall_at_10": np.mean(plain[1]),
        "exact_cpu_ms": np.median(exact[0]),
        "exact_recall": np.mean(exact[1]),
        "filter_cpu_ms": np.median(filtered[0]),
        "filter_recall": np.mean(filtered[1]),
        "open_cpu_seconds": opened,
        "first_answer_cpu_seconds": first,
        "anonymous_mb": memory,
        "anonymous_mb_before": before,
    }


def _timed(sentences: Array, wanted: Any, search: Callable[[Array], Hits]) -> tuple[list[float], list[float]]:
    """CPU milliseconds and recall of each query."""
    times, recalls = [], []
    for sentence, best in zip(sentences, wanted):
        started = time.process_time()
        hits = search(sentence)
        times.append(1000 * (time.process_time() - started))
        recalls.append(len({hit.id for hit in hits} & set(best.tolist())) / len(best))
    return times, recalls


def _erase(folder: Path, rows: int, queries: int) -> dict[str, Any]:
    """Deletes one photo, purges, and looks for its bytes in all files."""
    index = folder / "people.idx"
    victim = min(rows // 2, 1000)
    with Gallery.open(index, create=False) as gallery:
        vector = next(iter(gallery.store.scan(victim + 1)))[0][victim].tobytes()
        path = next(iter(gallery.store.rows([victim]).values())).path
        started = time.process_time()
        gallery.delete(path=gallery.absolute_path(path))
        deleted = time.process_time() - started
        gallery.purge()
        purged = time.process_time() - started - deleted
    for file in filter(Path.is_file, index.rglob("*")):
        content = file.read_bytes()
        if vector in content or path.encode() in content:
            raise DataError(f"'{file.name}' still holds bytes of the deleted photo")
    return {"delete_cpu_seconds": deleted, "purge_cpu_seconds": purged}


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*"))


def _anonymous() -> float:
    """Megabytes of memory of this process that no file backs, on Linux; elsewhere 0."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("RssAnon:")), 0.0)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    measure = {"build": _build, "query": _query, "erase": _erase}[given.pop("part")]
    print(json.dumps({k: float(v) for k, v in measure(Path(given.pop("folder")), **given).items()}))
