"""Exact CMC, mAP and mINP from embeddings."""

from __future__ import annotations

from typing import NamedTuple

import numpy.typing as npt
from torch import Tensor

from t2ireid_plugin.evaluation.ranks import Features, Integers, positive_ranks
from t2ireid_plugin.evaluation.result import RetrievalResult


class RankingResult(NamedTuple):
    """Metrics of one query set against one gallery, as shares of 1."""

    cmc: npt.NDArray  # [max_rank] float64; cmc[k-1] is R@k
    mAP: float
    mINP: float
    num_valid_queries: int  # queries with a positive; the metrics are means over these, as torchreid's are


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
    ranks = positive_ranks(query_features, gallery_features, q_pids, g_pids, q_camids, g_camids)
    result = RetrievalResult.from_ranks(ranks, q_pids.cpu() if isinstance(q_pids, Tensor) else q_pids)
    return RankingResult(
        result.cmc(max_rank), float(result.AP.mean()), float(result.INP.mean()), len(result.first_rank)
    )
