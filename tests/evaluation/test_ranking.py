import sys

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from preloaded import run_python
from torchreid import metrics as torchreid_metrics

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation import ranks
from t2ireid_plugin.evaluation.metrics import evaluate_task, result_from_ranks
from t2ireid_plugin.evaluation.protocols import RetrievalTask
from t2ireid_plugin.evaluation.ranks import positive_ranks


def task_of(queries, gallery, q_pids, g_pids, q_camids=None, g_camids=None):
    """The task of these arrays; without cameras none is excluded."""
    if q_camids is None:
        q_camids, g_camids = np.full(len(q_pids), -1), np.zeros(len(g_pids), int)
    return RetrievalTask(torch.as_tensor(queries), torch.as_tensor(gallery), q_pids, g_pids, q_camids, g_camids)


def evaluate(*arrays, max_rank=50):
    """R@k, mAP, mINP and the number of queries with a positive."""
    result = evaluate_task(task_of(*arrays), ranks=(1,))
    metrics = [result.metrics[name] for name in ("mAP", "mINP", "valid_queries")]
    return result.cmc(max_rank), *metrics


def naive(queries, gallery, q_pids, g_pids, q_camids=None, g_camids=None, max_rank=50):
    """R@k, mAP, mINP and the number of queries with a positive, by loops, in float64.

    The gallery is sorted by falling similarity and, among ties, negatives first.
    """
    hits, precisions, penalties = [], [], []
    for i, query in enumerate(queries):
        ranked = []
        for j, image in enumerate(gallery):
            right = int(q_pids[i]) == int(g_pids[j])
            if q_camids is not None and right and int(q_camids[i]) == int(g_camids[j]):
                continue
            lengths = max(np.linalg.norm(query), 1e-12) * max(np.linalg.norm(image), 1e-12)
            ranked.append((-float(np.dot(query, image)) / lengths, right))
        ranked.sort()  # False before True among equals
        ranks = [rank for rank, (_, right) in enumerate(ranked, 1) if right]
        if not ranks:
            continue
        hits.append([1.0 if any(rank <= k for rank in ranks) else 0.0 for k in range(1, max_rank + 1)])
        precisions.append(sum(n / rank for n, rank in enumerate(ranks, 1)) / len(ranks))
        penalties.append(len(ranks) / ranks[-1])
    if not hits:
        return None
    return np.mean(hits, axis=0), float(np.mean(precisions)), float(np.mean(penalties)), len(hits)


def assert_close(result, expected):
    """Two results, or a result and the naive loop's, agree to 1e-12."""
    np.testing.assert_allclose(result[0], expected[0], rtol=0, atol=1e-12)
    assert result[1:] == pytest.approx(expected[1:], abs=1e-12)


def random_case(seed, queries, images, people, cameras, dim=6):
    rng = np.random.default_rng(seed)
    # Whole numbers of unequal length: cosines that differ do so by far more than rounding.
    features = [rng.integers(-9, 10, (n, dim)).astype(float) for n in (queries, images)]
    pids = [rng.integers(0, people, n) for n in (queries, images)]
    camids = [rng.integers(0, cameras, n) for n in (queries, images)]
    return (*features, *pids, *camids)


def cosines(queries, gallery):
    return (queries @ gallery.T) / (
        np.maximum(np.linalg.norm(queries, axis=1)[:, None], 1e-12)
        * np.maximum(np.linalg.norm(gallery, axis=1)[None], 1e-12)
    )


def has_near_ties(queries, gallery, gap=1e-5):
    """Whether two images are so nearly equally similar to a query that rounding decides between them."""
    if len(gallery) < 2:
        return False
    return bool((np.diff(np.sort(cosines(queries, gallery)), axis=1) < gap).any())


sizes = {
    "seed": st.integers(0, 10**6),
    "queries": st.integers(1, 12),
    "images": st.integers(1, 30),
    "people": st.integers(1, 8),
    "cameras": st.integers(1, 4),
}


@settings(max_examples=100)
@given(**sizes, with_cameras=st.booleans(), max_rank=st.integers(1, 40))
def test_equals_the_naive_loop(seed, queries, images, people, cameras, with_cameras, max_rank):
    *features_and_pids, q_camids, g_camids = random_case(seed, queries, images, people, cameras)
    assume(not has_near_ties(*features_and_pids[:2]))
    cams = (q_camids, g_camids) if with_cameras else (None, None)
    expected = naive(*features_and_pids, *cams, max_rank=max_rank)
    if expected is None:
        with pytest.raises(DataError, match="no query has an image of its identity in the gallery"):
            evaluate(*features_and_pids, *cams, max_rank=max_rank)
        return
    result = evaluate(*features_and_pids, *cams, max_rank=max_rank)
    assert result[0].shape == (max_rank,)
    assert_close(result, expected)


