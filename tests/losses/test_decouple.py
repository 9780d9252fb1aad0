"""`decouple` and `cloth_leak`, which are HSIC of different features."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2ireid_plugin.losses.decouple import hsic


def random_features(batch, dim, seed):
    return torch.randn(batch, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def centred_gram(naive, rows):
    size = len(rows)
    gram = [[naive.cosine(a, b) for b in rows] for a in rows]
    mean = [sum(row) / size for row in gram]
    whole = sum(mean) / size
    return [[gram[i][j] - mean[i] - mean[j] + whole for j in range(size)] for i in range(size)]


@pytest.mark.parametrize(("name", "clothing"), [("decouple", "cloth_embeds"), ("cloth_leak", "cloth_text_embeds")])
@given(size=st.integers(2, 7), seed=st.integers(0, 99))
def test_equals_the_loop_over_centred_gram_matrices(make, naive, name, clothing, size, seed):
    inputs = make.inputs([0] * size, seed=seed)
    k = centred_gram(naive, inputs.id_embeds.tolist())
    m = centred_gram(naive, getattr(inputs, clothing).tolist())
    expected = sum(k[i][j] * m[i][j] for i in range(size) for j in range(size)) / (size - 1) ** 2
    assert make.term(name)(inputs).item() == pytest.approx(expected, abs=1e-6)


@given(size=st.integers(1, 8), dim=st.integers(1, 8), seed=st.integers(0, 99))
def test_never_negative_even_in_float32(size, dim, seed):
    a, b = random_features(size, dim, seed).float(), random_features(size, 3, seed + 1000).float()
    assert hsic(a, b) >= 0


def test_independent_features_are_near_zero_and_equal_ones_far_from_it():
    a, b = random_features(400, 4, 0), random_features(400, 4, 1)
    assert hsic(a, b) < 0.01
    assert hsic(a, a) > 20 * hsic(a, b)
    rotation = torch.linalg.qr(random_features(4, 4, 2)).Q
    torch.testing.assert_close(hsic(a, a @ rotation), hsic(a, a))
