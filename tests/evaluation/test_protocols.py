"""Each protocol's exclusion rules, and its metrics against independent evaluations."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2ireid_plugin.evaluation.metrics import evaluate_task
from t2ireid_plugin.evaluation.protocols import PROTOCOLS, Embeddings, RetrievalTask, required, with_baselines
from t2ireid_plugin.evaluation.ranks import positive_ranks
from t2ireid_plugin.modeling.ranking import Ranking

TEXTS = ("captions", "identity", "clothing", "fused", "identity_parts", "clothing_parts")
WORDS = ("identity_words", "clothing_words", "composed_fused")


def unit(rng, n, dim=8):
    return torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(n, dim)).astype(np.float32)), dim=1)


def embeddings(seed, images=20, people=5, captions=2, cameras=3):
    rng = np.random.default_rng(seed)
    described = np.repeat(np.arange(images), captions)
    texts = {name: unit(rng, len(described)) for name in TEXTS}
    pids = rng.permutation(np.arange(images) % people) * 1000 - 7  # any integers
    return Embeddings(
        unit(rng, images), pids, rng.integers(0, cameras, images), described, cloth_images=unit(rng, images), **texts
    )


def two_outfits(seed):
    """Composed search among 5 people with 2 outfits: of 2 captions of each of 20 photos, a few have no query."""
    rng = np.random.default_rng(seed)
    e = embeddings(seed)
    outfits = np.array([np.count_nonzero(e.pids[:i] == e.pids[i]) // 2 for i in range(20)])
    looks = np.unique(np.stack([e.pids, outfits]), axis=1, return_inverse=True)[1].reshape(-1)
    others = [np.flatnonzero((e.pids == e.pids[i]) & (outfits != outfits[i])) for i in e.described]
    own = np.where(rng.random(40) < 0.2, -2, looks[e.described])
    words = {name: unit(rng, 40) for name in WORDS}
    return e._replace(references=np.array([rng.choice(o) for o in others]), looks=own, gallery_looks=looks, **words)


def build_task(name, e, weight=0.5):
    return PROTOCOLS[name].build_task(e, weight)


def by_hand(scores, right, excluded=None):
    """R@1, R@5 and mAP of a score matrix by sorting each row."""
    hits, precisions = [], []
    for i, row in enumerate(scores):
        order = row.argsort(descending=True).numpy()
        if excluded is not None:
            order = order[~excluded[i][order]]
        ranks = 1 + np.flatnonzero(right[i][order])
        if len(ranks):
            hits.append(ranks[0])
            precisions.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    return np.mean(np.array(hits) <= 1), np.mean(np.array(hits) <= 5), np.mean(precisions)


def numbers(task, evaluator="exact"):
    metrics = evaluate_task(task, ranks=(1, 5), evaluator=evaluator).metrics
    return metrics["R@1"], metrics["R@5"], metrics["mAP"]


@given(st.integers(0, 10**6))
def test_text_protocols_equal_sorting_all_similarities(seed):
    """Cosine similarity of all pairs, every row sorted as a whole, a match by equal identity, nothing excluded."""
    e = embeddings(seed)
    right = e.pids[e.described][:, None] == e.pids[None, :]
    official = by_hand(e.captions @ e.images.T, right)
    assert numbers(build_task("t2i", e)) == pytest.approx(official, abs=1e-6)
    assert numbers(build_task("t2i", e), "torchreid") == pytest.approx(official, abs=1e-6)
    assert numbers(build_task("i2t", e)) == pytest.approx(by_hand(e.images @ e.captions.T, right.T), abs=1e-6)
    for name, weight, texts, images in (
        ("identity", 1.0, e.identity, e.images),
        ("clothing", 0.0, e.clothing, e.cloth_images),
    ):
        expected = by_hand(texts @ images.T, right)
        assert numbers(build_task(name, e)) == pytest.approx(expected, abs=1e-6)
        assert numbers(build_task("both", e, weight)) == pytest.approx(expected, abs=1e-6)


@given(st.integers(0, 10**6))
def test_image_to_image_is_torchreids(seed):
    e = embeddings(seed)
    right = e.pids[:, None] == e.pids[None, :]
    excluded = right & (e.camids[:, None] == e.camids[None, :])
    assert excluded.diagonal().all()  # the query itself is excluded
    expected = by_hand(e.images @ e.images.T, right, excluded)
    assert numbers(build_task("i2i", e)) == pytest.approx(expected, abs=1e-6)
    assert numbers(build_task("i2i", e), "torchreid") == pytest.approx(expected, abs=1e-6)


def test_image_to_image_without_cameras_excludes_only_the_query():
    e = embeddings(0)._replace(camids=np.zeros(20, int))
    right = e.pids[:, None] == e.pids[None, :]
    expected = by_hand(e.images @ e.images.T, right, np.eye(20, dtype=bool))
    assert numbers(build_task("i2i", e)) == pytest.approx(expected, abs=1e-6)
    assert set(map(len, positive_ranks(*build_task("i2i", e)[:7]))) == {3}  # of four photos per person


@given(st.integers(0, 10**6))
def test_image_and_text_excludes_its_own_photo(seed):
    e = embeddings(seed)
    own = e.described[:, None] == np.arange(20)[None, :]
    right = e.pids[e.described][:, None] == e.pids[None, :]
    expected = by_hand(e.fused @ e.images.T, right, own)
    assert numbers(build_task("ti2i", e)) == pytest.approx(expected, abs=1e-6)
    assert set(map(len, positive_ranks(*build_task("ti2i", e)[:7]))) == {3}


@given(st.integers(0, 10**6), st.floats(0, 20))
def test_baselines_of_image_and_text(seed, weight):
    """The photo alone, and its sum with the weighted caption, in float64 and scaled row by row."""
    e = embeddings(seed)
    own = e.described[:, None] == np.arange(20)[None, :]
    right = e.pids[e.described][:, None] == e.pids[None, :]
    photos = e.images[e.described].double()
    for name, queries in (("ti2i_photo", photos), ("ti2i_sum", photos + weight * e.captions.double())):
        task = build_task(name, e, weight)
        scores = queries @ e.images.double().T / queries.norm(dim=1, keepdim=True)
        assert torch.allclose((task.queries @ task.gallery.T).double(), scores, atol=1e-5)
        assert numbers(task) == pytest.approx(by_hand(task.queries @ e.images.T, right, own), abs=1e-6)
        assert set(map(len, positive_ranks(*task[:7]))) == {3}


@given(st.integers(0, 10**6), st.sampled_from(["caption", "both"]), st.floats(0.05, 0.95), st.floats(0, 5))
def test_composed_search_equals_a_loop_over_queries(seed, by, share, weight):
    """Scores in float64 branch by branch; a match is an equal look, and only the query's own photo is left out."""
    e = two_outfits(seed)._replace(ranking=Ranking(by, share))
    photos, cloth_photos = e.images[e.references].double(), e.cloth_images[e.references].double()
    images, cloth_images = e.images.double(), e.cloth_images.double()

    def weighed(identity, clothing, share=share):
        return share * identity @ images.T + (1 - share) * clothing @ cloth_images.T

    unit_sum = torch.nn.functional.normalize(cloth_photos + weight * e.clothing_words.double())
    scores = {
        "composed": weighed(e.composed_fused.double(), unit_sum),
        "composed_words": weighed(e.identity_words.double(), e.clothing_words.double()),
        "composed_photo": weighed(photos, cloth_photos),
        "composed_sum": weighed(photos + weight * e.identity_words, cloth_photos + weight * e.clothing_words),
    }
    if by == "caption":
        sides = e.composed_fused, e.clothing, photos, photos + weight * e.clothing
        scores = {name: side.double() @ images.T for name, side in zip(scores, sides, strict=True)}
    scores["composed_pair"] = weighed(photos, e.clothing.double(), weight / 5)
    right, own_photo = np.zeros((2, 40, 20), dtype=bool)
    for i in range(40):
        for j in range(20):
            right[i, j] = e.looks[i] == e.gallery_looks[j]
            own_photo[i, j] = e.references[i] == j
    assert not (right & own_photo).any()
    for name, expected in scores.items():
        task = build_task(name, e, weight / 5 if name == "composed_pair" else weight)
        assert numbers(task) == pytest.approx(by_hand(expected, right, own_photo), abs=1e-6)
        assert numbers(task, "torchreid") == pytest.approx(by_hand(expected, right, own_photo), abs=1e-6)
        assert set(map(len, positive_ranks(*task[:7]))) == {0, 2} if -2 in e.looks else {2}


