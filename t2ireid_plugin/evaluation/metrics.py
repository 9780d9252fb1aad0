"""The metrics of one target as a named result, by torchreid's evaluator or by ours, and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torchreid import metrics as torchreid_metrics

from t2ireid_plugin.evaluation import ranking

EVALUATORS = ("torchreid", "exact")

Metrics = dict[str, float]


def compute_metrics(
    query: torch.Tensor,
    gallery: torch.Tensor,
    q_pids: npt.NDArray,
    g_pids: npt.NDArray,
    q_camids: npt.NDArray,
    g_camids: npt.NDArray,
    ranks: Sequence[int] = (1, 5, 10),
    evaluator: str = "torchreid",
) -> Metrics:
    """``R@k`` for each of ``ranks``, ``mAP``, ``mINP`` as shares of 1, and the numbers of queries and images.

    Args:
        query: query embeddings ``[n, D]``.
        gallery: gallery embeddings ``[m, D]``.
        q_pids, g_pids, q_camids, g_camids: identities and cameras, ``[n]`` or ``[m]``.
        ranks: the k of R@k.
        evaluator: ``torchreid`` takes R@k and mAP from ``torchreid.metrics.evaluate_rank`` (which has no mINP),
            ``exact`` takes all from `ranking.evaluate`. They agree but for ties.

    Raises:
        DataError: when no query has an image of its identity in the gallery.
    """
    exact = ranking.evaluate(query.numpy(), gallery.numpy(), q_pids, g_pids, q_camids, g_camids, max_rank=max(ranks))
    cmc, mean_ap = exact.cmc, exact.mAP
    if evaluator == "torchreid":
        distances = torchreid_metrics.compute_distance_matrix(query, gallery, "cosine").numpy()
        cmc, mean_ap = torchreid_metrics.evaluate_rank(
            distances, q_pids, g_pids, q_camids, g_camids, max_rank=max(ranks)
        )
        # A gallery smaller than the largest rank gives a shorter curve; from its end on all has been found.
        cmc = np.append(cmc, np.ones(max(0, max(ranks) - len(cmc))))
    result: Metrics = {f"R@{k}": float(cmc[k - 1]) for k in ranks}
    result.update(mAP=float(mean_ap), mINP=exact.mINP)
    result.update(queries=len(q_pids), valid_queries=exact.num_valid_queries, gallery=len(g_pids))
    return result


def format_table(results: Mapping[str, Metrics]) -> str:
    """One line a target, shares of 1 as percentages."""
    columns = [name for name in next(iter(results.values())) if name.startswith("R@")] + ["mAP", "mINP"]
    width = max(len("target"), *(len(name) for name in results))
    lines = [f"{'target':<{width}}  " + "".join(f"{c:>8}" for c in columns) + f"{'queries':>10}{'gallery':>9}"]
    for name, metrics in results.items():
        cells = "".join(f"{100 * metrics[c]:>8.2f}" for c in columns)
        lines.append(f"{name:<{width}}  {cells}{metrics['queries']:>10.0f}{metrics['gallery']:>9.0f}")
    return "\n".join(lines)
