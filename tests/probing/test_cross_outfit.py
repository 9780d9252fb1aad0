"""Retrieval across outfits against naive loops over queries and gallery."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from t2ireid_plugin.evaluation.metrics import evaluate_task
from t2ireid_plugin.evaluation.protocols import Embeddings
from t2ireid_plugin.probing.cross_outfit import outfit_tasks


@pytest.fixture(params=[0, 1])
def people(request):
    """40 images of 7 people in up to 3 outfits, two identity texts each, and the numbers of the outfits."""
    rng = np.random.default_rng(request.param)
    pids, outfits = rng.integers(0, 7, 40) + 100, rng.integers(0, 3, 40)
    outfits[pids == 100] = 0  # this one never changes, so its queries have no match
    described = rng.permutation(np.repeat(np.arange(40), 2))
    images, texts = (F.normalize(torch.tensor(rng.normal(size=(n, 8)), dtype=torch.float32)) for n in (40, 80))
    embeddings = Embeddings(images, pids, rng.integers(0, 4, 40), described, identity=texts)
    return embeddings, outfits


def naive(queries, images, q_labels, g_labels, excluded):
    """R@1, R@5, mAP and the number of queries that can be answered; ``excluded(q, g)`` of the query's own pid."""
    firsts, precisions = [], []
    for q, query in enumerate(queries):
        ranked = sorted(range(len(images)), key=lambda g, query=query: -float(query @ images[g]))
        ranked = [g for g in ranked if not (q_labels[q] == g_labels[g] and excluded(q, g))]
        hits = [rank for rank, g in enumerate(ranked, 1) if g_labels[g] == q_labels[q]]
        if hits:
            firsts.append(hits[0])
            precisions.append(np.mean([number / rank for number, rank in enumerate(hits, 1)]))
    firsts = np.array(firsts)
    return np.mean(firsts <= 1), np.mean(firsts <= 5), np.mean(precisions), len(firsts)


def test_against_a_naive_loop(people):
    e, outfits = people
    metrics = {name: evaluate_task(task).metrics for name, task in outfit_tasks(e, outfits).items()}
    by_text = e.identity, e.images, e.pids[e.described], e.pids
    by_image = e.images, e.images, e.pids, e.pids
    expected = {
        "i2i_any_outfit": naive(*by_image, lambda q, g: q == g),
        "i2i_other_outfit": naive(*by_image, lambda q, g: outfits[q] == outfits[g]),
        "identity_any_outfit": naive(*by_text, lambda q, g: False),
        "identity_other_outfit": naive(*by_text, lambda q, g: outfits[e.described[q]] == outfits[g]),
    }
    assert list(metrics) == list(expected)
    for name, row in metrics.items():
        figures = [row[key] for key in ("R@1", "R@5", "mAP", "valid_queries")]
        assert figures == pytest.approx(expected[name]), name
    assert metrics["i2i_other_outfit"]["skipped_queries"] >= (e.pids == 100).sum() > 0
