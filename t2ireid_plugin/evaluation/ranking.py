"""Exact R@k, mAP and mINP from embeddings: reductions over the ranks of the positives, in float64."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation.ranks import Features, Integers, PositiveRanks, positive_ranks

__all__ = ["PositiveRanks", "QueryScores", "RankingResult", "evaluate", "positive_ranks", "score_queries", "summarize"]

Array = npt.NDArray


class QueryScores(NamedTuple):
    """Figures of each query that has a positive, ``v`` of them; their means are the metrics."""

    query_index: Array  # [v] int64, ascending
    first_rank: Array  # [v] int32; the query is a hit of R@k where this is at most k
    AP: Array  # [v] float64
    INP: Array  # [v] float64


class RankingResult(NamedTuple):
    """Metrics of one query set against one gallery, as shares of 1."""

    cmc: Array  # [max_rank] float64; cmc[k-1] is R@k
    mAP: float
    mINP: float
    num_valid_queries: int  # queries with a positive; the metrics are means over these, as torchreid's are
    num_queries: int  # all queries

    @property
    def num_skipped_queries(self) -> int:
        """Queries without a positive."""
        return self.num_queries - self.num_valid_queries


def evaluate(
    query_features: Features,
    gallery_features: Features,
    q_pids: Integers,
    g_pids: Integers,
    q_camids: Integers | None = None,
    g_camids: Integers | None = None,
    max_rank: int = 50,
) -> RankingResult:
    """Ranks the gallery for each query by cosine similarity; arguments and errors are those of `positive_ranks`.

    ``max_rank`` is the length of the CMC curve, which is 1 from the gallery's size on.

    Raises:
        DataError: also when no query has a positive.
    """
    return summarize(positive_ranks(query_features, gallery_features, q_pids, g_pids, q_camids, g_camids), max_rank)


def summarize(positives: PositiveRanks, max_rank: int = 50) -> RankingResult:
    """The means of `score_queries`, and the share of first ranks up to each of 1 to ``max_rank``.

    Raises:
        DataError: when no query has a positive.
    """
    scores = score_queries(positives)
    valid = len(scores.query_index)
    if not valid:
        raise DataError("no query has an image of its identity in the gallery")
    firsts = np.bincount(np.minimum(scores.first_rank, max_rank + 1), minlength=max_rank + 2)
    cmc = np.cumsum(firsts[1 : max_rank + 1]) / valid
    return RankingResult(cmc, float(scores.AP.mean()), float(scores.INP.mean()), valid, len(positives.counts))


def score_queries(positives: PositiveRanks) -> QueryScores:
    """First rank, AP and INP of each query that has a positive.

    AP is the mean over a query's positives of (positives up to it) / (its rank), as in torchreid's
    ``evaluate_rank``; INP is (number of positives) / (rank of the last), Ye et al. 2021,
    https://arxiv.org/abs/2001.04193, section 4.
    """
    query_index = np.flatnonzero(positives.counts)
    ranks, counts, starts = positives.ranks, positives.counts[query_index], positives.offsets[query_index]
    order = np.arange(1, len(ranks) + 1) - np.repeat(starts, counts)
    # reduceat takes no empty slices, and without them each query's slice ends where the next one's begins.
    precision = np.add.reduceat(order / ranks, starts) / counts
    return QueryScores(query_index, ranks[starts], precision, counts / ranks[starts + counts - 1])
