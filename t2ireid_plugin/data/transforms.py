"""Image normalization with OpenCV, and the random transforms of training images and texts.

Training and evaluation resize alike, see `images.resize`. Random transforms work on the resized image, in the order of
`TRANSFORMS`.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from t2ireid_plugin.config import TRANSFORMS
from t2ireid_plugin.data.images import Pixels, read_pixels, resize
from t2ireid_plugin.data.torchvision_views import simclr_view, two_of_six
from t2ireid_plugin.errors import ConfigError, check_choice
from t2ireid_plugin.utils.text import CJK

_OPPOSITE = {"l": "right", "r": "left", "左": "右", "右": "左"}  # by first letter
# "left" and "right" that are not sides: "left open", "right above the knee", "all right", 左右 (about; both). After the
# words in the first line of the expression they are ("his left open hand", "to the right behind a car").
_NO_SIDE = r"""
    (?<!\b(?:to|on)\s) (?<!\b(?:the|his|her|its)\s) (?<!\btheir\s) (?<!\b(?:facing|turned)\s) (?:
        \bleft[\s-]+ (?:\w+ly\s|half[\s-]|wide[\s-])? (?:open|behind|loose|alone|visible|un(?!der|til|i)\w+)\b
      | (?<!\band\s)\bleft\s (?:hanging|bare|exposed)\b
      | \bright[\s-]+ (?:above|below|behind|beneath|under|underneath|beside|next|near|at|in\sfront
            |in\sthe\smiddle|angles?|angled|away|now|there|here)\b
    )
    | (?<=\bhair\s)left\b(?=\s+(?:down|long|on|at)\b|[.,]|$) | \ball[\s-]right\b | 左右 | 左顾右盼
"""
_SIDE = re.compile(rf"{_NO_SIDE} | \b(left|right)(?=\b|most\b|ward|hand) | ([左右])", re.IGNORECASE | re.VERBOSE)
# A word of a language with spaces, or one character of Chinese or Japanese.
_WORD = re.compile(rf"[{CJK}]|[^\s{CJK}]+")
_WORD_OR_MARK = re.compile(rf"[{CJK}]|[^\W{CJK}]+|[^\w\s]")  # punctuation on its own


class TestTransform:
    """Resizes and normalizes, ``(value / 255 - mean) / std``.

    Args:
        height, width: size of the model's input.
        mean, std: per channel, for values from 0 to 1.
    """

    __test__ = False  # keeps pytest from collecting it by its name

    def __init__(self, height: int, width: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.height, self.width = height, width
        self.mean, self.std = tuple(mean), tuple(std)
        self._scale = 1 / (255 * torch.tensor(self.std)).view(3, 1, 1)
        self._shift = -(torch.tensor(self.mean) / torch.tensor(self.std)).view(3, 1, 1)

    def __str__(self) -> str:
        return f"{self.height}x{self.width}, mean {self.mean}, std {self.std}"

    def load(self, path: str | Path) -> Pixels:
        """An image file at the model's size."""
        return resize(read_pixels(path), self.height, self.width)

    def tensor(self, pixels: Pixels) -> Tensor:
        """``[H, W, 3]`` values to a normalised tensor ``[3, H, W]``."""
        channels = torch.from_numpy(np.array(cv2.split(pixels)))  # [3, H, W], faster than transposing
        return channels.float().mul_(self._scale).add_(self._shift)


