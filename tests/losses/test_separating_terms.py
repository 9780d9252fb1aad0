"""`words`, `cross_outfit` and `leak` against loops and NumPy's own least squares."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2ireid_plugin.losses import LOSSES, leak

batches = given(pids=st.lists(st.integers(0, 3), min_size=2, max_size=7), seed=st.integers(0, 99))


def normalised(rows):
    """Each column less its mean, over its deviation as batch normalisation has it."""
    columns = []
    for column in zip(*rows, strict=True):
        mean = sum(column) / len(column)
        variance = sum((x - mean) ** 2 for x in column) / len(column)
        columns.append([(x - mean) / math.sqrt(variance + 1e-5) for x in column])
    return list(zip(*columns, strict=True))


@batches
def test_words_equals_the_loop(make, naive, pids, seed):
    inputs, term = make.inputs(pids, seed=seed), make.term("words")
    total = 0.0
    for head, features, words in (
        (term.identity, inputs.id_embeds, inputs.id_words),
        (term.clothing, inputs.cloth_embeds, inputs.cloth_words),
    ):
        logits = naive.project(head, normalised(features.tolist()))
        for row, targets in zip(logits, words.tolist(), strict=True):
            for logit, target in zip(row, targets, strict=True):
                share = 1 / (1 + math.exp(-logit))
                total -= (math.log(share) if target else math.log(1 - share)) / words.numel() / 2
    assert term(inputs).item() == pytest.approx(total)


@given(rows=st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 2)), min_size=2, max_size=8), seed=st.integers(0, 99))
def test_cross_outfit_equals_the_loop(make, naive, rows, seed):
    pids, outfits = (list(column) for column in zip(*rows, strict=True))
    inputs = make.inputs(pids, seed=seed)._replace(outfits=torch.tensor(outfits))
    images, tau, values = inputs.image_embeds.tolist(), 0.1, []
    for i in range(len(rows)):
        others = [j for j in range(len(rows)) if pids[j] != pids[i]]
        pairs = [j for j in range(len(rows)) if pids[j] == pids[i] and -1 not in (outfits[i], outfits[j])]
        pairs = [j for j in pairs if outfits[j] != outfits[i]]
        if pairs:
            scores = {j: naive.cosine(images[i], images[j]) / tau for j in pairs + others}
            total = sum(math.exp(score) for score in scores.values())
            values.append(-sum(scores[j] - math.log(total) for j in pairs) / len(pairs))
    expected = sum(values) / len(values) if values else 0.0
    assert make.term("cross_outfit")(inputs).item() == pytest.approx(expected, abs=1e-9)


def r_squared(features, words):
    """Of the least-squares solution with a penalty of 0.05 per row on each weight, as rows that ask for 0."""
    x, y = np.array(normalised(features)), np.array(words)
    y = y - y.mean(axis=0)
    penalty = math.sqrt(0.05 * len(x)) * np.eye(x.shape[1])
    weights = np.linalg.lstsq(np.vstack([x, penalty]), np.vstack([y, np.zeros((len(penalty), y.shape[1]))]), rcond=None)
    return 1 - ((y - x @ weights[0]) ** 2).sum() / max((y**2).sum(), 1e-12) if y.any() else 0.0


def test_leak_reads_the_memory_and_the_batch(make, monkeypatch):
    monkeypatch.setattr(leak, "MEMORY", 7)  # the last two batches and half of the one before
    term = make.term("leak", identity=2.0, clothing=0.5).train()
    stream = [make.inputs([0, 1, 2], seed=seed) for seed in range(6)]
    columns = ("id_embeds", "cloth_embeds", "id_words", "cloth_words")
    seen = {name: [] for name in columns}
    for inputs in stream:
        for name in columns:
            seen[name] = seen[name][-7:] + getattr(inputs, name).tolist()
        identity = r_squared(seen["id_embeds"], seen["cloth_words"])
        clothing = r_squared(seen["cloth_embeds"], seen["id_words"])
        assert term(inputs).item() == pytest.approx(2.0 * identity + 0.5 * clothing)
    restored = make.term("leak", identity=2.0, clothing=0.5).train()
    restored.load_state_dict(term.state_dict())
    assert torch.equal(restored(stream[0]), term(stream[0]))  # so resuming is exact


def test_leak_starts_late_but_remembers(make):
    term = make.term("leak", start=0.2).train()
    inputs = make.inputs([0, 1, 0, 1])
    assert term(inputs._replace(progress=0.1)) == 0
    assert int(term.filled) == 4
    assert term(inputs._replace(progress=0.2)) > 0


def test_descending_leak_hides_the_words(make):
    """Features that hold the words lose them by gradient steps, against a reader that adapts."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(2, (400, 3), generator=generator).double()
    features = torch.cat([words, torch.randn(400, 2, generator=generator).double()], dim=1).requires_grad_()
    optimizer = torch.optim.Adam([features], lr=0.05)
    first = leak.explained_share(features, words)
    assert first > 0.8
    for _ in range(50):
        optimizer.zero_grad()
        leak.explained_share(features, words).backward()
        optimizer.step()
    assert leak.explained_share(features, words) < 0.3 * first


def test_terms_that_read_words_have_a_column_for_each():
    for name in ("words", "leak"):
        state = LOSSES[name](feature_dim=2, num_words=11).state_dict()
        assert any(11 in value.shape or value.shape[-1:] == (2 * 2 + 2 * 11,) for value in state.values())
