import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st


def divergence(naive, queries, candidates, pids, tau, eps):
    total = 0.0
    for i, query in enumerate(queries):
        same = [pid == pids[i] for pid in pids]
        log_p = naive.log_softmax([naive.cosine(query, candidate) / tau for candidate in candidates])
        for j in range(len(pids)):
            total += math.exp(log_p[j]) * (log_p[j] - math.log(same[j] / sum(same) + eps))
    return total / len(queries)


@given(
    pids=st.lists(st.integers(0, 3), min_size=2, max_size=7),
    tau=st.sampled_from([0.02, 0.1]),
    eps=st.sampled_from([1e-8, 1e-3]),
    seed=st.integers(0, 99),
)
def test_equals_the_loop(make, naive, pids, tau, eps, seed):
    inputs = make.inputs(pids, seed=seed)
    image, text = inputs.image_embeds.tolist(), inputs.id_text_embeds.tolist()
    expected = divergence(naive, image, text, pids, tau, eps)
    expected += divergence(naive, text, image, pids, tau, eps)
    assert make.term("sdm", tau=tau, eps=eps)(inputs).item() == pytest.approx(expected, abs=1e-6)


def test_zero_when_every_identity_has_its_own_axis(make):
    pids = [0, 0, 1, 2, 2, 2]
    axes = torch.eye(4, dtype=torch.float64)[pids]
    inputs = make.inputs(pids)._replace(image_embeds=axes, id_text_embeds=axes)
    assert make.term("sdm")(inputs).item() == pytest.approx(0, abs=1e-6)


def test_eps_bounds_the_price_of_a_swap(make):
    axes = torch.eye(4, dtype=torch.float64)[:2]
    inputs = make.inputs([0, 1])._replace(image_embeds=axes, id_text_embeds=axes.flip(0))
    assert make.term("sdm", eps=1e-8)(inputs).item() == pytest.approx(2 * math.log(1e8), rel=1e-6)