class TrainTransform(TestTransform):
    """A `TestTransform` that also changes an image and its texts at random, before `tensor`.

    Args:
        height, width, mean, std: as in `TestTransform`.
        names: which of `TRANSFORMS`, in any order.
        mask_token: the tokenizer's, for ``mask_words`` and ``change_words``.
        crop_fill, erase_fill: colours from 0 to 1 for ``random_crop`` and ``random_erase``; None for the mean.
        word_share: of the words, which a change of texts changes.
        words: from which ``change_words`` draws.
        views: which of ``view`` and ``simclr_views`` `further_views` makes.

    Raises:
        ConfigError: for an unknown name, or ``mask_words`` or ``change_words`` without a mask token.
    """

    __test__ = False

    def __init__(
        self,
        height: int,
        width: int,
        mean: Sequence[float],
        std: Sequence[float],
        names: Sequence[str] = ("random_flip",),
        mask_token: str | None = None,
        crop_fill: Sequence[float] | None = None,
        erase_fill: Sequence[float] | None = None,
        word_share: float = 0.1,
        words: Sequence[str] = (),
        views: Sequence[str] = (),
    ) -> None:
        super().__init__(height, width, mean, std)
        for name in names:
            check_choice("data.transforms", name, TRANSFORMS)
            if name in ("mask_words", "change_words") and mask_token is None:
                raise ConfigError(
                    f"data.transforms: {name} needs a tokenizer with a mask token; use drop_words instead"
                )
        self.names, self.mask_token = tuple(names), mask_token
        self.word_share, self.words, self.views = word_share, words, views
        self._crop_fill, self._erase_fill = (
            [round(255 * value) for value in fill or self.mean] for fill in (crop_fill, erase_fill)
        )

    def change(
        self,
        pixels: Pixels,
        texts: tuple[str, ...] = (),
        source: random.Random | None = None,
        other: Callable[[random.Random], Pixels] | None = None,
    ) -> tuple[Pixels, tuple[str, ...]]:
        """An image of the model's size and its texts, both changed at random.

        Args:
            pixels: the image.
            texts: its texts.
            source: the sample's own random numbers, so that its changes do not depend on the worker; by default ones
                seeded from `random`, which PyTorch seeds in each worker.
            other: returns another image of the same size, drawn from a source; without it ``random_patch`` takes its
                patch from the image itself.
        """
        source = source or random.Random(random.getrandbits(64))
        if "random_flip" in self.names and source.random() < 0.5:
            pixels, texts = cv2.flip(pixels, 1), tuple(swap_sides(text) for text in texts)
        if "random_flip_image" in self.names and source.random() < 0.5:
            pixels = cv2.flip(pixels, 1)
        if "random_crop" in self.names:
            pixels = random_crop(pixels, self._crop_fill, source)
        if "random_patch" in self.names and source.random() < 0.5:
            pixels = random_patch(pixels, pixels if other is None else other(source), source)
        if "color_jitter" in self.names:
            pixels = color_jitter(pixels, source)
        if "random_erase" in self.names:
            pixels = random_erase(pixels, self._erase_fill, source)
        if "two_of_six" in self.names:
            pixels = two_of_six(pixels, source)
        mask = self.mask_token or ""
        for name, token in (("drop_words", ""), ("mask_words", mask)):
            if name in self.names:
                texts = tuple(replace_words(text, token, source, self.word_share) for text in texts)
        if "change_words" in self.names:
            texts = tuple(change_words(text, mask, self.words, source, self.word_share) for text in texts)
        return pixels, texts

    def further_views(
        self, path: str, pixels: Pixels, source: random.Random, other: Callable[[random.Random], Pixels] | None = None
    ) -> dict[str, Tensor]:
        """The image of a file under other random changes ``view [3, H, W]``, and ``simclr_views [2, 3, H, W]``.

        Args:
            path: of the file, from which `simclr_view` cuts at the original size.
            pixels: the image at the model's size.
            source, other: as in `change`.
        """
        views = {}
        if "view" in self.views:
            views["view"] = self.tensor(self.change(pixels, (), source, other)[0])
        if "simclr_views" in self.views:
            original, size = read_pixels(path), (self.height, self.width)
            pair = [self.tensor(simclr_view(original, *size, source)) for _ in range(2)]
            views["simclr_views"] = torch.stack(pair)
        return views


@functools.lru_cache(maxsize=100_000)  # the texts return every epoch
def swap_sides(text: str) -> str:
    """Swaps the words left and right where they are sides, as mirroring the photo does."""

    def other(match: re.Match[str]) -> str:
        word = match[0]
        swapped = _OPPOSITE[word[0].lower()] if match.lastindex else word
        return swapped.upper() if word.isupper() else swapped.title() if word.istitle() else swapped

    return _SIDE.sub(other, text)


