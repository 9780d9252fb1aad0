"""Evaluators of the ranking benchmark; run as a module, measures one of them in a new process."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.machine import memory_peak, memory_used, reset_memory_peak
from t2ireid_plugin.evaluation.metrics import evaluate_task
from t2ireid_plugin.evaluation.protocols import RetrievalTask

Array = npt.NDArray
MAX_RANK = 50
_ROUNDING = 1e-6  # bound of the rounding error of float32 cosines, and of their distances from 1
_MAX_SECONDS = 30.0  # after which a contender is not repeated


class Task(NamedTuple):
    """Two sets of embeddings with their identities and cameras."""

    queries: Array  # [n, D] float32, unit norm
    gallery: Array  # [m, D] float32, unit norm
    q_pids: Array  # [n]
    g_pids: Array  # [m]
    q_camids: Array  # [n]; -1, a text has no camera
    g_camids: Array  # [m]

    def of(self, chosen: slice | Array) -> Task:
        """The task with a part of the queries."""
        return self._replace(queries=self.queries[chosen], q_pids=self.q_pids[chosen], q_camids=self.q_camids[chosen])

    def decidable(self, number: int) -> Task:
        """Those of the first ``number`` queries whose ranks do not depend on rounding in float32.

        None of their positives is closer than `_ROUNDING` to a negative.
        """
        first = self.of(slice(number))
        cosines = first.queries.astype(np.float64) @ self.gallery.T.astype(np.float64)
        chosen = []
        for i, (row, pid) in enumerate(zip(cosines, first.q_pids)):
            negatives = np.sort(row[self.g_pids != pid])
            bounds = row[self.g_pids == pid, None] + (-_ROUNDING, _ROUNDING)
            if not np.diff(np.searchsorted(negatives, bounds)).any():
                chosen.append(i)
        return first.of(np.array(chosen, dtype=np.int64))


Evaluator = Callable[[Task], tuple[Array, float]]  # R@k for k from 1, and mAP


def make_task(queries: int, images: int, people: int, dim: int = 256, seed: int = 0) -> Task:
    """Simulated embeddings of a trained model: R@1 about 0.6, mAP 0.4 and mINP 0.1 at ICFG-PEDES's size.

    An embedding is its identity's centre plus noise. The noise is larger for sentences than for photos, and its size
    varies, since equal noise would make all queries equally hard.
    """
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((people, dim), dtype=np.float32)
    sides = []
    for number, noise, spread in ((queries, 3.0, 0.7), (images, 1.5, 0.3)):
        pids = rng.permutation(np.arange(number) % people)
        scale = noise * np.exp(spread * rng.standard_normal((number, 1), dtype=np.float32))
        features = centres[pids] + scale * rng.standard_normal((number, dim), dtype=np.float32)
        sides.append((features / np.linalg.norm(features, axis=1, keepdims=True), pids))
    (q, q_pids), (g, g_pids) = sides
    return Task(q, g, q_pids, g_pids, np.full(queries, -1), np.arange(images) % 6)


def load_evaluator(name: str, cython_library: str | None = None) -> Evaluator:
    """Evaluator ``ours``, ``draft``, ``python`` or ``cython``; the last needs torchreid's compiled module."""
    if name == "ours":
        return _ours
    if name == "draft":
        return _draft
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Cython evaluation")
        from torchreid import metrics
    if name == "python":
        evaluate = metrics.evaluate_rank
        options = {"use_cython": False}
    else:
        assert cython_library is not None
        evaluate = _load_extension(cython_library).evaluate_cy
        options = {}

    def from_embeddings(task: Task) -> tuple[Array, float]:
        embeddings = torch.from_numpy(task.queries), torch.from_numpy(task.gallery)
        distances = metrics.compute_distance_matrix(*embeddings, "cosine").numpy()
        return evaluate(distances, *task[2:], MAX_RANK, **options)

    return from_embeddings


def _load_extension(file: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(file).name.split(".")[0], file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _ours(task: Task) -> tuple[Array, float]:
    sides = torch.from_numpy(task.queries), torch.from_numpy(task.gallery)
    result = evaluate_task(RetrievalTask(*sides, *task[2:]), ranks=(1,))
    return result.cmc(MAX_RANK), result.metrics["mAP"]


def _draft(task: Task) -> tuple[Array, float]:
    """Straightforward evaluator: one row of similarities at a time, one pass over it for each positive."""
    hits, precisions = np.zeros(MAX_RANK), []
    for start in range(0, len(task.queries), 512):
        scores = task.queries[start : start + 512] @ task.gallery.T
        for row, pid, camid in zip(scores, task.q_pids[start:], task.q_camids[start:]):
            same = task.g_pids == pid
            positives = np.sort(row[same & (task.g_camids != camid)])[::-1]
            if not len(positives):
                continue
            negatives = row[~same]
            ahead = np.array([np.count_nonzero(negatives >= score) for score in positives])
            ranks = ahead + np.arange(1, len(positives) + 1)
            hits[ranks[0] - 1 :] += 1
            precisions.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    return hits / len(precisions), float(np.mean(precisions))


def measure(
    name: str,
    size: tuple[int, int, int],
    timed_queries: int,
    checked_queries: int,
    repeats: int,
    cython_library: str | None = None,
) -> dict[str, Any]:
    """Measures one contender.

    Returns:
        ``seconds`` of each repetition over the first ``timed_queries``; ``extra_bytes``, the peak memory minus that
        before; ``checked_queries``, the number of decidable ones among the first ``checked_queries``; and their
        ``cmc [MAX_RANK]`` and ``mAP``.
    """
    task = make_task(*size)
    evaluate = load_evaluator(name, cython_library)
    evaluate(make_task(64, 64, 8))  # warms up
    timed = task.of(slice(timed_queries))
    before = memory_used()
    reset_memory_peak()
    seconds: list[float] = []
    while len(seconds) < repeats and sum(seconds) < _MAX_SECONDS:
        started = time.perf_counter()
        evaluate(timed)
        seconds.append(time.perf_counter() - started)
    extra = memory_peak() - before
    checked = task.decidable(checked_queries)
    cmc, mean_ap = evaluate(checked)
    return {
        "seconds": seconds,
        "extra_bytes": extra,
        "checked_queries": len(checked.queries),
        "cmc": [float(share) for share in cmc],
        "mAP": float(mean_ap),
    }


if __name__ == "__main__":
    figures = measure(**json.loads(sys.argv[1]))
    print(json.dumps(figures))  # the last line; torchreid may print others
