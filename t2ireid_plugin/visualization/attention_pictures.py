"""Pictures of both branches' attention over a photo, with its caption's words coloured by relevance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from torch import Tensor

from t2ireid_plugin.utils.atomic_io import atomic_write
from t2ireid_plugin.utils.fonts import Font, font_for, wrap
from t2ireid_plugin.utils.language import say
from t2ireid_plugin.visualization.attention import BRANCHES, WordRelevance
from t2ireid_plugin.visualization.drawing import fit

_PHOTO, _GAP, _LABEL, _LINE = 320, 10, 20, 26  # _PHOTO: maximum height and width
_FONT_SIZE = 13
_BAR = 34  # height of the colour bar and its labels
_MAX_FACTOR = 4.0  # the tints range from 1 / _MAX_FACTOR to _MAX_FACTOR times an even share
_BLANK, _INK = (255, 255, 255, 0), (128, 128, 128)  # transparent, and grey, which is legible on light and dark pages
_LESS, _MORE = (0, 90, 255), (255, 96, 0)  # tints of less and of more than an even share
_MAX_TINT = 0.65  # share of the strongest tint in a pixel's colour, which leaves the person visible


def draw_attention(
    photo: str | Path, maps: Sequence[Tensor], path: str | Path, words: Sequence[WordRelevance] = ()
) -> None:
    """Writes a PNG of the photo, the identity and the clothing map over it, and the words coloured by relevance.

    All pictures share one scale: a patch with an even share is not tinted, the blue tint is strongest at a quarter of
    it or less, the orange one at four times as much or more. Green words raise the similarity, red ones lower it; the
    strongest word of a caption is deepest.

    Args:
        photo: the image file.
        maps: this photo's of each branch, ``[h, w]``.
        path: of the PNG.
        words: as from `word_relevance`.

    Raises:
        DataError: when the photo is missing or damaged, or the picture cannot be written.
    """
    pixels = fit(photo, _PHOTO, _PHOTO)
    tiles = [pixels, *(_overlay(pixels, attention.numpy()) for attention in maps)]
    labels = [say("photo"), *map(say, BRANCHES)]
    font = font_for("".join(labels), _FONT_SIZE)
    step = max(pixels.shape[1], 90) + _GAP
    width = _GAP + 3 * step
    top = _LABEL + pixels.shape[0] + _GAP
    word_font = font_for("".join(word for word, _ in words), _FONT_SIZE)
    placed = _place_words(words, width, word_font)
    height = placed[-1][1] + _LINE if placed else 0
    canvas = Image.new("RGBA", (width, top + _BAR + height + _GAP), _BLANK)
    draw = ImageDraw.Draw(canvas)
    for number, (label, tile) in enumerate(zip(labels, tiles)):
        draw.text((_GAP + number * step, 1), label, fill=_INK, font=font)
        canvas.paste(Image.fromarray(tile), (_GAP + number * step, _LABEL))
    _draw_bar(canvas, draw, top, font)
    strongest = max((abs(relevance) for _, relevance in words), default=0.0)
    for x, y, length, text, relevance in placed:
        y += top + _BAR
        draw.rectangle((x - 3, y, x + length + 3, y + _LINE - 6), fill=_word_colour(relevance, strongest))
        draw.text((x, y + _LINE // 2 - 3), text, fill="black", font=word_font, anchor="lm")
    atomic_write(Path(path), lambda draft: canvas.save(draft))


def _tinted(grey: npt.NDArray[np.uint8], times_even: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Grey RGB ``[H, W, 3]`` tinted by attention as a multiple of the even share ``[H, W]``.

    Equal factors are equal steps of tint.
    """
    steps = np.log(np.maximum(times_even, 1e-6)) / np.log(_MAX_FACTOR)  # -1 … 1 within the scale
    tint = _MAX_TINT * np.clip(np.abs(steps), 0, 1)[..., None]
    return ((1 - tint) * grey + tint * np.where(steps[..., None] > 0, _MORE, _LESS)).round().astype(np.uint8)


def _overlay(pixels: npt.NDArray[np.uint8], attention: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """A map ``[h, w]`` over the grey photo RGB ``[H, W, 3]``, patch by patch, so that its coarseness shows."""
    times_even = cv2.resize(attention * attention.size, pixels.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return _tinted(cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), times_even)


def _draw_bar(canvas: Image.Image, draw: ImageDraw.ImageDraw, top: int, font: Font) -> None:
    """The scale of the maps, labelled at its ends and its middle."""
    length = canvas.width - 2 * _GAP
    times = _MAX_FACTOR ** np.linspace(-1, 1, length, dtype=np.float32)[None]
    bar = _tinted(np.full((1, length, 3), 200, np.uint8), times)
    canvas.paste(Image.fromarray(np.repeat(bar, 8, axis=0)), (_GAP, top))
    for text, anchor, x in (("1/4", "la", 0), (say("even"), "ma", length // 2), ("4 x", "ra", length)):
        draw.text((_GAP + x, top + 11), text, fill=_INK, font=font, anchor=anchor)


def _place_words(words: Sequence[WordRelevance], width: int, font: Font) -> list[tuple[int, int, int, str, float]]:
    """Left, top, length, text and relevance of each word in lines of ``width``; a word that is too long is cut."""
    placed = []
    x, y = _GAP, 0
    for word, relevance in words:
        text = wrap(word, font, width - 2 * _GAP)[0]
        length = round(font.getlength(text))
        if x > _GAP and x + length > width - _GAP:
            x, y = _GAP, y + _LINE
        placed.append((x, y, length, text, relevance))
        x += length + _GAP
    return placed


def _word_colour(relevance: float, strongest: float) -> tuple[int, int, int]:
    """White for no relevance, deepening to green for positive and red for negative relevance."""
    depth = abs(relevance) / strongest if strongest > 0 else 0.0
    pale = round(255 - 165 * depth)
    return (pale, 255 - round(45 * depth), pale) if relevance >= 0 else (255 - round(15 * depth), pale, pale)