@settings(max_examples=100)
@given(**sizes)
def test_equals_torchreids_evaluator(seed, queries, images, people, cameras):
    """Where torchreid's is defined: each query must keep at least as many images as the curve is long."""
    case = random_case(seed, queries, images, people, cameras)
    q, g, q_pids, g_pids, q_camids, g_camids = case
    assume(not has_near_ties(q, g))
    dropped = ((q_pids[:, None] == g_pids) & (q_camids[:, None] == g_camids)).sum(axis=1)
    max_rank = int(images - dropped.max())
    assume(max_rank >= 1)
    assume(naive(*case) is not None)
    distances = (1 - cosines(q, g)).astype(np.float32)
    cmc, mean_ap = torchreid_metrics.evaluate_rank(distances, q_pids, g_pids, q_camids, g_camids, max_rank=max_rank)
    result = evaluate(*case, max_rank=max_rank)
    assert result[:2] == (pytest.approx(cmc, abs=1e-6), pytest.approx(mean_ap, abs=1e-6))


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 12))
def test_ties_count_against_the_model(seed, queries, images):
    """Features from so few values that most similarities tie; the naive loop puts negatives first."""
    rng = np.random.default_rng(seed)
    axes = np.eye(3)
    q, g = axes[rng.integers(0, 3, queries)], axes[rng.integers(0, 3, images)]
    q_pids, g_pids = rng.integers(0, 3, queries), rng.integers(0, 3, images)
    expected = naive(q, g, q_pids, g_pids)
    assume(expected is not None)
    assert_close(evaluate(q, g, q_pids, g_pids), expected)


def test_constant_features_score_as_badly_as_they_deserve():
    """One positive among 20: it is last. torchreid's evaluator lets the order of the file decide."""
    pids = np.arange(20)
    constant = np.ones((20, 8), dtype=np.float32)
    for queries in (constant, np.zeros_like(constant)):
        cmc, mean_ap, mean_inp, _ = evaluate(queries, constant, pids, pids, max_rank=20)
        assert cmc.tolist() == [0.0] * 19 + [1.0]
        assert mean_ap == mean_inp == pytest.approx(1 / 20)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_non_finite_features_are_refused(value):
    """1e300 is finite, but not in the float32 that similarities are computed in."""
    good, bad = np.eye(5), np.eye(5)
    bad[3, 1] = bad[4, 0] = value
    pids = np.arange(5)
    with pytest.raises(DataError, match="query features: row 3 "):
        evaluate(bad, good, pids, pids)
    with pytest.raises(DataError, match="gallery features: row 3 "):
        evaluate(good, bad, pids, pids)


def test_features_whose_norm_exceeds_float32():
    pids = np.arange(5)
    assert evaluate(2e38 * np.eye(5) + 1e38, np.eye(5), pids, pids)[1] == 1.0


def test_a_worked_example():
    """Correct at ranks 1, 3 and 6: AP = (1/1 + 2/3 + 3/6) / 3, INP = 3/6 (Ye et al. 2021, section 4)."""
    angles = np.linspace(0, 1.5, 6)
    gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    result = evaluate(np.array([[1.0, 0.0]]), gallery, np.array([4]), np.array([4, 0, 4, 1, 2, 4]), max_rank=6)
    assert result == (pytest.approx([1] * 6), pytest.approx((1 + 2 / 3 + 3 / 6) / 3), pytest.approx(3 / 6), 1)


@pytest.mark.parametrize("names", [(-7, 10**12, 5), (2**63 - 1, -(2**63), 2**53 + 1), (2**62, 2**62 + 1, -1)])
def test_identities_are_any_integers(names):
    small = np.array([0, 1, 2, 0, 1])
    large = np.array(names)[small]
    features = np.random.default_rng(0).normal(size=(5, 3))
    assert_close(evaluate(features[:2], features, large[:2], large), evaluate(features[:2], features, small[:2], small))


