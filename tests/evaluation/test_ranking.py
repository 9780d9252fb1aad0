import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchreid import metrics as torchreid_metrics

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation import ranking
from t2ireid_plugin.evaluation.ranking import evaluate


def naive(queries, gallery, q_pids, g_pids, q_camids=None, g_camids=None, max_rank=50):
    """R@k, mAP, mINP and the number of queries with an answer, by loops, in float64.

    The gallery is sorted by falling similarity and, among equals, wrong images first.
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


def has_near_ties(queries, gallery):
    """Whether two images are so nearly equally similar to a query that rounding decides between them."""
    if len(gallery) < 2:
        return False
    return bool((np.diff(np.sort(cosines(queries, gallery)), axis=1) < 1e-5).any())


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
    found = evaluate(*features_and_pids, *cams, max_rank=max_rank)
    assert found.cmc.shape == (max_rank,)
    np.testing.assert_allclose(found.cmc, expected[0], rtol=0, atol=1e-12)
    assert found.mAP == pytest.approx(expected[1], abs=1e-12)
    assert found.mINP == pytest.approx(expected[2], abs=1e-12)
    assert found.num_valid_queries == expected[3]


@settings(max_examples=100)
@given(**sizes)
def test_equals_torchreids_evaluator(seed, queries, images, people, cameras):
    """Where torchreid's is defined: each query must keep as many images as the curve is long."""
    case = random_case(seed, queries, images, people, cameras)
    q, g, q_pids, g_pids, q_camids, g_camids = case
    assume(not has_near_ties(q, g))
    dropped = ((q_pids[:, None] == g_pids) & (q_camids[:, None] == g_camids)).sum(axis=1)
    max_rank = int(images - dropped.max())
    assume(max_rank >= 1)
    assume(naive(*case) is not None)
    distances = (1 - cosines(q, g)).astype(np.float32)
    cmc, mean_ap = torchreid_metrics.evaluate_rank(distances, q_pids, g_pids, q_camids, g_camids, max_rank=max_rank)
    found = evaluate(*case, max_rank=max_rank)
    np.testing.assert_allclose(found.cmc, cmc, rtol=0, atol=1e-6)
    assert found.mAP == pytest.approx(mean_ap, abs=1e-6)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 12))
def test_ties_count_against_the_model(seed, queries, images):
    """Features from so few values that most similarities are tied; the naive loop puts the wrong first."""
    rng = np.random.default_rng(seed)
    axes = np.eye(3)
    q, g = axes[rng.integers(0, 3, queries)], axes[rng.integers(0, 3, images)]
    q_pids, g_pids = rng.integers(0, 3, queries), rng.integers(0, 3, images)
    expected = naive(q, g, q_pids, g_pids)
    assume(expected is not None)
    found = evaluate(q, g, q_pids, g_pids)
    np.testing.assert_allclose(found.cmc, expected[0], rtol=0, atol=1e-12)
    assert found.mAP == pytest.approx(expected[1], abs=1e-12)
    assert found.mINP == pytest.approx(expected[2], abs=1e-12)


def test_constant_features_score_as_badly_as_they_deserve():
    """One answer among 20: it is last. torchreid's evaluator lets the order of the file decide."""
    pids = np.arange(20)
    constant = np.ones((20, 8), dtype=np.float32)
    found = evaluate(constant, constant, pids, pids, max_rank=20)
    assert found.cmc.tolist() == [0.0] * 19 + [1.0]
    assert found.mAP == found.mINP == pytest.approx(1 / 20)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_features_that_say_nothing_earn_nothing(value):
    pids = np.arange(10)
    features = np.full((10, 4), value, dtype=np.float32)
    with np.errstate(invalid="ignore"):
        found = evaluate(features, np.eye(10, 4, dtype=np.float32), pids, pids, max_rank=5)
    assert found.cmc.tolist() == [0.0] * 5


def test_perfect_features():
    pids = np.repeat(np.arange(5), 3)
    features = np.eye(5)[pids]
    found = evaluate(features, features, pids, pids)
    assert found.cmc.tolist() == [1.0] * 50
    assert (found.mAP, found.mINP, found.num_valid_queries) == (1.0, 1.0, 15)


