"""mSD, the mean similarity distribution of UFineBench (Zuo et al., CVPR 2024, arXiv:2312.03441)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.evaluation.protocols import RetrievalTask

_CELLS = 1 << 21  # similarities held at once


def mean_similarity_distribution(task: RetrievalTask) -> dict[str, float]:
    """Two forms of mSD, as shares of 1.

    A query's score is the mean, over its matches, of the share of similarity that matches have among the results up to
    each of them, times ``1 - exp(-a / b)`` with the mean similarities of matches ``a`` and of others ``b``; cosines
    are mapped to 0 … 1. ``mSD`` is this text of the paper. ``mSD_unsorted`` is what the authors' published
    ``mSD_Calculator.py`` computes: it marks matches in the order of rank, but never sorts the similarities.

    Args:
        task: of a protocol that excludes nothing from the gallery; queries without a match do not count.
    """
    gallery = task.gallery.double().numpy()
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    queries = task.queries.double().numpy()
    scores: list[tuple[float, ...]] = []
    step = max(1, _CELLS // len(gallery))
    for start in range(0, len(queries), step):
        part = queries[start : start + step]
        similarity = part @ gallery.T / np.linalg.norm(part, axis=1, keepdims=True) / 2 + 0.5
        order = np.argsort(-similarity, axis=1, kind="stable")
        matches = task.g_pids[order] == task.q_pids[start : start + step, None]
        found = matches.any(axis=1)
        ranked = np.take_along_axis(similarity, order, axis=1)
        scores += zip(*(_scores(values[found], matches[found]) for values in (ranked, similarity)))
    means = np.mean(scores, axis=0).tolist()
    return dict(zip(("mSD", "mSD_unsorted"), means))


def _scores(similarity: npt.NDArray, matches: npt.NDArray) -> npt.NDArray:
    """The score of each query ``[q]`` from ``[q, m]``."""
    positive, number = similarity * matches, matches.sum(axis=1)
    negative = (similarity.sum(axis=1) - positive.sum(axis=1)) / np.maximum(matches.shape[1] - number, 1)
    ratio = positive.sum(axis=1) / number / np.maximum(negative, np.finfo(float).tiny)
    shares = positive.cumsum(axis=1) / similarity.cumsum(axis=1)
    return (shares * matches).sum(axis=1) / number * (1 - np.exp(-ratio))