@given(st.integers(0, 10**6), st.sampled_from(["caption", "both"]), st.floats(0, 5))
def test_photos_that_are_only_shown_are_not_searched(seed, by, weight):
    """ITCPR: nothing is left out of a gallery without the photos of the queries; a match is an equal instance."""
    rng = np.random.default_rng(seed)
    m, r, n = 12, 5, 9
    instances = rng.choice([-1, 1, 2, 3], m)
    instances[:3] = 1, 2, 3
    rows, asked = rng.integers(m, m + r, n), rng.integers(1, 4, n)
    embeds = {name: unit(rng, n) for name in (*TEXTS, *WORDS)}
    e = Embeddings(
        *(unit(rng, m + r), instances, np.zeros(m, int), rows, Ranking(by, 0.3)), cloth_images=unit(rng, m + r),
        own_pids=asked, references=rows, looks=asked, gallery_looks=instances, **embeds,
    )  # fmt: skip
    sides = {
        "t2i": (e.captions, e.identity_parts, e.clothing_parts),
        "ti2i_sum": tuple(weight * text for text in (e.captions, e.identity_parts, e.clothing_parts)),
        "composed_words": (e.clothing, e.identity_words, e.clothing_words),
        "composed_photo": (0 * e.clothing,) * 3,
        "composed_sum": tuple(weight * text for text in (e.clothing, e.identity_words, e.clothing_words)),
    }
    for name, (whole, identity, clothing) in sides.items():
        scores = np.empty((n, m))
        for i in range(n):
            shows = name not in ("t2i", "composed_words")
            photo, cloth_photo = (shows * side[rows[i]] for side in (e.images, e.cloth_images))
            for j in range(m):
                if by == "both":
                    identity_score = 0.3 * (photo + identity[i]) @ e.images[j]
                    scores[i, j] = identity_score + 0.7 * (cloth_photo + clothing[i]) @ e.cloth_images[j]
                else:
                    scores[i, j] = (photo + whole[i]) @ e.images[j]
        task = build_task(name, e, weight)
        expected = by_hand(torch.from_numpy(scores), asked[:, None] == instances[None, :])
        assert numbers(task) == pytest.approx(expected, abs=1e-6)
        assert numbers(task, "torchreid") == pytest.approx(expected, abs=1e-6)
        assert len(task.gallery) == len(task.g_pids) == len(task.g_camids) == m


