"""Terms on their own (`sdm`, `cls`, `gate_regularization` and others) against loops and torchreid's own."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchreid import losses as torchreid_losses

from t2ireid_plugin.losses import LOSSES

batches = given(pids=st.lists(st.integers(0, 3), min_size=2, max_size=7), seed=st.integers(0, 99))


def tal_by_loop(naive, queries, candidates, pids, margin, tau):
    losses = [0.0] * len(pids)
    for i, query in enumerate(queries):
        scores = [naive.cosine(query, candidate) for candidate in candidates]
        positives = [j for j in range(len(pids)) if pids[j] == pids[i]]
        negatives = [j for j in range(len(pids)) if pids[j] != pids[i]]
        if not negatives:
            continue
        weights = [math.exp(scores[j] / tau) for j in positives]
        alike = sum(w * scores[j] for w, j in zip(weights, positives, strict=True)) / sum(weights)
        unlike = tau * math.log(sum(math.exp(scores[j] / tau) for j in negatives))
        losses[i] = max(0.0, margin - alike + unlike)
    return losses


@batches
def test_tal_equals_the_loop(make, naive, pids, seed):
    """Of all pairs, and of those that count; `tal_selected` is the same on other embeddings."""
    inputs = make.inputs(pids, seed=seed)
    clean = [i % 2 for i in range(len(pids))]
    for margin, tau, name in ((0.1, 0.015, "tal"), (0.5, 0.2, "tal"), (0.5, 0.2, "tal_selected")):
        image, text = (getattr(inputs, field).tolist() for field in LOSSES[name].needs)
        sides = (tal_by_loop(naive, *sides, pids, margin, tau) for sides in ((image, text), (text, image)))
        losses = [sum(both) for both in zip(*sides, strict=True)]
        term = make.term(name, margin=margin, tau=tau)
        assert term(inputs).item() == pytest.approx(sum(losses) / len(losses), abs=1e-6)
        total = sum(c * loss for c, loss in zip(clean, losses, strict=True))
        some = inputs._replace(clean=torch.tensor(clean))
        assert term(some).item() == pytest.approx(total / sum(clean), abs=1e-6)
        summed = make.term(name, margin=margin, tau=tau, reduction="sum")
        assert summed(some).item() == pytest.approx(total, abs=1e-6)


def test_tal_has_the_gradient_with_fixed_weights(make):
    inputs = make.inputs([0, 1, 0, 2])
    image = inputs.image_embeds.requires_grad_()
    make.term("tal", margin=2.0)(inputs).backward()
    own, image.grad = image.grad.clone(), None
    scores = image / image.norm(dim=1, keepdim=True) @ inputs.id_text_embeds.T
    same = inputs.pids[:, None] == inputs.pids
    total = 0
    for s in (scores, scores.T):
        fixed = ((s / 0.015).exp() * same).detach()
        alike = (fixed / fixed.sum(1, keepdim=True) * s).sum(1)
        total = total + (2.0 - alike + 0.015 * ((s / 0.015).exp() * ~same).sum(1).log()).mean()
    total.backward()
    torch.testing.assert_close(own, image.grad)


@batches
def test_id_equals_the_loop(make, naive, pids, seed):
    inputs = make.inputs(pids, seed=seed)
    term = make.term("id", scale=3.0, label_smoothing=0.1)
    total = 0.0
    for side in (inputs.image_embeds.tolist(), inputs.id_text_embeds.tolist()):
        logits = naive.project(term.classifier, [[3.0 * x for x in row] for row in side])
        for row, pid in zip(logits, pids, strict=True):
            log_p = naive.log_softmax(row)
            total -= 0.9 * log_p[pid] + 0.1 * sum(log_p) / len(log_p)
    assert term(inputs).item() == pytest.approx(total / (2 * len(pids)), abs=1e-6)


@batches
def test_supcon_equals_the_loop(make, naive, pids, seed):
    inputs = make.inputs(pids, seed=seed)
    rows, people = [*inputs.image_embeds.tolist(), *inputs.id_text_embeds.tolist()], pids * 2
    total = 0.0
    for i, row in enumerate(rows):
        others = [j for j in range(len(rows)) if j != i]
        log_p = dict(zip(others, naive.log_softmax([naive.cosine(row, rows[j]) / 0.1 for j in others]), strict=True))
        positives = [j for j in others if people[j] == people[i]]
        total -= sum(log_p[j] for j in positives) / len(positives)
    assert make.term("supcon")(inputs).item() == pytest.approx(total / len(rows), abs=1e-6)


@given(
    pids=st.lists(st.integers(0, 3), min_size=2, max_size=7).filter(lambda p: len(set(p)) > 1), seed=st.integers(0, 99)
)
def test_triplet_equals_torchreids_over_images_and_texts(make, pids, seed):
    inputs = make.inputs(pids, seed=seed)
    both = torch.cat([inputs.image_embeds, inputs.id_text_embeds])
    expected = torchreid_losses.TripletLoss(margin=0.4)(both, inputs.pids.repeat(2))
    torch.testing.assert_close(make.term("triplet", margin=0.4)(inputs), expected, atol=1e-6, rtol=0)


def test_triplet_of_one_person_is_zero(make):
    assert make.term("triplet")(make.inputs([1, 1, 1])) == 0


@batches
def test_orthogonality_equals_the_loop(make, naive, pids, seed):
    inputs = make.inputs(pids, seed=seed)
    pairs = zip(inputs.id_embeds.tolist(), inputs.cloth_embeds.tolist(), strict=True)
    expected = sum(naive.cosine(a, b) ** 2 for a, b in pairs) / len(pids)
    assert make.term("orthogonality")(inputs).item() == pytest.approx(expected, abs=1e-9)


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


@given(size=st.integers(1, 7), target=st.sampled_from([0.5, 0.3]), seed=st.integers(0, 99))
def test_gate_regularization_equals_the_loop(make, size, target, seed):
    inputs = make.inputs([0] * size, seed=seed)
    rows = inputs.gate.tolist()
    channels = len(rows[0])
    expected = sum((sum(row[d] for row in rows) / size - target) ** 2 / channels for d in range(channels))
    assert make.term("gate_regularization", target=target)(inputs).item() == pytest.approx(expected, abs=1e-6)
    of_each = sum((x - target) ** 2 for row in rows for x in row) / (size * channels)
    term = make.term("gate_regularization", target=target, of_each=True)
    assert term(inputs).item() == pytest.approx(of_each, abs=1e-6)


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
def test_sdm_equals_the_loop(make, naive, pids, tau, eps, seed):
    inputs = make.inputs(pids, seed=seed)
    image, text = inputs.image_embeds.tolist(), inputs.id_text_embeds.tolist()
    expected = divergence(naive, image, text, pids, tau, eps)
    expected += divergence(naive, text, image, pids, tau, eps)
    assert make.term("sdm", tau=tau, eps=eps)(inputs).item() == pytest.approx(expected, abs=1e-6)
