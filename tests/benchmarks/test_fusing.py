"""The benchmark of fusions: where they start, and what a training batch asks for."""

import numpy as np
import pytest
import torch

from benchmarks.fusing import KINDS, Fusion, batch_queries, draw, queries_of
from t2ireid_plugin.evaluation.protocols import PROTOCOLS, Embeddings
from t2ireid_plugin.modeling.ranking import Ranking


@pytest.fixture
def people():
    """Six people in two outfits, of each two photos with two captions; what composed search asks of them."""
    torch.manual_seed(0)
    pids, outfits = np.arange(24) % 6, np.arange(24) // 6 % 2
    described = np.repeat(np.arange(24), 2)
    fields = ("identity_parts", "clothing_parts", "identity_words", "clothing_words", "clothing")
    texts = {name: torch.nn.functional.normalize(torch.randn(48, 256)) for name in fields}
    images, cloth_images = (torch.nn.functional.normalize(torch.randn(24, 256)) for _ in range(2))
    looks = 2 * pids + outfits
    references = np.array([(i + 6) % 24 for i in described])
    composed = {"references": references, "looks": looks[described], "gallery_looks": looks}
    return Embeddings(
        images, pids, np.zeros(24, int), described, Ranking("both", 0.5), cloth_images=cloth_images, **texts, **composed
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["ti2i", "composed"])
def test_a_fusion_starts_as_the_plain_sum(people, kind, name):
    queries = queries_of(name, people)
    fusion = Fusion(kind).eval()
    scores = fusion(queries.photos, queries.texts) @ queries.task.gallery.T
    task = PROTOCOLS[f"{name}_sum"].build_task(people, 1.0)
    expected = task.queries @ task.gallery.T
    ratios = (scores / expected).detach()
    assert torch.allclose(ratios, ratios[:, :1].expand_as(ratios), rtol=1e-2)  # a factor of each query keeps its order


@pytest.mark.parametrize("name", ["ti2i", "composed"])
def test_a_training_batch_equals_a_loop(people, name):
    captions = torch.arange(48).view(24, 2)
    rng = torch.Generator().manual_seed(1)
    photos, texts, gallery, matches, left_out = batch_queries(name, people, torch.arange(24), captions, rng)
    own = people.identity_parts if name == "ti2i" else people.identity_words
    assert matches.shape == left_out.shape == (24, 24)
    assert torch.allclose(gallery[:, :256], people.images / 2**0.5)
    for i in range(24):
        reference = next(j for j in range(24) if torch.equal(people.images[j], photos[i, 0]))
        assert any(torch.equal(own[2 * i + k], texts[i, 0]) for k in range(2))
        assert people.pids[reference] == people.pids[i]
        assert (people.gallery_looks[reference] == people.gallery_looks[i]) == (name == "ti2i")
        for j in range(24):
            labels = people.pids if name == "ti2i" else people.gallery_looks
            assert left_out[i, j] == (j == reference)
            assert matches[i, j] == (labels[j] == labels[i] and not left_out[i, j])


def test_a_batch_has_some_photos_of_some_people(people, monkeypatch):
    monkeypatch.setattr("benchmarks.fusing.PEOPLE", 3)
    rows = draw(people, torch.Generator().manual_seed(2))
    assert len(set(rows.tolist())) == 12
    assert np.unique(people.pids[rows], return_counts=True)[1].tolist() == [4, 4, 4]
