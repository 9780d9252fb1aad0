import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2ireid_plugin.evaluation import ranking
from t2ireid_plugin.evaluation.protocols import PROTOCOLS, RetrievalTask
from t2ireid_plugin.visualization import ranked_lists as retrieval
from t2ireid_plugin.visualization.ranked_lists import (
    Answer,
    Query,
    answer_of,
    cmc_curve,
    evenly_spaced,
    query_of,
    ranked_lists,
    similarity_histogram,
    worst_failures,
)

ITEM = ("photo.png", 7, 0, 0, "caption", "identity text", "clothing text")


def build(scores, pids, gallery_pids, camids=None, gallery_camids=None):
    """A comparison whose similarities are exactly ``scores [q, g]``, small enough for unit norm not to matter."""
    scores = torch.as_tensor(scores, dtype=torch.float32)
    q, g = scores.shape
    cameras = (np.full(q, -1), np.zeros(g, int)) if camids is None else (np.asarray(camids), np.asarray(gallery_camids))
    return RetrievalTask(scores, torch.eye(g), np.asarray(pids), np.asarray(gallery_pids), *cameras)


def drawn(seed, q=23, g=17, people=6, ties=True, cameras=False):
    """Similarities by lot; with few different values, so that many tie."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(-3, 4, (q, g)) / 4 if ties else rng.uniform(-1, 1, (q, g))
    more = (rng.integers(0, 3, q), rng.integers(0, 3, g)) if cameras else ()
    return build(scores, rng.integers(0, people, q), rng.integers(0, people, g), *more), scores.astype(np.float32)


def items(comparison):
    """Items of the data that tell queries and images by their numbers."""
    return (
        [(f"photo{i}", pid, 0, 0, f"text {i}", "", "") for i, pid in enumerate(comparison.q_pids)],
        [(f"image{j}", pid, 0, 0, "", "", "") for j, pid in enumerate(comparison.g_pids)],
    )


def lists_of(comparison, chosen, top=10, protocol="t2i"):
    return ranked_lists(protocol, comparison, *items(comparison), chosen, top)


def naive_list(comparison, scores, query):
    """All images that are not left out, best first, wrong before right, then in the gallery's order."""
    right = [pid == comparison.q_pids[query] for pid in comparison.g_pids]
    kept = [
        j for j in range(scores.shape[1]) if not (right[j] and comparison.q_camids[query] == comparison.g_camids[j])
    ]
    return sorted(kept, key=lambda j: (-scores[query, j], right[j], j)), right


@given(seed=st.integers(0, 10_000), ties=st.booleans(), cameras=st.booleans(), top=st.integers(1, 20))
def test_lists_are_the_naive_ones(seed, ties, cameras, top):
    comparison, scores = drawn(seed, ties=ties, cameras=cameras)
    for query, found in enumerate(lists_of(comparison, range(23), top)):
        order, right = naive_list(comparison, scores, query)
        assert (found.number, found.pid, found.query.text) == (query, comparison.q_pids[query], f"text {query}")
        assert [hit.answer.photo for hit in found.hits] == [f"image{j}" for j in order[:top]]
        assert [hit.score for hit in found.hits] == [scores[query, j] for j in order[:top]]
        assert [hit.correct for hit in found.hits] == [right[j] for j in order[:top]]
        assert [hit.rank for hit in found.hits] == list(range(1, len(found.hits) + 1))
        firsts = [(rank, f"image{j}") for rank, j in enumerate(order, start=1) if right[j]]
        assert (found.first and (found.first.rank, found.first.answer.photo)) == (firsts[0] if firsts else None)


@pytest.mark.parametrize("cameras", [False, True])
def test_first_right_answers_are_those_of_the_metrics(cameras):
    unit = torch.nn.functional.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    labels = np.arange(40) % 7
    cams = (np.arange(40) % 3, np.arange(40) % 2) if cameras else (np.full(40, -1), np.zeros(40, int))
    comparison = RetrievalTask(unit, unit.flip(1), labels, labels[::-1].copy(), *cams)
    scores = ranking.score_queries(ranking.positive_ranks(*comparison))
    found = [item.first.rank for item in lists_of(comparison, scores.query_index.tolist())]
    assert found == scores.first_rank.tolist()
    np.testing.assert_allclose(cmc_curve(scores), ranking.evaluate(*comparison).cmc, rtol=0, atol=1e-15)


def test_copies_of_an_embedding_tie_wherever_they_are():
    # A product in float32 rounds equal rows differently, by their place in the matrix.
    row = torch.nn.functional.normalize(torch.randn(1, 250, generator=torch.Generator().manual_seed(1)), dim=1)
    labels = np.array([1] + [0] * 100)
    comparison = RetrievalTask(-row, row.repeat(101, 1), np.array([1]), labels, np.array([-1]), np.zeros(101, int))
    (found,) = lists_of(comparison, [0], top=3)
    assert found.first.rank == 101
    assert [hit.answer.photo for hit in found.hits] == ["image1", "image2", "image3"]


