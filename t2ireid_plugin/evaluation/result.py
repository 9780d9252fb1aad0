"""The result of one retrieval: what the engine returns, files store, runs are compared by and pictures show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.evaluation.protocols import RetrievalTask

Array = npt.NDArray
Metrics = dict[str, Any]
CHOSEN_ON_TEST = "the epoch was chosen on this test set, so figures on other people will be lower"


@dataclass(frozen=True, eq=False)
class RetrievalResult:
    """Figures of one target under one protocol.

    Arrays have one entry for each of the ``v`` queries that have a positive; the metrics are means over these queries,
    as torchreid's are.

    Args:
        first_rank: rank of the first positive, from 1; int32 ``[v]``. A query is a hit of R@k where this is at most k.
        AP: mean over the positives of (positives up to it) / (its rank), as torchreid's; float64 ``[v]``.
        INP: positives / (rank of the last), Ye et al. 2021, https://arxiv.org/abs/2001.04193; float64 ``[v]``.
        pids: identities of the queries; int64 ``[v]``.
        query_index: positions of these queries among all of the task ``[v]``; empty when loaded from a file.
        keys: numbers that identify the queries in other runs, see `query_keys`; uint64 ``[v]``, or empty.
        target: name of the test target.
        protocol: name in `PROTOCOLS`.
        task: embeddings and labels that were ranked; None when loaded from a file.
        metrics: see `evaluate_task`.
        reranked: the metrics after re-ranking, where that was asked for.
    """

    first_rank: Array
    AP: Array
    INP: Array
    pids: Array
    query_index: Array = field(default_factory=lambda: np.empty(0, np.int64))
    keys: Array = field(default_factory=lambda: np.empty(0, np.uint64))
    target: str = ""
    protocol: str = ""
    task: RetrievalTask | None = None
    metrics: Metrics = field(default_factory=dict)
    reranked: Metrics | None = None

    def cmc(self, max_rank: int = 50) -> Array:
        """R@1 to R@``max_rank`` as shares of 1; float64 ``[max_rank]``."""
        hits = np.bincount(self.first_rank, minlength=max_rank + 1)[1 : max_rank + 1]
        return np.cumsum(hits) / len(self.first_rank)

    def select(self, positions: Array) -> RetrievalResult:
        """The queries at ``positions [k]``, in that order, of a result that was loaded from a file."""
        names = ("first_rank", "AP", "INP", "pids", *(["keys"] if len(self.keys) else []))
        return replace(self, **{name: getattr(self, name)[positions] for name in names})


def query_figures(ranks: Sequence[Sequence[int]]) -> tuple[Array, Array, Array]:
    """``first_rank``, ``AP`` and ``INP`` of a `RetrievalResult` from the ascending ranks of each query's positives."""
    return (
        np.array([own[0] for own in ranks], np.int32),
        np.array([sum(place / rank for place, rank in enumerate(own, 1)) / len(own) for own in ranks]),
        np.array([len(own) / own[-1] for own in ranks]),
    )
