import pytest
import torch

from benchmarks.workloads import captions
from t2ireid_plugin.modeling.encoders.packing import ROW_TOKENS, pack, start_offsets

D = 3
LENGTHS = [[5], [3, 7, 4, 4], [1] * 9, [60, 2, 100, 3, 3, 3, 64], [200, 1], [300], [7, 7]]


def features(lengths):
    """Distinct features of all tokens."""
    return torch.randn(sum(lengths), D, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("width", [16, ROW_TOKENS])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_each_text_lies_in_one_row_in_its_order(lengths, width):
    tokens, batch = features(lengths), pack(lengths, width=width)
    rows = batch.to_rows(tokens)
    assert torch.equal(batch.to_tokens(rows), tokens)
    for text, (start, length) in enumerate(zip(start_offsets(lengths), lengths)):
        own = batch.segment_ids == text
        assert len(own.any(dim=1).nonzero()) == 1
        assert batch.positions[own].tolist() == list(range(length))
        assert torch.equal(rows[own], tokens[start : start + length])
    assert int((batch.segment_ids >= 0).sum()) == sum(lengths)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_tokens_may_attend_within_their_text_only(lengths):
    batch = pack(lengths, width=16)
    mask = batch.attention_mask()
    assert batch.is_single == (len(lengths) == 1)
    for row, segments in enumerate(batch.segment_ids.tolist()):
        expected = [[one == other for other in segments] for one in segments]
        assert mask[row].tolist() == expected


@pytest.mark.parametrize("lengths", LENGTHS)
def test_mean_and_padded_equal_a_loop_over_texts(lengths):
    tokens, batch = features(lengths), pack(lengths, width=16)
    rows = batch.to_rows(tokens)
    means, (padded, mask) = batch.mean(rows), batch.padded(rows)
    assert padded.shape == (len(lengths), max(lengths), D)
    for text, part in enumerate(tokens.split(lengths)):
        torch.testing.assert_close(means[text], part.mean(dim=0), rtol=0, atol=1e-6)
        assert mask[text].tolist() == [1] * len(part) + [0] * (max(lengths) - len(part))
        assert torch.equal(padded[text, : len(part)], part)
        assert not padded[text, len(part) :].any()


def test_repeated_texts_share_their_tokens():
    tokens = features([4, 2])
    batch = pack([2, 4, 2], offsets=[4, 0, 4], width=16)
    means = batch.mean(batch.to_rows(tokens))
    torch.testing.assert_close(means, torch.stack([tokens[4:].mean(0), tokens[:4].mean(0), tokens[4:].mean(0)]))


@pytest.mark.parametrize("number", [16, 64, 200])
def test_captions_leave_little_padding(number):
    lengths = [min(64, len(text.split()) + 2) for text in captions(number)]
    rows, width = pack(lengths).segment_ids.shape
    assert rows * width <= 1.06 * sum(lengths)
    assert max(lengths) <= width <= 1.5 * ROW_TOKENS
