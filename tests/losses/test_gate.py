import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st


@given(size=st.integers(1, 7), target=st.sampled_from([0.5, 0.3]), seed=st.integers(0, 99))
def test_equals_the_loop(make, size, target, seed):
    inputs = make.inputs([0] * size, seed=seed)
    rows = inputs.gate.tolist()
    channels = len(rows[0])
    expected = 0.0
    for d in range(channels):
        expected += (sum(row[d] for row in rows) / size - target) ** 2 / channels
    assert make.term("gate_regularization", target=target)(inputs).item() == pytest.approx(expected, abs=1e-6)


def test_samples_may_differ_but_a_channel_may_not_take_sides(make):
    term, inputs = make.term("gate_regularization"), make.inputs([0, 1])
    opposite = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert term(inputs._replace(gate=opposite)) == 0
    one_sided = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert term(inputs._replace(gate=one_sided)) == 0.25
