from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchreid import metrics as torchreid_metrics
from torchreid import utils as torchreid_utils

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation.metrics import (
    choose_weight,
    evaluate_task,
    format_metrics,
    format_table,
    metrics_by_target,
    reranked_metrics,
)
from t2ireid_plugin.evaluation.protocols import EVALUATORS, SUM, WEIGHTS, Embeddings, RetrievalTask


def random_case(seed, queries=12, images=20, people=5):
    rng = np.random.default_rng(seed)
    features = [torch.from_numpy(rng.normal(size=(n, 8)).astype(np.float32)) for n in (queries, images)]
    q_pids, g_pids = rng.integers(0, people, queries), np.arange(images) % people
    return RetrievalTask(*features, q_pids, g_pids, np.full(queries, -1), rng.integers(0, 3, images))


def naive_recall(case, k):
    """R@k by a loop over the queries."""
    query, gallery, q_pids, g_pids, *_ = case
    hits = 0
    for feature, pid in zip(query, q_pids, strict=True):
        order = torch.cosine_similarity(feature[None], gallery).argsort(descending=True)
        hits += bool((g_pids[order[:k].numpy()] == pid).any())
    return hits / len(q_pids)


@given(st.integers(0, 10**6))
def test_named_ranks_are_the_shares_of_queries_with_a_hit(seed):
    case = random_case(seed)
    result, theirs = (evaluate_task(case, ranks=(1, 3, 20), evaluator=name) for name in ("exact", "torchreid"))
    metrics = result.metrics
    assert theirs.metrics == pytest.approx(metrics, abs=1e-6)
    assert list(metrics)[:5] == ["R@1", "R@3", "R@20", "mAP", "mINP"]
    assert metrics["R@1"] == pytest.approx(np.mean(result.first_rank == 1))
    for k in (1, 3, 20):
        assert metrics[f"R@{k}"] == pytest.approx(naive_recall(case, k), abs=1e-6)
    assert (metrics["queries"], metrics["valid_queries"], metrics["gallery"]) == (12, 12, 20)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=2))
def test_the_weight_of_the_caption_with_the_highest_mean_map(seeds):
    """mAP by torchreid's evaluator, with a camera for each photo, so that it excludes the query's own."""
    sets, scores = [], []
    pids, described = np.arange(15) % 5, np.repeat(np.arange(15), 2)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        images, captions = (
            torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(n, 6)).astype(np.float32)))
            for n in (15, 30)
        )
        sets.append(Embeddings(images, pids, np.zeros(15, int), described, captions=captions))
        own = []
        for weight in WEIGHTS[SUM]:
            cosines = torch.nn.functional.normalize(images[described] + weight * captions) @ images.T
            labels = pids[described], pids, described, np.arange(15)
            own.append(torchreid_metrics.evaluate_rank(1 - cosines.numpy(), *labels, max_rank=5)[1])
        scores.append(own)
    means = np.mean(scores, axis=0)
    chosen = means[WEIGHTS[SUM].index(choose_weight(SUM, sets))]
    assert chosen == pytest.approx(means.max(), abs=1e-6)


def test_a_set_without_a_second_photo_chooses_no_weight_of_the_caption():
    e = Embeddings(torch.eye(4), np.arange(4), np.zeros(4, int), np.arange(4), captions=torch.eye(4))
    assert choose_weight(SUM, [e]) is None
    assert choose_weight(SUM, []) is None


def test_of_equal_weights_the_one_nearest_to_the_middle():
    """Texts and images that one branch ranks perfectly and the other not at all: every weight but one does."""
    right, wrong = torch.eye(4), torch.eye(4).roll(1, 0)
    pids = np.arange(4)
    fields = {"cloth_images": right, "identity": right, "clothing": wrong}
    e = Embeddings(right, pids, np.zeros(4, int), pids, **fields)
    assert choose_weight("both", [e]) == 0.6  # at 0.5 the branches tie, and ties count against the model
    assert choose_weight("both", [e._replace(clothing=right)]) == 0.5


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_a_gallery_smaller_than_the_largest_rank(evaluator):
    query = torch.eye(3)
    camids = np.full(3, -1), np.zeros(3, int)
    case = RetrievalTask(query, query, np.array([0, 1, 2]), np.array([1, 0, 2]), *camids)
    metrics = evaluate_task(case, ranks=(1, 10, 20), evaluator=evaluator).metrics
    assert metrics["R@1"] == pytest.approx(1 / 3)
    assert metrics["R@10"] == metrics["R@20"] == 1.0


