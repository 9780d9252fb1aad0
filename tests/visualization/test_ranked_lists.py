from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2ireid_plugin.evaluation.metrics import evaluate_task
from t2ireid_plugin.evaluation.protocols import PROTOCOLS, RetrievalTask
from t2ireid_plugin.evaluation.result import RetrievalResult
from t2ireid_plugin.visualization import ranked_lists as module
from t2ireid_plugin.visualization.ranked_lists import (
    evenly_spaced,
    example_lists,
    example_positions,
    query_text,
    ranked_lists,
    similarity_histogram,
    worst_failures,
)

ITEM = ("photo.png", 7, 0, 0, "caption", "identity text", "clothing text")


def build(scores, pids, gallery_pids, camids=None, gallery_camids=None):
    """A task whose similarities are exactly ``scores [q, g]``, small enough for unit norm not to matter."""
    scores = torch.as_tensor(scores, dtype=torch.float32)
    q, g = scores.shape
    cameras = (np.full(q, -1), np.zeros(g, int)) if camids is None else (np.asarray(camids), np.asarray(gallery_camids))
    return RetrievalTask(scores, torch.eye(g), np.asarray(pids), np.asarray(gallery_pids), *cameras)


def random_task(seed, q=23, g=17, people=6, ties=True, cameras=False):
    """A task and its similarities; with few different values, so that many tie."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(-3, 4, (q, g)) / 4 if ties else rng.uniform(-1, 1, (q, g))
    more = (rng.integers(0, 3, q), rng.integers(0, 3, g)) if cameras else ()
    return build(scores, rng.integers(0, people, q), rng.integers(0, people, g), *more), scores.astype(np.float32)


def lists_of(task, positions, top=10, protocol="t2i"):
    """Ranked lists over items named by their numbers."""
    queries = [(f"photo{i}", pid, 0, 0, f"text {i}", "", "") for i, pid in enumerate(task.q_pids)]
    gallery = [(f"image{j}", pid, 0, 0, f"answer {j}", "", "") for j, pid in enumerate(task.g_pids)]
    result = RetrievalResult(*[np.empty(0)] * 4, protocol=protocol, task=task)
    return ranked_lists(result, queries, gallery, positions, top)


def naive_list(task, scores, query):
    """All images that are not excluded, best first, negatives before positives, then in the gallery's order."""
    right = [pid == task.q_pids[query] for pid in task.g_pids]
    eligible = [j for j in range(scores.shape[1]) if not (right[j] and task.q_camids[query] == task.g_camids[j])]
    return sorted(eligible, key=lambda j: (-scores[query, j], right[j], j)), right


@given(seed=st.integers(0, 10_000), ties=st.booleans(), cameras=st.booleans(), top=st.integers(1, 20))
def test_lists_equal_the_naive_ones(seed, ties, cameras, top):
    task, scores = random_task(seed, ties=ties, cameras=cameras)
    for query, item in enumerate(lists_of(task, range(23), top)):
        order, right = naive_list(task, scores, query)
        assert (item.number, item.pid, item.text) == (query, task.q_pids[query], f"text {query}")
        assert [hit.photo for hit in item.hits] == [f"image{j}" for j in order[:top]]
        assert [hit.score for hit in item.hits] == [scores[query, j] for j in order[:top]]
        assert [hit.correct for hit in item.hits] == [right[j] for j in order[:top]]
        assert [hit.rank for hit in item.hits] == list(range(1, len(item.hits) + 1))
        matches = [(rank, f"image{j}") for rank, j in enumerate(order, start=1) if right[j]]
        assert (item.first and (item.first.rank, item.first.photo)) == (matches[0] if matches else None)
        assert item.beyond == ([item.first] if matches and matches[0][0] > top else [])


@pytest.mark.parametrize("cameras", [False, True])
def test_first_matches_are_those_of_the_metrics(cameras):
    unit = torch.nn.functional.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    labels = np.arange(40) % 7
    cams = (np.arange(40) % 3, np.arange(40) % 2) if cameras else (np.full(40, -1), np.zeros(40, int))
    task = RetrievalTask(unit, unit.flip(1), labels, labels[::-1].copy(), *cams)
    result = evaluate_task(task)
    assert [item.first.rank for item in lists_of(task, result.query_index)] == result.first_rank.tolist()


def test_copies_of_an_embedding_tie():
    """A product in float32 would round equal rows differently, by their place in the matrix."""
    row = torch.nn.functional.normalize(torch.randn(1, 250, generator=torch.Generator().manual_seed(1)), dim=1)
    labels = np.array([1] + [0] * 100)
    task = RetrievalTask(-row, row.repeat(101, 1), np.array([1]), labels, np.array([-1]), np.zeros(101, int))
    (item,) = lists_of(task, [0], top=3)
    assert item.first.rank == 101
    assert [hit.photo for hit in item.hits] == ["image1", "image2", "image3"]


