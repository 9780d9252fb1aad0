import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=25, deadline=None)
@given(pids=st.lists(st.integers(0, 3), min_size=2, max_size=7), seed=st.integers(0, 99))
def test_equals_the_loop(make, naive, pids, seed):
    inputs = make.inputs(pids, seed=seed)
    image, text = inputs.cloth_image_embeds.tolist(), inputs.cloth_text_embeds.tolist()
    expected = (naive.matching(image, text, pids, 0.2) + naive.matching(text, image, pids, 0.2)) / 2
    assert make.term("cloth_match", tau=0.2)(inputs).item() == pytest.approx(expected, abs=1e-6)


def test_the_same_outfit_on_another_photo_is_not_punished(make):
    pids = [0, 0, 1]
    axes = torch.eye(4, dtype=torch.float64)[pids]
    inputs = make.inputs(pids)._replace(cloth_image_embeds=axes, cloth_text_embeds=axes)
    assert make.term("cloth_match", tau=0.02)(inputs).item() == pytest.approx(2 * math.log(2) / 3, abs=1e-6)
