import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2ireid_plugin.losses import LossTerms


@given(
    pids=st.lists(st.integers(0, 3), min_size=2, max_size=6),
    targets=st.sampled_from(["identity", "diagonal"]),
    epoch=st.floats(0, 40),
    seed=st.integers(0, 99),
)
def test_equals_the_loop(make, naive, pids, targets, epoch, seed):
    inputs = make.inputs(pids, seed=seed, epoch=epoch)
    term = make.term("cloth_adv", targets=targets)
    labels = pids if targets == "identity" else range(len(pids))
    features = naive.project(term.projection, inputs.cloth_embeds.tolist())
    texts = inputs.cloth_text_embeds.tolist()
    size, total = len(pids), 0.0
    for i in range(size):
        row = [0.0 if labels[i] == labels[j] else naive.cosine(features[i], texts[j]) / 0.1 for j in range(size)]
        total -= sum(naive.log_softmax(row)) / size**2
    expected = total * (0.2 + 0.05 * epoch if epoch < 16 else 1.0)
    assert term(inputs).item() == pytest.approx(expected, abs=1e-6)


def test_the_projection_is_shared_with_cloth_and_stays_shared_in_a_checkpoint():
    terms = {"cloth_adv": {"weight": 0.1}, "cloth": {"weight": 0.5}}
    source, copy = LossTerms(terms), LossTerms(terms)
    assert source.terms["cloth_adv"].projection is source.terms["cloth"].projection
    assert len(list(source.parameters())) == 2
    copy.load_state_dict(source.state_dict())
    assert copy.terms["cloth_adv"].projection is copy.terms["cloth"].projection
    assert torch.equal(copy.terms["cloth"].projection.weight, source.terms["cloth"].projection.weight)
    alone = LossTerms({"cloth_adv": {"weight": 0.1}, "cloth": {"weight": 0}}, feature_dim=5, embed_dim=4)
    assert alone.terms["cloth_adv"].projection.weight.shape == (4, 5)