QUERIES = {
    "t2i": ("caption", False),
    "i2t": ("", True),
    "i2i": ("", True),
    "ti2i": ("caption", True),
    "ti2i_photo": ("", True),
    "ti2i_sum": ("caption", True),
    "caption": ("caption", False),
    "identity": ("identity text", False),
    "clothing": ("clothing text", False),
    "both": ("identity text + clothing text", False),
    "caption_clothing": ("caption + clothing text", False),
    "composed": ("clothing text", True),
    "composed_words": ("clothing text", False),
    "composed_photo": ("", True),
    "composed_sum": ("clothing text", True),
    "composed_pair": ("clothing text", True),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_query_and_hits_of_each_protocol(protocol):
    assert query_text(protocol, ITEM) == QUERIES[protocol]
    (item,) = lists_of(build([[0.5]], [1], [1]), [0], protocol=protocol)
    expected = ("", "answer 0") if protocol == "i2t" else ("image0", "")
    assert item.hits[0][:2] == expected


@given(seed=st.integers(0, 10_000), bins=st.sampled_from([1, 2, 8, 50]), cameras=st.booleans())
def test_histogram_counts_every_pair_once(seed, bins, cameras):
    task, scores = random_task(seed, ties=False, cameras=cameras)
    right = task.q_pids[:, None] == task.g_pids
    excluded = right & (task.q_camids[:, None] == task.g_camids)
    for counts, mask in zip(similarity_histogram(task, bins), (right & ~excluded, ~right), strict=True):
        assert counts.dtype == np.int64
        assert counts.tolist() == np.histogram(scores[mask], bins, (-1, 1))[0].tolist()


def test_the_photo_of_composed_search_is_shown_and_not_ranked():
    scores = np.array([[0.9, 0.5, 0.7, 0.1]], np.float32)
    task = build(scores, [1], [0, 1, 0, 1])._replace(left_out=np.array([0]))
    (item,) = lists_of(task, [0], protocol="composed")
    assert item.photo == "image0"
    assert [hit.photo for hit in item.hits] == ["image2", "image1", "image3"]
    same, other = similarity_histogram(task, 2)
    assert (same.tolist(), other.tolist()) == ([0, 2], [0, 1])


def test_histogram_counts_similarities_rounded_beyond_one():
    same, other = similarity_histogram(build([[1.0000001, -1.0000001, 0.0]], [1], [1, 0, 0]), 4)
    assert same.tolist() == [0, 0, 0, 1]
    assert other.tolist() == [1, 0, 1, 0]


def test_histogram_in_chunks_is_the_same(monkeypatch):
    task, _ = random_task(5, cameras=True)
    expected = similarity_histogram(task, 8)
    sizes, histc = [], torch.histc
    monkeypatch.setattr(torch, "histc", lambda part, *rest: sizes.append(part.numel()) or histc(part, *rest))
    monkeypatch.setattr(module, "_CELLS", 40)  # two queries a chunk
    assert all(np.array_equal(*pair) for pair in zip(expected, similarity_histogram(task, 8), strict=True))
    assert max(sizes) == 2 * 17


def test_worst_failures_of_each_person_come_first_and_equal_ones_in_order():
    first_rank = np.array([3, 1, 2, 3, 5, 4, 2])  # query 2 has no positive
    people, queries = np.array([9, 7, 6, 5, 4, 4, 9]), np.array([0, 1, 3, 4, 5, 6, 7])
    result = RetrievalResult(first_rank, 1 / first_rank, 1 / first_rank, people, queries)
    assert worst_failures(result, 10) == [5, 0, 4, 3]
    assert worst_failures(result, 2) == [5, 0]
    assert worst_failures(result, 0) == []


def figures(first_rank, query_index):
    first_rank = np.array(first_rank, int)
    people = np.full(len(first_rank), 7)
    return RetrievalResult(first_rank, 1 / first_rank, 1 / first_rank, people, np.array(query_index, int))


def naive_examples(first_rank, query_index, number):
    """Rows are dealt out one by one, to the other kind where one has no query left; then each kind is spaced."""
    right = [i for rank, i in zip(first_rank, query_index) if rank == 1]
    wrong = [i for rank, i in zip(first_rank, query_index) if rank != 1]
    counts = [0, 0]
    for place in range(number):  # every third to the wrong ones, the second of each three
        kind = 1 if place % 3 == 1 else 0
        for candidate in (kind, 1 - kind):
            if counts[candidate] < len((right, wrong)[candidate]):
                counts[candidate] += 1
                break

    return tuple(
        [kind[place] for place in evenly_spaced(len(kind), count)] for kind, count in zip((right, wrong), counts)
    )


@given(st.lists(st.integers(1, 4), max_size=40), st.integers(0, 12), st.integers(0, 9))
def test_examples_equal_the_naive_choice(first_rank, number, skipped):
    query_index = [i + (i >= skipped) for i in range(len(first_rank))]  # one query has no match
    assert example_positions(figures(first_rank, query_index), number) == naive_examples(
        first_rank, query_index, number
    )


def test_a_model_that_is_nearly_always_right_shows_its_failures_too():
    first_rank = np.ones(1200, int)
    first_rank[[100, 101, 900]] = 3, 2, 40
    right, wrong = example_positions(figures(first_rank, range(1200)), 6)
    assert len(right) == 4
    assert wrong == [100, 900]
    assert example_positions(figures(first_rank[:101], range(101)), 6)[1] == [100]


def test_headings_count_both_kinds_and_say_the_rule():
    task = build([[0.5, 0.1]] * 5, [1, 1, 1, 0, 1], [1, 0])
    result = replace(evaluate_task(task), protocol="t2i")
    items = [("photo", 1, 0, 0, f"text {i}", "", "") for i in range(5)]
    groups = example_lists(result, items, items[:2], 3)
    assert list(groups) == [
        "First answer right: 4 of 5 queries; 2 of them, evenly spaced",
        "First answer wrong: 1 of 5 queries; all of them",
    ]
    assert [[item.number for item in lists] for lists in groups.values()] == [[0, 4], [3]]
    assert example_lists(result, items, items[:2], 0) == {}


@pytest.mark.parametrize(
    ("number", "positions"), [(0, []), (1, [0]), (2, [0, 10]), (3, [0, 5, 10]), (50, list(range(11)))]
)
def test_evenly_spaced(number, positions):
    assert evenly_spaced(11, number) == positions
