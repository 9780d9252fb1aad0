import itertools

import pytest
import torch

from benchmarks.workloads import captions
from t2ireid_plugin.modeling.encoders.packing import _PASS_TOKENS, ROW_TOKENS, pack, split_batches, start_offsets

D = 3


def flat(lengths):
    """Features that tell every token from every other."""
    return torch.randn(sum(lengths), D, generator=torch.Generator().manual_seed(0))


LENGTHS = [[5], [3, 7, 4, 4], [1] * 9, [60, 2, 100, 3, 3, 3, 64], [200, 1], [7, 7]]


@pytest.mark.parametrize("width", [0, 16, ROW_TOKENS])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_each_token_has_its_place(lengths, width):
    tokens, layout = flat(lengths), pack(lengths, width=width)
    rows = layout.to_rows(tokens)
    assert torch.equal(layout.to_tokens(rows), tokens)
    assert sorted(layout.segment_ids[layout.segment_ids >= 0].tolist()) == sorted(
        i for i, length in enumerate(lengths) for _ in range(length)
    )
    for text, (start, length) in enumerate(zip(start_offsets(lengths), lengths)):
        own = layout.segment_ids == text
        assert len(own.any(dim=1).nonzero()) == 1  # in one row, one after the other
        assert layout.positions[own].tolist() == list(range(length))
        assert torch.equal(rows[own], tokens[start : start + length])
    if width == 0:
        assert layout.segment_ids.amax(dim=1).tolist() == list(range(len(lengths)))
        assert rows.shape[1] == max(lengths)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_texts_do_not_see_each_other(lengths):
    layout = pack(lengths, width=16)
    blocked = layout.attention_mask()
    if len(lengths) == 1:
        assert blocked is None
        assert (layout.segment_ids == 0).all()
        return
    for row, owners in enumerate(layout.segment_ids.tolist()):
        for i, one in enumerate(owners):
            for j, other in enumerate(owners):
                assert blocked[row, i, j] == (one != other)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_mean_and_padded_are_naive_loops(lengths):
    tokens, layout = flat(lengths), pack(lengths, width=16)
    rows = layout.to_rows(tokens)
    means, (padded, mask) = layout.mean(rows), layout.padded(rows)
    assert padded.shape == (len(lengths), max(lengths), D)
    for text, part in enumerate(tokens.split(lengths)):
        torch.testing.assert_close(means[text], part.mean(dim=0), rtol=0, atol=1e-6)
        assert mask[text].tolist() == [1] * len(part) + [0] * (max(lengths) - len(part))
        assert torch.equal(padded[text, : len(part)], part)
        assert not padded[text, len(part) :].any()


def test_tokens_may_be_taken_several_times():
    """Two of three texts are the same: they are spread from one place."""
    tokens = flat([4, 2])
    layout = pack([2, 4, 2], offsets=[4, 0, 4], width=16)
    means = layout.mean(layout.to_rows(tokens))
    assert torch.equal(means[0], means[2])
    torch.testing.assert_close(means, torch.stack([tokens[4:].mean(0), tokens[:4].mean(0), tokens[4:].mean(0)]))


@pytest.mark.parametrize("number", [16, 64, 200])
def test_captions_leave_little_padding(number):
    lengths = [min(64, len(text.split()) + 2) for text in captions(number)]
    rows, width = pack(lengths).segment_ids.shape
    assert rows * width <= 1.06 * sum(lengths)
    assert max(lengths) <= width <= 1.5 * ROW_TOKENS


def divisions(n):
    for marks in itertools.product([False, True], repeat=n - 1):
        cuts = [0, *(i + 1 for i, mark in enumerate(marks) if mark), n]
        yield [range(a, b) for a, b in itertools.pairwise(cuts)]


@pytest.mark.parametrize("lengths", [[4], [3, 4, 5, 60], [10] * 6, [5, 5, 30, 31, 32, 64, 64, 64], [1, 20, 40, 60]])
@pytest.mark.parametrize("at_once", [2, 64])
def test_passes_are_the_cheapest_of_all_divisions(lengths, at_once):
    def cost(division):
        return sum(len(part) * lengths[part[-1]] + _PASS_TOKENS for part in division)

    found = split_batches(lengths, at_once)
    assert [i for part in found for i in part] == list(range(len(lengths)))
    assert max(len(part) for part in found) <= at_once
    allowed = (division for division in divisions(len(lengths)) if max(map(len, division)) <= at_once)
    assert cost(found) == min(cost(division) for division in allowed)
