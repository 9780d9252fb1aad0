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
