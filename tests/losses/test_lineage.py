"""The lineage's terms as they were, by loops over its formulas."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.losses import LossTerms

batches = given(pids=st.lists(st.integers(0, 3), min_size=2, max_size=6), seed=st.integers(0, 99))
few = settings(max_examples=15, deadline=None)
DIAGONAL = {"targets": "diagonal"}


@few
@batches
def test_info_nce_on_the_diagonal(make, naive, pids, seed):
    inputs = make.inputs(pids, seed=seed)
    image, text, own = inputs.image_embeds.tolist(), inputs.id_text_embeds.tolist(), list(range(len(pids)))
    expected = (naive.matching(image, text, own, 0.1) + naive.matching(text, image, own, 0.1)) / 2
    assert make.term("info_nce", **DIAGONAL)(inputs).item() == pytest.approx(expected, abs=1e-6)


@few
@batches
@pytest.mark.parametrize("name", ["bio", "cloth"])
def test_projections_on_the_diagonal(make, naive, name, pids, seed):
    inputs = make.inputs(pids, seed=seed)
    term = make.term(name, trained=False, **DIAGONAL)
    kind = {"bio": "id", "cloth": "cloth"}[name]
    features, texts = (getattr(inputs, field).tolist() for field in (f"{kind}_embeds", f"{kind}_text_embeds"))
    expected = naive.matching(naive.project(term.projection, features), texts, list(range(len(pids))), 0.1)
    assert term(inputs).item() == pytest.approx(expected, abs=1e-6)
    assert not any(p.requires_grad for p in term.parameters())


@few
@batches
def test_cloth_adv_sets_only_the_diagonal_to_zero(make, naive, pids, seed):
    inputs = make.inputs(pids, seed=seed)
    term = make.term("cloth_adv", **DIAGONAL)
    features, texts = naive.project(term.projection, inputs.cloth_embeds.tolist()), inputs.cloth_text_embeds.tolist()
    total = 0.0
    for i, row in enumerate(features):
        total -= sum(naive.log_softmax([0.0 if i == j else naive.cosine(row, t) / 0.1 for j, t in enumerate(texts)]))
    expected = min(1, 0.2 + 0.05 * inputs.epoch) * total / len(pids) ** 2
    assert term(inputs).item() == pytest.approx(expected, abs=1e-6)


def test_cloth_match_with_wrong_texts(make, naive):
    """Half of many rows get another's text; with a share of 1 each text is drawn anew, with 0 none."""
    pids = list(range(6))
    inputs = make.inputs(pids)
    image, text = inputs.cloth_image_embeds.tolist(), inputs.cloth_text_embeds.tolist()
    right = (naive.matching(image, text, pids, 0.1) + naive.matching(text, image, pids, 0.1)) / 2
    assert make.term("cloth_match", **DIAGONAL)(inputs).item() == pytest.approx(right, abs=1e-6)
    alike = inputs._replace(cloth_text_embeds=inputs.cloth_text_embeds[:1].expand(6, -1))
    term = make.term("cloth_match", wrong_share=0.5, **DIAGONAL)
    torch.testing.assert_close(term(alike), make.term("cloth_match")(alike))  # any text drawn is the same text
    torch.manual_seed(0)
    values = {round(term(inputs).item(), 6) for _ in range(20)}
    assert len(values) > 10


@few
@batches
def test_uncentred_decoupling_of_the_two_projections(make, naive, pids, seed):
    inputs = make.inputs(pids, seed=seed)
    bio, cloth = make.term("bio"), make.term("cloth")
    term = make.term("decouple", centred=False, id_projection=bio.projection, cloth_projection=cloth.projection)
    a = naive.project(bio.projection, inputs.id_embeds.tolist())
    b = naive.project(cloth.projection, inputs.cloth_embeds.tolist())
    n = len(pids)
    total = sum(naive.cosine(a[i], a[j]) * naive.cosine(b[i], b[j]) for i in range(n) for j in range(n) if i != j)
    assert term(inputs).item() == pytest.approx(total / n**2 / (n - 1), abs=1e-6)
    assert not list(term.parameters())  # they belong to bio and cloth


def test_uncentred_decoupling_needs_both_projections():
    terms = {"decouple": {"weight": 1.0, "centred": False}, "bio": {"weight": 1.0}}
    with pytest.raises(ConfigError, match=r"loss 'decouple': centred: false compares the projections of bio and cloth"):
        LossTerms(terms, 5, 4, 6)
    LossTerms({**terms, "cloth": {"weight": 0.5}}, 5, 4, 6)


def test_gate_of_each(make):
    inputs = make.inputs([0, 1, 2])
    expected = sum((x - 0.5) ** 2 for row in inputs.gate.tolist() for x in row) / inputs.gate.numel()
    assert make.term("gate_regularization", of_each=True)(inputs).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("info_nce", {"targets": "photo"}, r"targets: unknown 'photo'; valid: identity, diagonal"),
        ("bio", {"trained": 1}, "trained must be true or false, got 1"),
        ("cloth_match", {"wrong_share": 2}, "wrong_share must be between 0 and 1"),
        ("gate_regularization", {"of_each": "yes"}, "of_each must be true or false"),
    ],
)
def test_bad_arguments(make, name, arguments, message):
    with pytest.raises(ConfigError, match=message):
        make.term(name, **arguments)
