"""The metrics of one comparison as a named result, by torchreid's evaluator or by ours, and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchreid import metrics as torchreid_metrics
from torchreid import utils as torchreid_utils

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation import ranking
from t2ireid_plugin.evaluation.bootstrap import intervals
from t2ireid_plugin.evaluation.protocols import RetrievalTask
from t2ireid_plugin.evaluation.ranking import QueryScores
from t2ireid_plugin.evaluation.ranks import PositiveRanks, positive_ranks

EVALUATORS = ("exact", "torchreid")

Metrics = dict[str, Any]


def compute_metrics(
    comparison: RetrievalTask,
    ranks: Sequence[int] = (1, 5, 10),
    evaluator: str = "exact",
    samples: int = 0,
    metric: str = "cosine",
) -> tuple[Metrics, QueryScores]:
    """``R@k`` for each of ``ranks``, ``mAP``, ``mINP`` as shares of 1, counts, intervals; and each query's figures.

    Args:
        comparison: embeddings, identities and cameras of queries and gallery.
        ranks: the k of R@k.
        evaluator: ``exact`` takes all from `ranking`, ``torchreid`` takes R@k and mAP from
            ``torchreid.metrics.evaluate_rank`` (which has no mINP). They agree but for ties.
        samples: of the bootstrap over identities; with 0 there are no intervals.
        metric: ``cosine`` or ``euclidean``. With the latter, features that are not of unit norm take a whole matrix
            of distances, as torchreid does.

    Raises:
        DataError: when no query has an image of its identity in the gallery.
    """
    if metric == "cosine" or all(_unit_norm(features) for features in comparison[:2]):
        positives = positive_ranks(*comparison)
    else:
        positives = _ranks_of_distances(_distances(*comparison[:2], metric), comparison)
    metrics, scores = summarize(positives, comparison, ranks, samples)
    if evaluator == "torchreid":
        distances = _distances(*comparison[:2], metric)
        cmc, mean_ap = torchreid_metrics.evaluate_rank(distances, *comparison[2:], max_rank=max(ranks))
        # A gallery smaller than the largest rank gives a shorter curve; from its end on all has been found.
        cmc = np.append(cmc, np.ones(max(0, max(ranks) - len(cmc))))
        metrics.update({f"R@{k}": float(cmc[k - 1]) for k in ranks}, mAP=float(mean_ap))
    return metrics, scores


def summarize(
    positives: PositiveRanks, comparison: RetrievalTask, ranks: Sequence[int], samples: int
) -> tuple[Metrics, QueryScores]:
    """The metrics of `compute_metrics` from the ranks of the positives."""
    result, scores = ranking.summarize(positives, max(ranks)), ranking.score_queries(positives)
    metrics: Metrics = {f"R@{k}": float(result.cmc[k - 1]) for k in ranks}
    metrics.update(
        mAP=result.mAP,
        mINP=result.mINP,
        queries=result.num_queries,
        valid_queries=result.num_valid_queries,
        skipped_queries=result.num_skipped_queries,  # without a match in their gallery; they count for nothing
        gallery=len(comparison.g_pids),
        identities=len(np.unique(comparison.q_pids)),
    )
    if samples:
        found = intervals(scores, comparison.q_pids, ranks=ranks, samples=samples)
        metrics["interval95"] = {name: [float(low), float(high)] for name, (low, high) in found.items()}
    return metrics, scores


def reranked_metrics(
    comparison: RetrievalTask, ranks: Sequence[int] = (1, 5, 10), samples: int = 0, metric: str = "cosine"
) -> Metrics:
    """The metrics after torchreid's k-reciprocal re-ranking (Zhong et al. 2017), which holds whole distance matrices.

    Raises:
        DataError: when no query has an image of its identity in the gallery.
    """
    queries, gallery = comparison[:2]
    pairs = (queries, gallery), (queries, queries), (gallery, gallery)
    reranked = torchreid_utils.re_ranking(*(_distances(*pair, metric) for pair in pairs))
    return summarize(_ranks_of_distances(reranked, comparison), comparison, ranks, samples)[0]


def format_table(results: Mapping[str, Mapping[str, Metrics]]) -> str:
    """One line a target and protocol, shares of 1 as percentages, with the 95 % intervals of R@1 and mAP."""
    rows = [(target, protocol, found) for target, group in results.items() for protocol, found in group.items()]
    names = [name for name in rows[0][2] if name.startswith("R@")] + ["mAP", "mINP"]
    spread = [name for name in ("R@1", "mAP") if name in rows[0][2].get("interval95", {})]
    head = ["target", "protocol", *names, "queries", "gallery", *(f"{name} 95 %" for name in spread)]
    cells = [
        [
            target,
            protocol,
            *(f"{100 * found[name]:.2f}" for name in names),
            str(found["queries"]),
            str(found["gallery"]),
            *("{:.1f} to {:.1f}".format(*(100 * end for end in found["interval95"][name])) for name in spread),
        ]
        for target, protocol, found in rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    lines = [
        "  ".join(f"{cell:<{w}}" if i < 2 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(line, widths)))
        for line in [head, *cells]
    ]
    skipped = [
        f"{target} {protocol}: {found['skipped_queries']} queries have no match in their gallery and count for nothing"
        for target, protocol, found in rows
        if found["skipped_queries"]
    ]
    return "\n".join([*lines, *skipped])


def _distances(query_features: Any, gallery_features: Any, metric: str) -> npt.NDArray:
    """torchreid's matrix of distances ``[q, g]``, squared where Euclidean.

    Raises:
        DataError: when one is not finite.
    """
    sides = torch.as_tensor(query_features), torch.as_tensor(gallery_features)
    distances = torchreid_metrics.compute_distance_matrix(*sides, metric).numpy()
    if not np.isfinite(distances).all():
        raise DataError("the features have values that are not finite, or distances too large for float32")
    return distances


def _unit_norm(features: Any) -> bool:
    """Whether distances order ``features [n, D]`` as cosines do."""
    norms = torch.linalg.vector_norm(torch.as_tensor(features), dim=1)
    return torch.allclose(norms, torch.ones_like(norms), rtol=0, atol=1e-5)


def _ranks_of_distances(distances: npt.NDArray, comparison: RetrievalTask) -> PositiveRanks:
    """As `positive_ranks`, from a matrix ``[q, g]``; a positive that ties with a negative ranks after it."""
    ranks, counts = [], []
    for i, row in enumerate(distances):
        same = comparison.g_pids == comparison.q_pids[i]
        left_out = same & (comparison.g_camids == comparison.q_camids[i])
        right, wrong = np.sort(row[same & ~left_out]), np.sort(row[~same])
        ranks.append(np.searchsorted(wrong, right, side="right") + np.arange(1, len(right) + 1))
        counts.append(len(right))
    return PositiveRanks(np.concatenate(ranks).astype(np.int32), np.concatenate([[0], np.cumsum(counts)]))
