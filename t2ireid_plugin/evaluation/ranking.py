"""Exact R@k, mAP and mINP from embeddings, without the whole similarity matrix.

Only the ranks of the correct images matter, so nothing is sorted: a correct image's rank is one more than the number
of images that score at least as high without being correct, plus the correct ones before it. Ties thus count
against the model, and constant features score as badly as they deserve.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.errors import DataError

Array = npt.NDArray
_CHUNK = 512  # queries whose similarities are held at once


class RankingResult(NamedTuple):
    """Metrics of one query set against one gallery, as shares of 1."""

    cmc: Array  # [max_rank] float64; cmc[k-1] is R@k
    mAP: float
    mINP: float
    num_valid_queries: int  # queries with at least one correct image; the metrics are means over these


def evaluate(
    query_features: Array,
    gallery_features: Array,
    q_pids: Array,
    g_pids: Array,
    q_camids: Array | None = None,
    g_camids: Array | None = None,
    max_rank: int = 50,
) -> RankingResult:
    """Ranks the gallery for each query by cosine similarity.

    Args:
        query_features: ``[n, D]``; normalised here.
        gallery_features: ``[m, D]``; normalised here.
        q_pids: identities of the queries ``[n]``, any integers.
        g_pids: identities of the gallery ``[m]``.
        q_camids: cameras ``[n]``; with them, gallery images of the query's identity and camera are left out, as in
            ``torchreid.metrics.evaluate_rank``.
        g_camids: cameras ``[m]``.
        max_rank: length of the CMC curve; a gallery smaller than that gives 1 from its size on.

    Returns:
        AP is the mean over a query's correct images of (correct images up to it) / (its rank); INP is (number of
        correct images) / (rank of the last one), Ye et al. 2021, https://arxiv.org/abs/2001.04193, section 4.

    Raises:
        DataError: when no query has a correct image in the gallery.
        ValueError: when lengths do not match, or only one side has cameras.
    """
    if len(query_features) != len(q_pids) or len(gallery_features) != len(g_pids):
        raise ValueError(
            f"{len(query_features)} query features for {len(q_pids)} pids, "
            f"{len(gallery_features)} gallery features for {len(g_pids)} pids"
        )
    if (q_camids is None) != (g_camids is None):
        raise ValueError("cameras are needed of both the queries and the gallery, or of neither")
    queries, gallery = _unit(query_features), _unit(gallery_features)
    first_ranks, precisions, penalties = [], [], []
    for start in range(0, len(queries), _CHUNK):
        scores = queries[start : start + _CHUNK] @ gallery.T  # [chunk, m]
        for i, row in enumerate(scores, start):
            correct = g_pids == q_pids[i]
            if q_camids is not None and g_camids is not None:
                kept = ~(correct & (g_camids == q_camids[i]))
                row, correct = row[kept], correct[kept]
            if not correct.any():
                continue
            ranks = _ranks(row, correct)
            order = np.arange(1, len(ranks) + 1)
            first_ranks.append(ranks[0])
            precisions.append(np.mean(order / ranks))
            penalties.append(len(ranks) / ranks[-1])
    if not first_ranks:
        raise DataError("no query has an image of its identity in the gallery")
    cmc = (np.asarray(first_ranks)[:, None] <= np.arange(1, max_rank + 1)).mean(axis=0)
    return RankingResult(cmc, float(np.mean(precisions)), float(np.mean(penalties)), len(first_ranks))


def _unit(features: Array) -> Array:
    features = np.asarray(features, dtype=np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _ranks(scores: Array, correct: Array) -> Array:
    """Ranks from 1 of the correct images among all ``scores [m]``, ascending; ties with wrong ones rank after."""
    right = -np.sort(-scores[correct])  # best first
    wrong = np.sort(scores[~correct])
    ahead = len(wrong) - np.searchsorted(wrong, right, side="left")  # wrong ones that score as high or higher
    return ahead + np.arange(1, len(right) + 1)
