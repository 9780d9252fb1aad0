import math

import pytest
from hypothesis import given
from hypothesis import strategies as st


@given(
    pids=st.lists(st.integers(0, 5), min_size=1, max_size=7),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    seed=st.integers(0, 99),
)
def test_cls_equals_the_loop(make, naive, pids, smoothing, seed):
    inputs = make.inputs(pids, seed=seed)
    total = 0.0
    for logits, pid in zip(inputs.id_logits.tolist(), pids, strict=True):
        for k, log_p in enumerate(naive.log_softmax(logits)):
            total -= ((1 - smoothing) * (k == pid) + smoothing / len(logits)) * log_p
    loss = make.term("cls", label_smoothing=smoothing)(inputs)
    assert loss.item() == pytest.approx(total / len(pids), abs=1e-6)


def test_equal_logits_give_log_of_the_number_of_classes(make):
    inputs = make.inputs([0, 4])
    inputs = inputs._replace(id_logits=inputs.id_logits.zero_())
    assert make.term("cls")(inputs).item() == pytest.approx(math.log(6))
