"""Texts of different lengths side by side in few rows, so that an encoder computes hardly any padding.

A row holds one or several texts; each token attends only to its own text and counts its position within it.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

# The attention of a row costs its square; at this width, about 3 % of BERT-base's multiplications.
ROW_TOKENS = 128


class PackedBatch(NamedTuple):
    """Places of the tokens of ``n`` texts, ``N`` tokens in all, in ``R`` rows of ``T`` places."""

    lengths: Tensor  # [n] tokens per text
    places: Tensor  # [N] place of each token among the R * T
    segment_ids: Tensor  # [R, T] number of the text that a token belongs to, -1 on padding
    positions: Tensor  # [R, T] position of a token in its text, 0 on padding
    sources: Tensor  # [R, T] index of a token in the tokens given to `to_rows`, 0 on padding
    max_length: int  # of the texts
    is_single: bool  # one text only: no padding, no mask needed

    def to(self, device: torch.device) -> PackedBatch:
        """The same batch on another device."""
        parts: Any = (p.to(device, non_blocking=True) if isinstance(p, Tensor) else p for p in self)
        return PackedBatch(*parts)

    def to_rows(self, tokens: Tensor) -> Tensor:
        """Tokens text after text ``[N, …]`` to rows ``[R, T, …]``; padding holds an arbitrary token."""
        return tokens[self.sources]

    def to_tokens(self, rows: Tensor) -> Tensor:
        """Rows ``[R, T, …]`` to tokens text after text ``[N, …]``."""
        return rows.flatten(0, 1)[self.places]

    def attention_mask(self) -> Tensor:
        """``[R, T, T]``, True where a token may attend to another: within its text, and from padding to padding.

        This is the convention of transformers and of `F.scaled_dot_product_attention`; `nn.MultiheadAttention` takes
        the inverse.
        """
        return self.segment_ids.unsqueeze(2) == self.segment_ids.unsqueeze(1)

    def mean(self, rows: Tensor) -> Tensor:
        """Mean over the tokens of each text: ``[R, T, D]`` to ``[n, D]``."""
        texts = torch.arange(self.lengths.shape[0], device=rows.device)
        weights = (self.segment_ids.flatten() == texts.unsqueeze(1)) / self.lengths.unsqueeze(1)  # [n, R * T]
        with torch.autocast(rows.device.type, enabled=False):  # a long sum, which half precision would round
            return weights.to(rows.dtype) @ rows.flatten(0, 1)

    def last(self, rows: Tensor) -> Tensor:
        """The last token of each text: ``[R, T, D]`` to ``[n, D]``."""
        return rows.flatten(0, 1)[self.places[self.lengths.cumsum(0) - 1]]

    def padded(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows ``[R, T, D]`` to one text per row ``[n, L, D]``, zero on padding, and its mask ``[n, L]`` of 1 and 0."""
        steps = torch.arange(self.max_length, device=rows.device)
        mask = steps < self.lengths.unsqueeze(1)  # [n, L]
        first = self.lengths.cumsum(0) - self.lengths  # [n] index of each text's first token
        tokens = self.to_tokens(rows)[(first.unsqueeze(1) + steps) * mask]
        return tokens.masked_fill(~mask.unsqueeze(-1), 0), mask.long()


def pack(lengths: Sequence[int], offsets: Sequence[int] | None = None, width: int = ROW_TOKENS) -> PackedBatch:
    """Packs texts of these ``lengths`` into as few rows of about ``width`` tokens as hold them.

    Args:
        lengths: tokens per text.
        offsets: index of each text's first token in what `PackedBatch.to_rows` is given; by default the texts follow
            each other. Several texts may share one.
        width: see above; a longer text makes the rows longer.
    """
    row_length, places = _fill_rows(lengths, width)
    num_rows = 1 + max(row for row, _ in places)
    sizes = torch.tensor(lengths)
    segment = torch.repeat_interleave(sizes)  # [N] text of each token
    position = torch.arange(len(segment)) - (sizes.cumsum(0) - sizes)[segment]  # [N] place within its text
    place = torch.tensor([row * row_length + start for row, start in places])[segment] + position
    source = torch.tensor(start_offsets(lengths) if offsets is None else offsets)[segment] + position

    def spread(values: Tensor, padding: int) -> Tensor:
        return torch.full((num_rows * row_length,), padding).index_copy(0, place, values).view(num_rows, row_length)

    return PackedBatch(
        lengths=sizes,
        places=place,
        segment_ids=spread(segment, -1),
        positions=spread(position, 0),
        sources=spread(source, 0),
        max_length=max(lengths),
        is_single=len(lengths) == 1,
    )


def _fill_rows(lengths: Sequence[int], width: int) -> tuple[int, list[tuple[int, int]]]:
    """Tokens per row, and row and start of each text: the fewest rows of ``width``, as short as the texts fit in."""
    num_rows = -(-sum(lengths) // width)
    row_length = max(*lengths, -(-sum(lengths) // num_rows))
    while (places := _best_fit(lengths, num_rows, row_length)) is None:
        row_length += 1
    return row_length, places


def _best_fit(lengths: Sequence[int], num_rows: int, row_length: int) -> list[tuple[int, int]] | None:
    """Row and start of each text, the longest first, each into the fullest row that has room; None if one has none."""
    rooms = [(row_length, row) for row in range(num_rows)]  # sorted: tokens that a row has room for, and the row
    places = [(0, 0)] * len(lengths)
    for text in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fullest = bisect.bisect_left(rooms, (lengths[text], 0))
        if fullest == num_rows:
            return None
        room, row = rooms.pop(fullest)
        places[text] = row, row_length - room
        bisect.insort(rooms, (room - lengths[text], row))
    return places


def start_offsets(lengths: Sequence[int]) -> list[int]:
    """Index of each text's first token when the texts follow each other."""
    return [0, *itertools.accumulate(lengths)][:-1]
