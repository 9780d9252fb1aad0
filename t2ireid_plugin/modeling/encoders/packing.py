"""Texts of differing lengths side by side in few rows, so that hardly any computing is spent on padding.

A row holds one text or several; each token attends to those of its own text alone, and counts its position within it.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

# An attention over a row costs as its square: at this width about 3 % of BERT-base's products.
ROW_TOKENS = 128
# What a pass of an encoder of BERT-base's size costs on a CPU whatever it is given, in tokens: reading its weights.
_PASS_TOKENS = 25


class PackedBatch(NamedTuple):
    """Where the tokens of ``n`` texts, ``N`` tokens in all, lie in ``R`` rows of ``T`` places."""

    lengths: Tensor  # [n] of the texts
    starts: Tensor  # [n] of each text's first token among the R * T places
    places: Tensor  # [N] of each token among the R * T places
    segment_ids: Tensor  # [R, T] the text that a token belongs to; -1 on padding
    positions: Tensor  # [R, T] of a token in its text; 0 on padding
    source: Tensor  # [R, T] of a token in the tokens to spread; 0 on padding
    longest: int  # of the texts
    is_single: bool  # a single text, which has no padding and needs no mask

    def to(self, device: torch.device) -> PackedBatch:
        """On another device."""
        parts: Any = (p.to(device, non_blocking=True) if isinstance(p, Tensor) else p for p in self)
        return PackedBatch(*parts)

    def to_rows(self, tokens: Tensor) -> Tensor:
        """Tokens in the order of the texts, ``[N, …]``, to rows ``[R, T, …]``; on padding stands any token."""
        return tokens[self.source]

    def to_tokens(self, tokens: Tensor) -> Tensor:
        """Rows ``[R, T, …]`` to tokens in the order of the texts, ``[N, …]``."""
        return tokens.flatten(0, 1)[self.places]

    def attention_mask(self) -> Tensor | None:
        """``[R, T, T]``: true where a token must not attend to another; None when all may attend to all."""
        return None if self.is_single else self.segment_ids.unsqueeze(2) != self.segment_ids.unsqueeze(1)

    def mean(self, tokens: Tensor) -> Tensor:
        """The mean over each text's tokens: ``[R, T, D]`` to ``[n, D]``."""
        texts = torch.arange(self.lengths.shape[0], device=tokens.device)
        shares = (self.segment_ids.flatten() == texts.unsqueeze(1)) / self.lengths.unsqueeze(1)  # [n, R * T]
        with torch.autocast(tokens.device.type, enabled=False):  # a sum, which half precision would round
            return shares.to(tokens.dtype) @ tokens.flatten(0, 1)

    def padded(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """``[R, T, D]`` to a text a row, ``[n, L, D]`` with zeros on padding, and its mask ``[n, L]``."""
        steps = torch.arange(self.longest, device=tokens.device)
        mask = steps < self.lengths.unsqueeze(1)  # [n, L]
        found = tokens.flatten(0, 1)[(self.starts.unsqueeze(1) + steps) * mask]
        return found.masked_fill(~mask.unsqueeze(-1), 0), mask.long()


def pack(lengths: Sequence[int], offsets: Sequence[int] | None = None, width: int = ROW_TOKENS) -> PackedBatch:
    """Texts of these ``lengths`` in as few rows of about ``width`` tokens as hold them; 0 gives each a row of its own.

    Args:
        lengths: of the texts, in tokens.
        offsets: where each text begins in the tokens to spread; by default they follow each other.
        width: see above; a longer text gets a longer row.
    """
    begins = start_offsets(lengths) if offsets is None else offsets
    number, longest, places = _rows(lengths, width)
    owners, positions, source = ([[filling] * longest for _ in range(number)] for filling in (-1, 0, 0))
    for text, ((row, start), length, begin) in enumerate(zip(places, lengths, begins, strict=True)):
        part = slice(start, start + length)
        owners[row][part] = [text] * length
        positions[row][part] = range(length)
        source[row][part] = range(begin, begin + length)
    starts = [row * longest + start for row, start in places]
    flat = [start + i for start, length in zip(starts, lengths) for i in range(length)]
    return PackedBatch(
        lengths=torch.tensor(lengths),
        starts=torch.tensor(starts),
        places=torch.tensor(flat),
        segment_ids=torch.tensor(owners),
        positions=torch.tensor(positions),
        source=torch.tensor(source),
        longest=max(lengths),
        is_single=len(lengths) == 1,
    )


def _rows(lengths: Sequence[int], width: int) -> tuple[int, int, list[tuple[int, int]]]:
    """How many rows of how many places, and row and first place of each text."""
    if width == 0:
        return len(lengths), max(lengths), [(row, 0) for row in range(len(lengths))]
    number = min(len(lengths), -(-sum(lengths) // width))
    longest = max(*lengths, -(-sum(lengths) // number))
    while (places := _fit(lengths, number, longest)) is None:
        longest += 1
    return number, longest, places


def _fit(lengths: Sequence[int], rows: int, width: int) -> list[tuple[int, int]] | None:
    """Row and first place of each text, the longest first, each where it leaves the least room; None if too narrow."""
    room = [(width, row) for row in range(rows)]  # by what is left
    places: list[tuple[int, int]] = [(0, 0)] * len(lengths)
    for text in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        best = bisect.bisect_left(room, (lengths[text], 0))
        if best == len(room):
            return None
        left, row = room.pop(best)
        places[text] = row, width - left
        bisect.insort(room, (left - lengths[text], row))
    return places


def start_offsets(lengths: Sequence[int]) -> list[int]:
    """Where each text begins when they follow each other."""
    return [0, *itertools.accumulate(lengths)][:-1]


def split_batches(lengths: Sequence[int], at_once: int) -> list[range]:
    """How to divide texts sorted by length, a row each, among passes: the cheapest way, ``at_once`` a pass at most.

    A pass costs its rows times its longest text, and `_PASS_TOKENS`.
    """
    best: list[tuple[int, int]] = [(0, 0)]  # cost of the first texts, and where their last pass begins
    for end in range(1, len(lengths) + 1):
        best.append(
            min(
                (best[start][0] + (end - start) * lengths[end - 1] + _PASS_TOKENS, start)
                for start in range(max(0, end - at_once), end)
            )
        )
    found, end = [], len(lengths)
    while end:
        found.append(range(best[end][1], end))
        end = best[end][1]
    return found[::-1]