def test_intervals_of_composed_search_are_over_people():
    e = two_outfits(0)
    people = e.pids[e.described]
    result = evaluate_task(build_task("composed_photo", e))
    assert result.pids.tolist() == people[e.looks != -2].tolist()
    assert result.metrics["identities"] == 5
    assert result.metrics["skipped_queries"] == np.count_nonzero(e.looks == -2) > 0


def test_fused_queries_come_with_their_baselines():
    assert with_baselines(["t2i", "ti2i", "i2i", "ti2i"]) == ["t2i", "ti2i", "ti2i_photo", "ti2i_sum", "i2i"]
    assert with_baselines(["t2i", "both"]) == ["t2i", "both"]
    words, photo, total, pair = (f"composed_{name}" for name in ("words", "photo", "sum", "pair"))
    assert with_baselines(["composed"]) == ["composed", words, photo, total, pair]


def test_photo_camera_would_exclude_the_described_photo():
    """Captions that fit their own photo best: with its camera the evaluator excludes that photo."""
    e = embeddings(4)
    e = e._replace(captions=e.images[e.described])
    honest = build_task("t2i", e)
    assert numbers(honest)[0] == 1.0
    wrong = honest._replace(q_camids=e.camids[e.described])
    assert numbers(wrong)[0] < 0.7
    assert numbers(wrong, "torchreid")[0] == pytest.approx(numbers(wrong)[0])
    assert set(honest.q_camids) == {-1}


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_identity_and_clothing_are_weighted(seed, weight):
    e = embeddings(seed)
    task = build_task("both", e, weight)
    scores = task.queries @ task.gallery.T
    expected = weight * e.identity @ e.images.T + (1 - weight) * e.clothing @ e.cloth_images.T
    assert torch.allclose(scores, expected, atol=1e-6)
    assert torch.allclose(task.queries.norm(dim=1), torch.ones(40), atol=1e-6)


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_a_ranking_by_both_weighs_both_branches(seed, weight):
    """Every protocol that follows the ranking, against the weighted sum of two matrices of cosines."""
    e = embeddings(seed)._replace(ranking=Ranking("both", weight))

    def scores(name, text_weight=1.0):
        task = build_task(name, e, text_weight)
        return task.queries @ task.gallery.T

    def weighed(identity, clothing):
        return weight * identity @ e.images.T + (1 - weight) * clothing @ e.cloth_images.T

    by_text = weighed(e.identity_parts, e.clothing_parts)
    photos, cloth_photos = e.images[e.described], e.cloth_images[e.described]
    assert torch.allclose(scores("t2i"), by_text, atol=1e-6)
    assert torch.allclose(scores("i2t"), by_text.T, atol=1e-6)
    assert torch.allclose(scores("i2i"), weighed(e.images, e.cloth_images), atol=1e-6)
    assert torch.allclose(scores("ti2i_photo"), weighed(photos, cloth_photos), atol=1e-6)
    sums = weighed(photos + 2 * e.identity_parts, cloth_photos + 2 * e.clothing_parts)
    ratios = scores("ti2i_sum", 2.0).norm(dim=1) / sums.norm(dim=1)  # of each query, which do not change its order
    assert torch.allclose(scores("ti2i_sum", 2.0), sums * ratios[:, None], atol=1e-5)
    cloth = torch.nn.functional.normalize(cloth_photos + 2 * e.clothing_parts)
    assert torch.allclose(scores("ti2i", 2.0), weighed(e.fused, cloth), atol=1e-6)


