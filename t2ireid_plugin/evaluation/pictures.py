"""Ranked lists as a picture: the sentence, the photo it describes, and what the model found."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from t2ireid_plugin.data.transforms import read_image

GREEN, RED, GREY = (34, 160, 70), (208, 48, 48), (120, 120, 120)
_CELL_HEIGHT, _CELL_WIDTH, _FRAME, _GAP, _LINE = 160, 76, 4, 8, 19


class RankedList(NamedTuple):
    """One query and the first images of its ranking."""

    caption: str
    described: str  # path of the photo that the caption was written for
    found: list[str]  # paths, best first
    correct: list[bool]  # whether each shows the query's person


def rank_examples(
    queries: Sequence[tuple[str, int, str]],
    query_features: Tensor,
    gallery: Sequence[tuple[str, int]],
    gallery_features: Tensor,
    number: int,
    top: int = 10,
) -> list[RankedList]:
    """Ranked lists of ``number`` queries taken at even distances, so that nobody chose them.

    Args:
        queries: ``(path of the described photo, pid, caption)`` of each query.
        query_features: ``[n, D]``, unit norm.
        gallery: ``(path, pid)`` of each image.
        gallery_features: ``[m, D]``, unit norm.
        number: how many queries.
        top: images a list.
    """
    chosen = np.unique(np.linspace(0, len(queries) - 1, number).round().astype(int))
    scores = query_features[chosen] @ gallery_features.T  # [number, m]
    best = scores.topk(min(top, len(gallery)), dim=1).indices.tolist()
    return [
        RankedList(
            caption=queries[i][2],
            described=queries[i][0],
            found=[gallery[j][0] for j in row],
            correct=[gallery[j][1] == queries[i][1] for j in row],
        )
        for i, row in zip(chosen, best)
    ]


def draw_ranked_lists(lists: Sequence[RankedList], path: str | Path) -> None:
    """A PNG with one row a list: caption, described photo (grey), results framed green or red."""
    columns = 1 + max(len(item.found) for item in lists)
    width = _GAP + columns * (_CELL_WIDTH + _GAP) + 2 * _GAP
    font = ImageFont.load_default(size=14)
    rows = [_draw_row(item, width, font) for item in lists]
    Image.fromarray(np.concatenate(rows)).save(path)


def _draw_row(
    item: RankedList, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> npt.NDArray[np.uint8]:
    lines = textwrap.wrap(item.caption, width=width // 8) or [""]
    top = _GAP + _LINE * len(lines) + _GAP // 2
    canvas = Image.new("RGB", (width, top + _CELL_HEIGHT + _GAP), "white")
    ImageDraw.Draw(canvas).multiline_text((_GAP, _GAP // 2), "\n".join(lines), fill="black", font=font)
    canvas.paste(_framed(item.described, GREY), (_GAP, top))
    x = 3 * _GAP + _CELL_WIDTH  # a wider gap sets the question apart from the answers
    for found, correct in zip(item.found, item.correct):
        canvas.paste(_framed(found, GREEN if correct else RED), (x, top))
        x += _CELL_WIDTH + _GAP
    return np.asarray(canvas)


def _framed(path: str, colour: tuple[int, int, int]) -> Image.Image:
    cell = Image.new("RGB", (_CELL_WIDTH, _CELL_HEIGHT), colour)
    inner = (_CELL_WIDTH - 2 * _FRAME, _CELL_HEIGHT - 2 * _FRAME)
    cell.paste(read_image(path).resize(inner), (_FRAME, _FRAME))
    return cell
