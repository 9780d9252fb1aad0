import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation.metrics import EVALUATORS, compute_metrics, format_table


def random_case(seed, queries=12, images=20, people=5):
    rng = np.random.default_rng(seed)
    features = [torch.from_numpy(rng.normal(size=(n, 8)).astype(np.float32)) for n in (queries, images)]
    q_pids, g_pids = rng.integers(0, people, queries), np.arange(images) % people
    return (*features, q_pids, g_pids, np.full(queries, -1), rng.integers(0, 3, images))


def share_found(case, k):
    """R@k by a loop over the queries."""
    query, gallery, q_pids, g_pids, *_ = case
    hits = 0
    for feature, pid in zip(query, q_pids, strict=True):
        order = torch.cosine_similarity(feature[None], gallery).argsort(descending=True)
        hits += bool((g_pids[order[:k].numpy()] == pid).any())
    return hits / len(q_pids)


@pytest.mark.parametrize("evaluator", EVALUATORS)
@given(st.integers(0, 10**6))
def test_named_ranks_are_the_shares_of_queries_with_a_hit(evaluator, seed):
    case = random_case(seed)
    metrics = compute_metrics(*case, ranks=(1, 3, 20), evaluator=evaluator)
    assert list(metrics) == ["R@1", "R@3", "R@20", "mAP", "mINP", "queries", "valid_queries", "gallery"]
    for k in (1, 3, 20):
        assert metrics[f"R@{k}"] == pytest.approx(share_found(case, k), abs=1e-6)
    assert (metrics["queries"], metrics["valid_queries"], metrics["gallery"]) == (12, 12, 20)


@given(st.integers(0, 10**6))
def test_both_evaluators_agree(seed):
    case = random_case(seed)
    theirs, ours = (compute_metrics(*case, evaluator=name) for name in EVALUATORS)
    assert theirs == pytest.approx(ours, abs=1e-6)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_a_gallery_smaller_than_the_largest_rank(evaluator):
    query = torch.eye(3)
    camids = np.full(3, -1), np.zeros(3, int)
    metrics = compute_metrics(
        query, query, np.array([0, 1, 2]), np.array([1, 0, 2]), *camids, ranks=(1, 10, 20), evaluator=evaluator
    )
    assert metrics["R@1"] == pytest.approx(1 / 3)
    assert metrics["R@10"] == metrics["R@20"] == 1.0


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_no_query_with_an_answer(evaluator):
    with pytest.raises(DataError, match="no query has an image of its identity"):
        compute_metrics(
            torch.eye(2), torch.eye(2), np.array([0, 1]), np.array([2, 3]), *np.zeros((2, 2), int), evaluator=evaluator
        )


def test_values_are_plain_numbers():
    """What goes into JSON, and into checkpoints that the safe loader takes."""
    for value in compute_metrics(*random_case(0)).values():
        assert type(value) in (int, float)


def test_table():
    rows = {"R@1": 0.5, "R@10": 1.0, "mAP": 0.12345, "mINP": 0.1, "queries": 64, "valid_queries": 64, "gallery": 32}
    header, first, second = format_table({"cuhkpedes": rows, "other": {**rows, "R@1": 0.25}}).splitlines()
    assert header.split() == ["target", "R@1", "R@10", "mAP", "mINP", "queries", "gallery"]
    assert first.split() == ["cuhkpedes", "50.00", "100.00", "12.35", "10.00", "64", "32"]
    assert second.split()[:2] == ["other", "25.00"]
    assert len(header) == len(first) == len(second)