def random_crop(pixels: Pixels, fill: Sequence[int], source: random.Random) -> Pixels:
    """Pads each side by 1/12.8 of the width (the usual 10 pixels at 128) and crops to the original size."""
    height, width = pixels.shape[:2]
    pad = max(1, round(width / 12.8))
    padded = cv2.copyMakeBorder(pixels, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=list(fill))
    top, left = source.randint(0, 2 * pad), source.randint(0, 2 * pad)
    return padded[top : top + height, left : left + width]


def color_jitter(pixels: Pixels, source: random.Random, brightness: float = 0.2, contrast: float = 0.15) -> Pixels:
    """Changes brightness and contrast by up to these shares, as torchreid's ``ColorJitter``, in one look-up table."""
    values = np.arange(256, dtype=np.float32) * source.uniform(1 - brightness, 1 + brightness)
    grey = float(np.clip(values, 0, 255)[cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)].mean())
    values = grey + (np.clip(values, 0, 255) - grey) * source.uniform(1 - contrast, 1 + contrast)
    return cv2.LUT(pixels, np.clip(values, 0, 255).round().astype(np.uint8))


def random_erase(pixels: Pixels, fill: Sequence[int], source: random.Random, chance: float = 0.5) -> Pixels:
    """Fills a rectangle of 2 % to 40 % of the image with the mean colour (Zhong et al. 2020, arXiv 1708.04896)."""
    area = _rectangle(pixels, (0.02, 0.4), 0.3, source) if source.random() < chance else None
    if area is not None:
        pixels = pixels.copy()
        pixels[area] = fill
    return pixels


def random_patch(pixels: Pixels, other: Pixels, source: random.Random) -> Pixels:
    """Pastes a patch of another image at a random place (Zhou et al., ICCV 2019), as torchreid's ``RandomPatch``.

    torchreid takes the patch from a pool of images that the worker process has read, so it depends on the workers.
    """
    area = _rectangle(other, (0.01, 0.5), 0.1, source)
    if area is None:
        return pixels
    patch = other[area]
    if source.random() < 0.5:
        patch = cv2.flip(patch, 1)
    height, width = patch.shape[:2]
    if source.random() < 0.5:
        turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), source.randint(-10, 10), 1)
        patch = cv2.warpAffine(patch, turn, (width, height), flags=cv2.INTER_NEAREST)
    top, left = (source.randint(0, whole - part) for whole, part in zip(pixels.shape, patch.shape[:2]))
    pixels = pixels.copy()
    pixels[top : top + height, left : left + width] = patch
    return pixels


def _rectangle(
    pixels: Pixels, shares: tuple[float, float], min_ratio: float, source: random.Random
) -> tuple[slice, slice] | None:
    """Rows and columns of a random rectangle that covers a share of the image; None if none fits in 100 trials."""
    height, width = pixels.shape[:2]
    for _ in range(100):
        area, ratio = source.uniform(*shares) * height * width, source.uniform(min_ratio, 1 / min_ratio)
        h, w = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < h < height and 0 < w < width:
            top, left = source.randint(0, height - h), source.randint(0, width - w)
            return slice(top, top + h), slice(left, left + w)
    return None


def replace_words(text: str, token: str, source: random.Random, chance: float = 0.1) -> str:
    """Replaces words (in Chinese, characters) at random by ``token``, which may be empty; never all of them."""
    changed = " ".join(_WORD.sub(lambda match: token if source.random() < chance else match[0], text).split())
    return changed if changed.replace(token, "").strip() else text


def change_words(text: str, token: str, words: Sequence[str], source: random.Random, chance: float = 0.2) -> str:
    """Changes words and punctuation marks at random, three fifths of them to ``token``, a fifth to one of ``words``.

    The last fifth is deleted, but never the whole text. As the augmentation of texts in RDE's code, which changes the
    tokenizer's tokens, so also parts of rare words.
    """

    def change(match: re.Match[str]) -> str:
        draw = source.random() / chance
        if draw >= 1:
            return match[0]
        return f" {token} " if draw < 0.6 else f" {source.choice(words)} " if draw < 0.8 else " "

    return " ".join(_WORD_OR_MARK.sub(change, text).split()) or text