def test_a_worked_example():
    """Correct at ranks 1, 3 and 6: AP = (1/1 + 2/3 + 3/6) / 3, INP = 3/6 (Ye et al. 2021, section 4)."""
    angles = np.linspace(0, 1.5, 6)
    gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = evaluate(np.array([[1.0, 0.0]]), gallery, np.array([4]), np.array([4, 0, 4, 1, 2, 4]), max_rank=6)
    assert found.cmc.tolist() == [1.0] * 6
    assert found.mAP == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)
    assert found.mINP == pytest.approx(3 / 6)


@given(st.integers(0, 10**6))
def test_length_of_features_is_of_no_account(seed):
    q, g, q_pids, g_pids, *_ = random_case(seed, 6, 20, 4, 2)
    assume(not has_near_ties(q, g))
    assume(naive(q, g, q_pids, g_pids) is not None)
    rng = np.random.default_rng(seed)
    plain = evaluate(q, g, q_pids, g_pids)
    scaled = evaluate(q * rng.uniform(0.1, 9, (6, 1)), g * rng.uniform(0.1, 9, (20, 1)), q_pids, g_pids)
    np.testing.assert_allclose(scaled.cmc, plain.cmc)
    assert scaled[1:] == pytest.approx(plain[1:])


def test_a_gallery_smaller_than_the_curve():
    """Past its end everything has been found."""
    found = evaluate(np.eye(2), np.eye(2), np.array([0, 1]), np.array([1, 0]), max_rank=10)
    assert found.cmc.tolist() == [0.0] + [1.0] * 9


def test_queries_without_an_answer_are_left_out_and_counted():
    q = np.eye(4)
    found = evaluate(q, q[:2], np.array([0, 1, 2, 3]), np.array([0, 1]))
    assert found.num_valid_queries == 2
    assert (found.cmc[0], found.mAP, found.mINP) == (1.0, 1.0, 1.0)


def test_any_whole_numbers_are_identities():
    small, large = np.array([0, 1, 2, 0, 1]), np.array([-7, 10**12, 5, -7, 10**12])
    features = np.random.default_rng(0).normal(size=(5, 3))
    kept = evaluate(features[:2], features, small[:2], small)
    found = evaluate(features[:2], features, large[:2], large)
    np.testing.assert_array_equal(found.cmc, kept.cmc)
    assert found[1:] == kept[1:]


def test_the_camera_of_a_text_changes_nothing_and_that_of_its_photo_ruins_it():
    """Each text is most like its own photo; the person's photos by other cameras look like nobody."""
    rng = np.random.default_rng(0)
    pids, camids = np.repeat(np.arange(20), 2), np.tile([0, 1], 20)
    gallery = rng.normal(size=(40, 16))
    queries = gallery + 0.01 * rng.normal(size=(40, 16))
    without = evaluate(queries, gallery, pids, pids)
    as_text = evaluate(queries, gallery, pids, pids, np.full(40, -1), camids)
    as_photo = evaluate(queries, gallery, pids, pids, camids, camids)
    assert without.cmc[0] == 1.0
    np.testing.assert_array_equal(as_text.cmc, without.cmc)
    assert as_text[1:] == without[1:]
    assert as_photo.cmc[0] < 0.5


def test_more_queries_than_a_chunk(monkeypatch):
    q, g, q_pids, g_pids, q_camids, g_camids = random_case(3, 50, 30, 10, 3)
    whole = evaluate(q, g, q_pids, g_pids, q_camids, g_camids)
    monkeypatch.setattr(ranking, "_CHUNK", 7)
    parts = evaluate(q, g, q_pids, g_pids, q_camids, g_camids)
    np.testing.assert_array_equal(parts.cmc, whole.cmc)
    assert parts[1:] == whole[1:]


def test_lengths_that_do_not_match_are_named():
    with pytest.raises(ValueError, match="2 query features for 3 pids, 2 gallery features for 2 pids"):
        evaluate(np.eye(2), np.eye(2), np.arange(3), np.arange(2))
    with pytest.raises(ValueError, match="cameras are needed of both"):
        evaluate(np.eye(2), np.eye(2), np.arange(2), np.arange(2), q_camids=np.arange(2))
