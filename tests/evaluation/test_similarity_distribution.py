"""mSD against loops written from the paper's text and from the authors' file."""

import math

import numpy as np
import pytest
import torch

from t2ireid_plugin.evaluation.protocols import RetrievalTask
from t2ireid_plugin.evaluation.similarity_distribution import mean_similarity_distribution


def by_loop(similarity, q_pids, g_pids, sort):
    """The mean over queries; without `sort` the matches are marked by rank and the similarities stay as they are."""
    scores = []
    for row, pid in zip(similarity, q_pids):
        order = sorted(range(len(row)), key=lambda i: -row[i])
        matches = [g_pids[i] == pid for i in order]
        values = [row[i] for i in order] if sort else list(row)
        positives = [v for v, match in zip(values, matches) if match]
        negatives = [v for v, match in zip(values, matches) if not match]
        ratio = (sum(positives) / len(positives)) / (sum(negatives) / len(negatives))
        shares, up_to, all_of = [], 0.0, 0.0
        for value, match in zip(values, matches):
            all_of += value
            if match:
                up_to += value
                shares.append(up_to / all_of)
        scores.append(sum(shares) / len(shares) * (1 - math.exp(-ratio)))
    return sum(scores) / len(scores)


def test_both_forms():
    generator = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(7, 5, generator=generator), torch.randn(20, 5, generator=generator)
    q_pids, g_pids = np.array([1, 1, 2, 3, 0, 2, 4]), np.arange(20) % 5
    task = RetrievalTask(queries, gallery, q_pids, g_pids, np.full(7, -1), np.zeros(20, int))
    similarity = (
        torch.nn.functional.cosine_similarity(queries[:, None].double(), gallery[None].double(), dim=2) / 2 + 0.5
    )
    found = mean_similarity_distribution(task)
    assert found["mSD"] == pytest.approx(by_loop(similarity.tolist(), q_pids, g_pids, sort=True), rel=1e-12)
    assert found["mSD_unsorted"] == pytest.approx(by_loop(similarity.tolist(), q_pids, g_pids, sort=False), rel=1e-12)
    # a query without a match does not count
    more = task._replace(queries=torch.cat([queries, queries[:1]]), q_pids=np.append(q_pids, 99))
    assert mean_similarity_distribution(more) == pytest.approx(found)


def test_perfect_ranking_of_distant_groups_is_nearly_one_minus_exp():
    """All matches first with the same similarity: every share is 1, and only the ratio counts."""
    gallery = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    task = RetrievalTask(gallery[:1], gallery, np.array([0]), np.array([0, 0, 1]), np.array([-1]), np.zeros(3, int))
    assert mean_similarity_distribution(task)["mSD"] == pytest.approx(1 - math.exp(-1 / 0.5))