def test_queries_without_an_answer_are_counted():
    case = RetrievalTask(
        torch.eye(3), torch.eye(3), np.arange(3), np.array([0, 1, 7]), *np.zeros((2, 3), int) - [[1], [0]]
    )
    with pytest.raises(DataError, match="no query has an image of its identity"):
        evaluate_task(case._replace(q_pids=np.arange(3) + 10))
    result = evaluate_task(case)
    metrics = result.metrics
    assert (metrics["queries"], metrics["valid_queries"], metrics["skipped_queries"]) == (3, 2, 1)
    assert result.query_index.tolist() == [0, 1]
    assert metrics["R@1"] == 1.0
    table = format_table({"set": {"t2i": metrics}})
    assert table.splitlines()[-1] == "set t2i: 1 queries have no match in their gallery and are left out"


def test_values_are_plain_numbers():
    """What goes into JSON, and into checkpoints that the safe loader takes."""
    metrics = evaluate_task(random_case(0), samples=100).metrics
    ends = metrics.pop("interval95")
    assert all(type(value) in (int, float) for value in metrics.values())
    assert set(ends) == {"R@1", "R@5", "R@10", "mAP", "mINP"}
    for name, (low, high) in ends.items():
        assert type(low) is type(high) is float
        assert 0 <= low <= metrics[name] <= high <= 1


def test_reranking_is_torchreids():
    case = random_case(3, queries=30, images=60, people=6)
    query, gallery = case[:2]
    pairs = (query, gallery), (query, query), (gallery, gallery)
    distances = [torchreid_metrics.compute_distance_matrix(*pair, "cosine").numpy() for pair in pairs]
    reranked = torchreid_utils.re_ranking(*distances)
    cmc, mean_ap = torchreid_metrics.evaluate_rank(reranked, *case[2:6], max_rank=5)
    result = reranked_metrics(case, ranks=(1, 5))
    assert (result["R@1"], result["R@5"], result["mAP"]) == pytest.approx((cmc[0], cmc[4], mean_ap), abs=1e-6)


def test_table():
    rows = {"R@1": 0.5, "R@10": 1.0, "mAP": 0.12345, "mINP": 0.1, "queries": 64, "skipped_queries": 0, "gallery": 32}
    spread = {"interval95": {"R@1": [0.4, 0.6], "mAP": [0.1, 0.15]}}
    table = format_table({"cuhkpedes": {"t2i": {**rows, **spread}}, "other": {"t2i": {**rows, **spread, "R@1": 0.25}}})
    header, first, second = table.splitlines()
    columns = ["target", "protocol", "R@1", "R@10", "mAP", "mINP", "queries", "gallery"]
    assert header.split() == [*columns, "R@1", "95", "%", "mAP", "95", "%"]
    assert first.split()[:8] == ["cuhkpedes", "t2i", "50.00", "100.00", "12.35", "10.00", "64", "32"]
    assert first.split()[8:] == ["40.0", "to", "60.0", "10.0", "to", "15.0"]
    assert second.split()[:3] == ["other", "t2i", "25.00"]
    assert len(header) == len(first) == len(second)
    assert format_table({"a": {"t2i": rows}}).splitlines()[0].split() == columns


def test_metrics_by_target_and_protocol():
    results = [evaluate_task(random_case(seed), target="x", protocol=f"p{seed}") for seed in range(2)]
    results.append(replace(results[0], target="y", reranked={"R@1": 1.0}))
    table = metrics_by_target(results)
    assert {target: list(group) for target, group in table.items()} == {"x": ["p0", "p1"], "y": ["p0", "p0+rerank"]}
    assert table["x"]["p1"] is results[1].metrics
    assert table["y"]["p0+rerank"] == {"R@1": 1.0}
    line = format_metrics("x", "p0", {"R@1": 0.5, "mAP": 0.25, "queries": 3, "gallery": 2})
    assert line == "x p0: R@1 50.00 mAP 25.00 (3 queries, 2 in the gallery)"
