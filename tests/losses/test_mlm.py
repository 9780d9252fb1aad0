"""`mlm` against a loop, and its independence of padding."""

import math

import pytest
import torch


def by_loop(naive, term, inputs):
    """Each hidden word's -log p, one at a time, on its pair alone and without padding."""
    losses = []
    for i in range(len(inputs.pids)):
        length = int(inputs.word_mask[i].sum())
        words, mask = inputs.word_tokens[i : i + 1, :length], inputs.word_mask[i : i + 1, :length]
        _, scanned = term.scan.scan(inputs.image_tokens[i : i + 1], words, mask)
        for place in range(length):
            word = int(inputs.hidden_words[i, place])
            if word >= 0:
                logits = naive.project(term.classifier, [scanned[0, place].tolist()])[0]
                losses.append(-naive.log_softmax(logits)[word])
    return sum(losses) / len(losses)


def test_it_is_the_mean_over_the_hidden_words(make, naive):
    term, inputs = make.term("mlm", num_layers=2), make.inputs([0, 1, 0, 2])
    assert term(inputs).item() == pytest.approx(by_loop(naive, term, inputs), abs=1e-9)


def test_without_hidden_words_it_is_zero_and_connected(make):
    term, inputs = make.term("mlm"), make.inputs([0, 1])
    loss = term(inputs._replace(hidden_words=torch.full_like(inputs.hidden_words, -100)))
    assert loss == 0
    loss.backward()


def test_it_learns_a_word_that_only_the_photo_shows(make):
    """Two words, equally frequent, on equal texts: log 2 without the photo, towards 0 with it."""
    torch.manual_seed(0)
    inputs = make.inputs([0, 1] * 4)
    person = torch.tensor([0, 1] * 4)
    inputs = inputs._replace(
        image_tokens=inputs.image_tokens[person],
        word_tokens=torch.zeros_like(inputs.word_tokens),
        word_mask=torch.ones_like(inputs.word_mask),
        hidden_words=torch.where(torch.arange(3) == 1, person[:, None] + 4, -100),
    )
    term = make.term("mlm", dim=8)
    optimizer = torch.optim.Adam(term.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = term(inputs)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 < math.log(2)
    blind = inputs._replace(image_tokens=torch.zeros_like(inputs.image_tokens))
    assert term(blind).item() >= math.log(2) - 1e-6
