"""`cmpm` and `cmpc` against loops over the paper's formulas; `cmpm` also against IRRA's code, tests/parity."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

batches = given(pids=st.lists(st.integers(0, 3), min_size=2, max_size=7), seed=st.integers(0, 99))


def length(row):
    return math.sqrt(sum(x * x for x in row))


def along(row, other):
    """Signed length of the projection of `row` on the direction of `other`."""
    return sum(x * y for x, y in zip(row, other, strict=True)) / length(other)


@batches
def test_cmpm_equals_the_loop(make, naive, pids, seed):
    inputs = make.inputs(pids, seed=seed)
    image, text = inputs.id_embeds.tolist(), inputs.id_text_features.tolist()
    total = 0.0
    for queries, candidates in ((image, text), (text, image)):
        for i, query in enumerate(queries):
            log_p = naive.log_softmax([along(query, candidate) for candidate in candidates])
            for j, value in enumerate(log_p):
                q = (pids[j] == pids[i]) / pids.count(pids[i])
                total += math.exp(value) * (value - math.log(q + 1e-8)) / len(pids)
    assert make.term("cmpm")(inputs).item() == pytest.approx(total, abs=1e-9)


@batches
def test_cmpc_equals_the_loop(make, naive, pids, seed):
    inputs = make.inputs(pids, seed=seed)
    image, text = inputs.id_embeds.tolist(), inputs.id_text_features.tolist()
    term = make.term("cmpc")
    columns = [[x / length(row) for x in row] for row in term.classifier.weight.tolist()]
    total = 0.0
    for features, others in ((image, text), (text, image)):
        for feature, other, pid in zip(features, others, pids, strict=True):
            projected = [along(feature, other) * x / length(other) for x in other]
            logits = [sum(w * x for w, x in zip(column, projected, strict=True)) for column in columns]
            total -= naive.log_softmax(logits)[pid] / len(pids)
    assert term(inputs).item() == pytest.approx(total, abs=1e-9)