def test_branches_that_are_named_do_not_follow_the_ranking():
    plain = embeddings(3)
    both = plain._replace(ranking=Ranking("both", 0.3))
    for name in ("caption", "identity", "clothing", "both", "caption_clothing"):
        for a, b in zip(build_task(name, plain), build_task(name, both), strict=True):
            assert np.array_equal(a, b)
    scores = build_task("caption_clothing", plain, 0.3)
    expected = 0.3 * plain.captions @ plain.images.T + 0.7 * plain.clothing @ plain.cloth_images.T
    assert torch.allclose(scores.queries @ scores.gallery.T, expected, atol=1e-6)
    assert numbers(build_task("caption", both)) == numbers(build_task("t2i", plain))


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("by", ["caption", "both"])
def test_a_protocol_reads_only_the_embeddings_it_needs(name, by):
    e = two_outfits(6)._replace(ranking=Ranking(by))
    optional = (*TEXTS, *WORDS, "cloth_images", "references", "looks", "gallery_looks")
    needed = required([name], e.ranking)
    assert needed <= set(optional)
    e = e._replace(**{field: None for field in optional if field not in needed})
    task = build_task(name, e)
    assert isinstance(task, RetrievalTask)
    assert len(task.queries) == len(task.q_pids) == len(task.q_camids)
    assert len(task.gallery) == len(task.g_pids) == len(task.g_camids)