@pytest.mark.parametrize("chunk", [1, 2, 5, 16, 33, 512])
@pytest.mark.parametrize(("images", "people", "dim"), [(7, 7, 3), (130, 5, 37), (1003, 1003, 256), (1003, 10, 64)])
def test_equal_embeddings_tie_wherever_they_are(monkeypatch, chunk, images, people, dim):
    """Each image is there twice, under the right and under a wrong name, and the right one ranks behind the wrong one.

    A matrix product may round the two differently, and then about every other one would be before it.
    """
    monkeypatch.setattr(ranks, "_CELLS", chunk * 2 * images)
    rng = np.random.default_rng(images)
    queries, once = rng.normal(size=(33, dim)), rng.normal(size=(images, dim))
    once[:, 0] = 0
    twice = np.concatenate([once, once * np.where(np.arange(dim), 1, -1)])  # -0 equals 0 though its bits differ
    order = rng.permutation(2 * images)
    names = np.concatenate([np.arange(images) % people, np.arange(images) + people])
    q_pids = np.arange(33) % people
    place = np.argsort(np.argsort(-cosines(queries, once), axis=1), axis=1)  # from 0, were there one of each
    right = names[:images] == q_pids[:, None]
    expected = [sorted(2 * places[own] + 2) for places, own in zip(place, right)]
    assert positive_ranks(*task_of(queries, twice[order], q_pids, names[order])[:7]) == expected


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    images=st.integers(1, 3000),
    people=st.sampled_from([1, 2, 10, 300]),
    clear=st.sampled_from([0, 1, 5]),
)
def test_ranks_are_those_of_a_sort(seed, images, people, clear):
    """From a handful of positives to all images, from chance to perfection."""
    rng = np.random.default_rng(seed)
    centres = clear * rng.normal(size=(people, 16))
    q_pids, g_pids = rng.integers(0, people, 20), rng.integers(0, people, images)
    queries, gallery = (centres[pids] + rng.normal(size=(len(pids), 16)) for pids in (q_pids, g_pids))
    assume(not has_near_ties(queries, gallery, 1e-7))
    order = np.argsort(-cosines(queries, gallery), axis=1)
    expected = [(1 + np.flatnonzero(g_pids[row] == pid)).tolist() for row, pid in zip(order, q_pids)]
    assert positive_ranks(*task_of(queries, gallery, q_pids, g_pids)[:7]) == expected


def test_result_from_ranks():
    """Queries 0, 2 and 4 have 2, 1 and 3 positives, the others none."""
    task = task_of(np.eye(6), np.eye(6), np.array([5, 6, 7, 8, 9, 10]), np.arange(6))
    result = result_from_ranks([[1, 4], [], [3], [], [2, 3, 9], []], task, ranks=(1,), samples=0)
    assert result.query_index.tolist() == [0, 2, 4]
    assert result.pids.tolist() == [5, 7, 9]
    assert result.first_rank.tolist() == [1, 3, 2]
    np.testing.assert_allclose(result.AP, [(1 + 2 / 4) / 2, 1 / 3, (1 / 2 + 2 / 3 + 3 / 9) / 3])
    np.testing.assert_allclose(result.INP, [2 / 4, 1 / 3, 3 / 9])
    assert result.cmc(4) == pytest.approx([1 / 3, 2 / 3, 1, 1])
    kinds = [column.dtype for column in (result.first_rank, result.AP, result.INP, result.pids)]
    assert kinds == [np.int32, np.float64, np.float64, np.int64]


@pytest.mark.parametrize(("queries", "images"), [(0, 3), (3, 0), (0, 0)])
def test_empty_sides(queries, images):
    arguments = np.ones((queries, 2)), np.ones((images, 2)), np.zeros(queries, int), np.zeros(images, int)
    assert positive_ranks(*task_of(*arguments)[:7]) == [[]] * queries
    with pytest.raises(DataError, match="no query has an image of its identity"):
        evaluate(*arguments)


def test_features_of_any_type_rank_alike_and_are_not_changed():
    q, g, *labels = random_case(1, 9, 40, 5, 3)
    queries, gallery = torch.from_numpy(q).float(), torch.from_numpy(g).float()
    expected = positive_ranks(torch.from_numpy(q), torch.from_numpy(g), *labels)
    assert positive_ranks(queries.requires_grad_(), gallery, *labels) == expected
    assert positive_ranks(queries, gallery.bfloat16(), *labels) == expected  # small integers stay exact
    assert torch.equal(queries, torch.from_numpy(q).float())
    assert torch.equal(gallery, torch.from_numpy(g).float())


@pytest.mark.cuda
def test_cuda_tensors_rank_as_on_the_cpu():
    q, g, *labels = random_case(2, 700, 900, 40, 3, dim=32)
    queries, gallery = torch.from_numpy(q), torch.from_numpy(g)
    assert positive_ranks(queries.cuda(), gallery.cuda(), *labels) == positive_ranks(queries, gallery, *labels)


MEMORY = """
import numpy as np
import torch
from benchmarks.machine import memory_peak, memory_used, reset_memory_peak
from t2ireid_plugin.evaluation.ranks import positive_ranks
features, labels = torch.randn(4000, 64), [np.arange(4000) % 500] * 2 + [np.full(4000, -1), np.zeros(4000, int)]
positive_ranks(features[:64], features[:64], *(values[:64] for values in labels))
before = memory_used()
reset_memory_peak()
positive_ranks(features, features, *labels)
print(memory_peak() - before)
features @ features.T
print(memory_peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads and resets Linux's peak of the memory held")
def test_memory_stays_below_the_whole_matrix():
    """64 MB for 4,000 queries and images in float32; the script's last line shows that the measurement would see it."""
    ours, matrix = (int(line) / 1e6 for line in run_python(["-c", MEMORY]).stdout.split())
    assert ours < 32
    assert matrix > 60
