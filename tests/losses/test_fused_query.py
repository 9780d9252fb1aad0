import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st


def split(rows):
    """(pid, number of the photo among the person's) rows as `pids` and `photos`."""
    return [pid for pid, _ in rows], [10 * pid + photo for pid, photo in rows]


@given(
    rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=8),
    scale=st.sampled_from([1.0, 0.5, -0.7]),
    seed=st.integers(0, 99),
)
def test_equals_the_loop(make, naive, rows, scale, seed):
    pids, photos = split(rows)
    inputs = make.inputs(pids, photos, seed)._replace(scale=torch.tensor([scale], dtype=torch.float64))
    fused, image = inputs.fused_embeds.tolist(), inputs.image_embeds.tolist()
    losses = []
    for i in range(len(pids)):
        candidates = [j for j in range(len(pids)) if photos[j] != photos[i]]
        positives = [j for j in candidates if pids[j] == pids[i]]
        if not positives:
            continue
        row = naive.log_softmax([scale * naive.cosine(fused[i], image[j]) / 0.1 for j in candidates])
        log_p = dict(zip(candidates, row, strict=True))
        losses.append(-sum(log_p[j] for j in positives) / len(positives))
    expected = sum(losses) / len(losses) if losses else 0.0
    assert make.term("fused_query")(inputs).item() == pytest.approx(expected, abs=1e-6)


ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=8)


def by_both(inputs):
    """The images by both branches with equal weights, as lists."""
    halves = inputs.image_embeds.tolist(), inputs.cloth_image_embeds.tolist()
    return [[x / 2**0.5 for x in [*identity, *clothing]] for identity, clothing in zip(*halves, strict=True)]


@given(rows=ROWS, share=st.sampled_from([0.0, 0.8, 1.0]), seed=st.integers(0, 99))
def test_queries_of_both_branches_and_any_match_equal_the_loop(make, naive, rows, share, seed):
    pids, photos = split(rows)
    inputs = make.inputs(pids, photos, seed)
    inputs = inputs._replace(fused_embeds=inputs.composed_embeds)
    queries, gallery, scale = inputs.fused_embeds.tolist(), by_both(inputs), inputs.scale.item()
    losses = []
    for i in range(len(pids)):
        candidates = [j for j in range(len(pids)) if photos[j] != photos[i]]
        row = naive.log_softmax([scale * naive.cosine(queries[i], gallery[j]) / 0.05 for j in candidates])
        own = [x for x, j in zip(row, candidates, strict=True) if pids[j] == pids[i]]
        if own:
            nearest = -math.log(sum(math.exp(x) for x in own))
            losses.append((share - 1) * sum(own) / len(own) + share * nearest)
    expected = sum(losses) / len(losses) if losses else 0.0
    value = make.term("fused_query", tau=0.05, any_share=share)(inputs)
    assert value.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(
    rows=st.lists(st.tuples(st.integers(0, 1), st.integers(-1, 2), st.integers(0, 1)), min_size=2, max_size=8),
    seed=st.integers(0, 99),
)
def test_composed_query_equals_the_loop(make, naive, rows, seed):
    """Rows of person, outfit (-1: unknown) and photo; the described outfit is that of a later row, if it is another."""
    pids, outfits, photos = (list(column) for column in zip(*rows, strict=True))
    photos = [100 * pid + 10 * outfit + photo for pid, outfit, photo in rows]
    described = []
    for i, (pid, outfit, _) in enumerate(rows):
        others = [o for p, o, _ in rows[i:] + rows[:i] if p == pid and o != outfit and o >= 0]
        described.append(others[0] if others and outfit >= 0 else -1)
    inputs = make.inputs(pids, photos, seed)
    inputs = inputs._replace(outfits=torch.tensor(outfits), composed_outfits=torch.tensor(described))
    queries, gallery, scale = inputs.composed_embeds.tolist(), by_both(inputs), inputs.scale.item()
    losses = []
    for i in range(len(rows)):
        if described[i] < 0:
            continue
        candidates = [j for j in range(len(rows)) if photos[j] != photos[i]]
        row = naive.log_softmax([scale * naive.cosine(queries[i], gallery[j]) / 0.1 for j in candidates])
        matches = [x for x, j in zip(row, candidates, strict=True) if pids[j] == pids[i] and outfits[j] == described[i]]
        losses.append(-sum(matches) / len(matches))
    expected = sum(losses) / len(losses) if losses else 0.0
    assert make.term("composed_query", tau=0.1)(inputs).item() == pytest.approx(expected, rel=1e-6, abs=1e-6)
