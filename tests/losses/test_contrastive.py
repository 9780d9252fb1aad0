import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=25, deadline=None)
@given(pids=st.lists(st.integers(0, 3), min_size=2, max_size=7), seed=st.integers(0, 99))
def test_info_nce_equals_the_loop(make, naive, pids, seed):
    inputs = make.inputs(pids, seed=seed)
    image, text = inputs.image_embeds.tolist(), inputs.id_text_embeds.tolist()
    expected = (naive.matching(image, text, pids, 0.1) + naive.matching(text, image, pids, 0.1)) / 2
    assert make.term("info_nce")(inputs).item() == pytest.approx(expected, abs=1e-6)


def test_with_one_row_per_identity_it_is_clip(make):
    inputs = make.inputs([3, 1, 0, 2])
    logits = inputs.image_embeds @ inputs.id_text_embeds.T / 0.07
    diagonal = torch.arange(4)
    clip = (
        torch.nn.functional.cross_entropy(logits, diagonal) + torch.nn.functional.cross_entropy(logits.T, diagonal)
    ) / 2
    torch.testing.assert_close(make.term("info_nce", tau=0.07)(inputs), clip)


def test_another_photo_of_the_person_is_not_punished(make):
    # Each identity has its own axis: nothing is left to improve, so the loss is the target's entropy.
    pids = [0, 0, 0, 1, 1, 2]
    axes = torch.eye(4, dtype=torch.float64)[pids].requires_grad_()
    inputs = make.inputs(pids)._replace(image_embeds=axes, id_text_embeds=axes)
    loss = make.term("info_nce", tau=0.02)(inputs)
    entropy = (3 * math.log(3) + 2 * math.log(2)) / 6
    assert loss.item() == pytest.approx(entropy, abs=1e-6)
    loss.backward()
    assert axes.grad.abs().max() < 1e-6
