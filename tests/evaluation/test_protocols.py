"""Each protocol's leak rules, and its numbers against evaluations written another way."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2ireid_plugin.evaluation.metrics import compute_metrics
from t2ireid_plugin.evaluation.protocols import PROTOCOLS, Embeddings, RetrievalTask
from t2ireid_plugin.evaluation.ranks import positive_ranks


def unit(rng, n, dim=8):
    return torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(n, dim)).astype(np.float32)), dim=1)


def embeddings(seed, images=20, people=5, captions=2, cameras=3):
    rng = np.random.default_rng(seed)
    described = np.repeat(np.arange(images), captions)
    texts = {name: unit(rng, len(described)) for name in ("captions", "identity", "clothing", "fused")}
    pids = rng.permutation(np.arange(images) % people) * 1000 - 7  # any integers
    return Embeddings(
        unit(rng, images), pids, rng.integers(0, cameras, images), described, cloth_images=unit(rng, images), **texts
    )


def compared(name, e, weight=0.5):
    return PROTOCOLS[name].build_task(e, weight)


def by_hand(scores, right, left_out=None):
    """R@1, R@5 and mAP of a score matrix by sorting each row."""
    hits, precisions = [], []
    for i, row in enumerate(scores):
        order = row.argsort(descending=True).numpy()
        if left_out is not None:
            order = order[~left_out[i][order]]
        ranks = 1 + np.flatnonzero(right[i][order])
        if len(ranks):
            hits.append(ranks[0])
            precisions.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    return np.mean(np.array(hits) <= 1), np.mean(np.array(hits) <= 5), np.mean(precisions)


def numbers(comparison, evaluator="exact"):
    metrics, _ = compute_metrics(comparison, ranks=(1, 5), evaluator=evaluator)
    return metrics["R@1"], metrics["R@5"], metrics["mAP"]


@given(st.integers(0, 10**6))
def test_official_protocol_equals_the_usual_evaluator(seed):
    """Normalised cosine similarity of all pairs, every row sorted as a whole, a match by equal identity."""
    e = embeddings(seed)
    scores = e.captions @ e.images.T
    right = e.pids[e.described][:, None] == e.pids[None, :]
    assert numbers(compared("t2i", e)) == pytest.approx(by_hand(scores, right), abs=1e-6)
    assert numbers(compared("t2i", e), "torchreid") == pytest.approx(by_hand(scores, right), abs=1e-6)


@given(st.integers(0, 10**6))
def test_image_to_text(seed):
    e = embeddings(seed)
    right = e.pids[:, None] == e.pids[e.described][None, :]
    assert numbers(compared("i2t", e)) == pytest.approx(by_hand(e.images @ e.captions.T, right), abs=1e-6)


@given(st.integers(0, 10**6))
def test_image_to_image_is_torchreids(seed):
    e = embeddings(seed)
    right = e.pids[:, None] == e.pids[None, :]
    left_out = right & (e.camids[:, None] == e.camids[None, :])
    assert left_out.diagonal().all()  # nobody finds the query itself
    expected = by_hand(e.images @ e.images.T, right, left_out)
    assert numbers(compared("i2i", e)) == pytest.approx(expected, abs=1e-6)
    assert numbers(compared("i2i", e), "torchreid") == pytest.approx(expected, abs=1e-6)


def test_image_to_image_without_cameras_leaves_out_the_query_alone():
    e = embeddings(0)._replace(camids=np.zeros(20, int))
    right = e.pids[:, None] == e.pids[None, :]
    expected = by_hand(e.images @ e.images.T, right, np.eye(20, dtype=bool))
    assert numbers(compared("i2i", e)) == pytest.approx(expected, abs=1e-6)
    assert set(positive_ranks(*compared("i2i", e)).counts) == {3}  # four photos a person, without itself


@given(st.integers(0, 10**6))
def test_image_and_text_never_finds_its_own_photo(seed):
    e = embeddings(seed)
    own = e.described[:, None] == np.arange(20)[None, :]
    right = e.pids[e.described][:, None] == e.pids[None, :]
    expected = by_hand(e.fused @ e.images.T, right, own)
    assert numbers(compared("ti2i", e)) == pytest.approx(expected, abs=1e-6)
    assert set(positive_ranks(*compared("ti2i", e)).counts) == {3}


def test_a_query_that_is_its_own_photo_earns_nothing():
    """Fused embeddings that are the photo's own: with the photo in the gallery R@1 would be 1."""
    e = embeddings(1)
    e = e._replace(fused=e.images[e.described])
    assert numbers(compared("ti2i", e))[0] < 0.7
    cheating = compared("ti2i", e)._replace(q_camids=np.full(40, -1))
    assert numbers(cheating)[0] == 1.0


def test_gallery_embeddings_know_nothing_of_captions():
    e = embeddings(2)
    other = embeddings(3)
    changed = e._replace(captions=other.captions, identity=other.identity, clothing=other.clothing, fused=other.fused)
    for name in ("t2i", "ti2i", "identity", "clothing", "both", "i2i"):
        assert torch.equal(compared(name, e).gallery, compared(name, changed).gallery), name


def test_the_photos_camera_would_take_the_described_photo_away():
    """Captions that fit their own photo best: with its camera the evaluator drops just that photo."""
    e = embeddings(4)
    e = e._replace(captions=e.images[e.described])
    honest = compared("t2i", e)
    assert numbers(honest)[0] == 1.0
    wrong = honest._replace(q_camids=e.camids[e.described])
    assert numbers(wrong)[0] < 0.7
    assert numbers(wrong, "torchreid")[0] == pytest.approx(numbers(wrong)[0])
    assert set(honest.q_camids) == {-1}


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_identity_and_clothing_are_weighted(seed, weight):
    e = embeddings(seed)
    comparison = compared("both", e, weight)
    found = comparison.queries @ comparison.gallery.T
    expected = weight * e.identity @ e.images.T + (1 - weight) * e.clothing @ e.cloth_images.T
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(comparison.queries.norm(dim=1), torch.ones(40), atol=1e-6)


def test_either_text_alone():
    e = embeddings(5)
    right = e.pids[e.described][:, None] == e.pids[None, :]
    assert numbers(compared("identity", e)) == pytest.approx(by_hand(e.identity @ e.images.T, right), abs=1e-6)
    assert numbers(compared("clothing", e)) == pytest.approx(by_hand(e.clothing @ e.cloth_images.T, right), abs=1e-6)
    for weight, name in ((1.0, "identity"), (0.0, "clothing")):
        assert numbers(compared("both", e, weight)) == pytest.approx(numbers(compared(name, e)), abs=1e-6)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_takes_only_what_it_says_it_needs(name):
    """What it does not name may be missing."""
    e = embeddings(6)
    optional = ("captions", "identity", "clothing", "cloth_images", "fused")
    e = e._replace(**{field: None for field in optional if field not in PROTOCOLS[name].needs})
    comparison = compared(name, e)
    assert isinstance(comparison, RetrievalTask)
    assert len(comparison.queries) == len(comparison.q_pids) == len(comparison.q_camids)
    assert len(comparison.gallery) == len(comparison.g_pids) == len(comparison.g_camids)
