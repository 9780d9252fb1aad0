import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

FIELDS = {"bio": ("id_embeds", "id_text_embeds"), "cloth": ("cloth_embeds", "cloth_text_embeds")}
each = pytest.mark.parametrize("name", FIELDS)


@each
@settings(max_examples=15, deadline=None)
@given(pids=st.lists(st.integers(0, 3), min_size=2, max_size=6), seed=st.integers(0, 99))
def test_equals_the_loop(make, naive, name, pids, seed):
    inputs = make.inputs(pids, seed=seed)
    term = make.term(name)
    features, texts = (getattr(inputs, field).tolist() for field in FIELDS[name])
    expected = naive.matching(naive.project(term.projection, features), texts, pids, 0.1)
    assert term(inputs).item() == pytest.approx(expected, abs=1e-6)


@each
def test_only_the_direction_of_the_projected_feature_counts(make, name):
    inputs = make.inputs([0, 1, 0, 2])
    term = make.term(name)
    before = term(inputs)
    with torch.no_grad():
        term.projection.weight.mul_(3)
        term.projection.bias.mul_(3)
    torch.testing.assert_close(term(inputs), before)


@each
def test_the_projection_is_a_parameter_and_learns(make, name):
    inputs = make.inputs([0, 1, 0, 2])
    term = make.term(name)
    assert set(term.state_dict()) == {"projection.weight", "projection.bias"}
    optimizer = torch.optim.SGD(term.parameters(), lr=0.1)
    before = term(inputs)
    before.backward()
    optimizer.step()
    assert term(inputs) < before