def test_a_query_never_finds_what_is_left_out():
    scores = [[0.9, 0.5, 0.1], [0.1, 0.5, 0.9]]
    comparison = build(scores, [7, 7], [7, 7, 0], camids=[0, -1], gallery_camids=[0, 1, 2])
    found = [[hit.answer.photo for hit in item.hits] for item in lists_of(comparison, [0, 1], 3)]
    assert found == [["image1", "image2"], ["image2", "image1", "image0"]]


def test_a_person_without_an_image():
    (found,) = lists_of(build([[0.3, 0.2]], [5], [7, 0]), [0])
    assert found.first is None
    assert [hit.correct for hit in found.hits] == [False, False]
    assert lists_of(build([[0.3, 0.2]], [5], [7, 0]), []) == []


@pytest.mark.parametrize(
    ("protocol", "text", "seen"),
    [
        ("t2i", "caption", False),
        ("i2t", "", True),
        ("i2i", "", True),
        ("ti2i", "caption", True),
        ("identity", "identity text", False),
        ("clothing", "clothing text", False),
        ("both", "identity text + clothing text", False),
    ],
)
def test_what_each_protocol_asks_and_finds(protocol, text, seen):
    assert query_of(protocol, ITEM) == Query(text, "photo.png", seen)
    found = Answer(text="caption") if protocol == "i2t" else Answer(photo="photo.png")
    assert answer_of(protocol, ITEM) == found


def test_every_protocol_is_in_the_test_above():
    (mark,) = test_what_each_protocol_asks_and_finds.pytestmark
    assert [values[0] for values in mark.args[1]] == list(PROTOCOLS)


@given(seed=st.integers(0, 10_000), bins=st.sampled_from([1, 2, 8, 50]), cameras=st.booleans())
def test_histogram_counts_every_pair_once(seed, bins, cameras):
    comparison, scores = drawn(seed, ties=False, cameras=cameras)
    right = comparison.q_pids[:, None] == comparison.g_pids
    kept = ~(right & (comparison.q_camids[:, None] == comparison.g_camids))
    found = similarity_histogram(comparison, bins)
    for counts, mask in zip(found, (right & kept, ~right), strict=True):
        assert counts.dtype == np.int64
        assert counts.tolist() == np.histogram(scores[mask], bins, (-1, 1))[0].tolist()


def test_histogram_keeps_what_rounding_puts_beyond_one():
    right, wrong = similarity_histogram(build([[1.0000001, -1.0000001, 0.0]], [1], [1, 0, 0]), 4)
    assert right.tolist() == [0, 0, 0, 1]
    assert wrong.tolist() == [1, 0, 1, 0]


def test_chunks_change_nothing_and_are_as_small_as_said(monkeypatch):
    comparison, _ = drawn(5, cameras=True)
    expected = similarity_histogram(comparison, 8)
    sizes, histc = [], torch.histc
    monkeypatch.setattr(torch, "histc", lambda part, *rest: sizes.append(part.numel()) or histc(part, *rest))
    monkeypatch.setattr(retrieval, "_CELLS", 40)  # two queries a chunk
    assert all(np.array_equal(*pair) for pair in zip(expected, similarity_histogram(comparison, 8), strict=True))
    assert max(sizes) == 2 * 17


def scores_of(comparison):
    return ranking.score_queries(ranking.positive_ranks(*comparison))


def test_worst_failures_come_first_and_equals_in_order():
    # Ranks of the first right image: 3, 1, none, 2, 3.
    rows = [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.3, 0.2, 0.1], [0.2, 0.3, 0.1], [0.1, 0.2, 0.3]]
    scores = scores_of(build(rows, [7, 7, 5, 7, 7], [7, 0, 0]))
    assert worst_failures(scores, 10) == [0, 4, 3]
    assert worst_failures(scores, 2) == [0, 4]
    assert worst_failures(scores, 0) == []


def test_cmc_curve():
    rows = [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.3, 0.2, 0.1]]
    assert cmc_curve(scores_of(build(rows, [7, 7, 5], [7, 0, 0])), 4).tolist() == [0.5, 0.5, 1, 1]


@pytest.mark.parametrize(
    ("number", "chosen"), [(0, []), (1, [0]), (2, [0, 10]), (3, [0, 5, 10]), (50, list(range(11)))]
)
def test_examples_are_evenly_spaced(number, chosen):
    assert evenly_spaced(11, number) == chosen
