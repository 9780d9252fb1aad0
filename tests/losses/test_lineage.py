"""The variants of the terms that reproduce the lineage's, against loops over its formulas."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.losses import LossTerms


def test_cloth_match_replaces_a_share_of_the_texts_by_random_ones(make):
    inputs = make.inputs(list(range(6)))
    alike = inputs._replace(cloth_text_embeds=inputs.cloth_text_embeds[:1].expand(6, -1))
    term = make.term("cloth_match", wrong_share=0.5, targets="diagonal")
    torch.testing.assert_close(term(alike), make.term("cloth_match")(alike))  # any text drawn is the same text
    torch.manual_seed(0)
    values = {round(term(inputs).item(), 6) for _ in range(20)}
    assert len(values) > 10


@given(pids=st.lists(st.integers(0, 3), min_size=2, max_size=6), seed=st.integers(0, 99))
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
