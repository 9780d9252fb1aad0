"""The contrastive terms `info_nce`, `cloth_match`, `bio` and `cloth`, with both kinds of targets."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

FIELDS = {
    "info_nce": ("image_embeds", "id_text_embeds"),
    "cloth_match": ("cloth_image_embeds", "cloth_text_embeds"),
    "bio": ("id_embeds", "id_text_embeds"),
    "cloth": ("cloth_embeds", "cloth_text_embeds"),
}
each_projected = pytest.mark.parametrize("name", ["bio", "cloth"])


@pytest.mark.parametrize("name", FIELDS)
@given(
    pids=st.lists(st.integers(0, 3), min_size=2, max_size=7),
    targets=st.sampled_from(["identity", "diagonal"]),
    seed=st.integers(0, 99),
)
def test_equals_the_loop(make, naive, name, pids, targets, seed):
    inputs = make.inputs(pids, seed=seed)
    term = make.term(name, tau=0.2, targets=targets)
    a, b = (getattr(inputs, field).tolist() for field in FIELDS[name])
    labels = pids if targets == "identity" else list(range(len(pids)))
    if name in ("bio", "cloth"):
        expected = naive.matching(naive.project(term.projection, a), b, labels, 0.2)
    else:
        expected = (naive.matching(a, b, labels, 0.2) + naive.matching(b, a, labels, 0.2)) / 2
    assert term(inputs).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["info_nce", "cloth_match"])
def test_another_photo_of_the_person_is_not_punished(make, name):
    # Each identity has its own axis: nothing is left to improve, so the loss is the target's entropy.
    pids = [0, 0, 0, 1, 1, 2]
    axes = torch.eye(4, dtype=torch.float64)[pids].requires_grad_()
    inputs = make.inputs(pids)._replace(**dict.fromkeys(FIELDS[name], axes))
    loss = make.term(name, tau=0.02)(inputs)
    assert loss.item() == pytest.approx((3 * math.log(3) + 2 * math.log(2)) / 6, abs=1e-6)
    loss.backward()
    assert axes.grad.abs().max() < 1e-6


@each_projected
def test_the_projection_is_a_parameter_that_learns_unless_trained_is_false(make, name):
    inputs, term = make.inputs([0, 1, 0, 2]), make.term(name)
    assert set(term.state_dict()) == {"projection.weight", "projection.bias"}
    optimizer = torch.optim.SGD(term.parameters(), lr=0.1)
    before = term(inputs)
    before.backward()
    optimizer.step()
    assert term(inputs) < before
    assert not any(p.requires_grad for p in make.term(name, trained=False).parameters())
