"""The terms of TBPS-CLIP against loops; tests/parity compares them with the authors' code."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2ireid_plugin.losses import LossTerms

batches = given(pids=st.lists(st.integers(0, 3), min_size=1, max_size=6), seed=st.integers(0, 99))


def directions(inputs, image="image_embeds"):
    """Queries and candidates of both directions."""
    first, second = getattr(inputs, image).tolist(), inputs.id_text_embeds.tolist()
    return (first, second), (second, first)


@batches
@pytest.mark.parametrize(("name", "image"), [("n_itc", "image_embeds"), ("n_itc_view", "view_embeds")])
@pytest.mark.parametrize(("epoch", "soft"), [(0.0, 0.0), (0.25, 0.1), (1.0, 0.4), (3.0, 0.4)])
def test_n_itc_equals_the_loop(make, naive, name, image, epoch, soft, pids, seed):
    """Targets are the identities, and from the first epoch on a growing share of the model's own answer."""
    inputs = make.inputs(pids, seed=seed, epoch=epoch)
    total = 0.0
    for queries, candidates in directions(inputs, image):
        for query, own in zip(queries, pids, strict=True):
            log_p = naive.log_softmax([5.0 * naive.cosine(query, candidate) for candidate in candidates])
            for other, x in zip(pids, log_p, strict=True):
                total -= ((1 - soft) * (own == other) / pids.count(own) + soft * math.exp(x)) * x
    value = make.term(name, soft=0.4, scale=5.0)(inputs).item()
    assert value == pytest.approx(total / (2 * len(pids)), abs=1e-6)


@batches
def test_r_itc_equals_the_loop(make, naive, pids, seed):
    inputs, total = make.inputs(pids, seed=seed), 0.0
    for queries, candidates in directions(inputs):
        for query, own in zip(queries, pids, strict=True):
            log_p = naive.log_softmax([5.0 * naive.cosine(query, candidate) for candidate in candidates])
            for other, x in zip(pids, log_p, strict=True):
                total += math.exp(x) * (x - math.log((own == other) / pids.count(own) + 0.01))
    assert make.term("r_itc", scale=5.0)(inputs).item() == pytest.approx(total / (2 * len(pids)), abs=1e-6)


@batches
def test_c_itc_equals_the_loop(make, naive, pids, seed):
    inputs = make.inputs(pids, seed=seed)
    (image, text), _ = directions(inputs)
    within = across = 0.0
    for i in range(len(pids)):
        for j in range(len(pids)):
            within += (naive.cosine(image[i], image[j]) - naive.cosine(text[i], text[j])) ** 2 / len(pids) ** 2
            across += (naive.cosine(image[i], text[j]) - naive.cosine(text[i], image[j])) ** 2 / len(pids) ** 2
    value = make.term("c_itc", within=0.3, across=0.7)(inputs).item()
    assert value == pytest.approx(0.3 * within + 0.7 * across, abs=1e-9)


@batches
def test_simclr_equals_the_loop(make, naive, pids, seed):
    inputs, term = make.inputs(pids, seed=seed), make.term("simclr", hidden=3, tau=0.2)
    with torch.no_grad():
        views = [
            naive.project(term.mlp[2], torch.relu(term.mlp[0](inputs.simclr_features[:, k])).tolist()) for k in (0, 1)
        ]
    total = 0.0
    for k in (0, 1):
        for i, view in enumerate(views[k]):
            twin = naive.cosine(view, views[1 - k][i])
            others = [naive.cosine(view, other) for j, other in enumerate(views[k]) if j != i]
            others += [naive.cosine(view, other) for other in views[1 - k]]
            total += math.log(sum(math.exp(x / 0.2) for x in others)) - twin / 0.2
    assert term(inputs).item() == pytest.approx(total / (2 * len(pids)), abs=1e-6)


def test_the_terms_share_one_scale_which_passes_gradients_at_its_limit(make):
    terms = {name: {"weight": 1.0} for name in ("n_itc_view", "r_itc", "n_itc")}
    losses = LossTerms({**terms, "n_itc": {"weight": 1.0, "scale": 100.0}}).double()
    (scale,) = losses.parameters()
    assert scale.item() == pytest.approx(math.log(100), abs=1e-6)
    inputs = make.inputs([0, 1, 0, 2])
    at_limit = losses.each(inputs)
    with torch.no_grad():
        scale += 1
    for name, value in losses.each(inputs).items():
        torch.testing.assert_close(value, at_limit[name], rtol=1e-5, atol=1e-6)
    losses(inputs)[0].backward()
    assert scale.grad.abs() > 1e-6


def test_the_answer_in_the_targets_is_fixed(make):
    """With `soft` 1 the gradient of the logits is softmax - softmax."""
    inputs = make.inputs([0, 1, 0, 2])
    image = inputs.image_embeds.requires_grad_()
    make.term("n_itc", soft=1.0)(inputs).backward()
    torch.testing.assert_close(image.grad, torch.zeros_like(image), rtol=0, atol=1e-12)
