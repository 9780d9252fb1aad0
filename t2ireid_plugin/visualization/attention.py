"""Where the identity and the clothing branch look, and which words of a caption count.

What the maps show is the first attention of each branch, over tokens that the image encoder has already mixed; the
residual beside it, the cross-attention after it and the gate are not in them. They say where a branch takes from,
not what it makes of it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from t2ireid_plugin.data.transforms import TestTransform
from t2ireid_plugin.errors import InputError
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel

BRANCHES = ("identity", "clothing")
WordRelevance = tuple[str, float]

# A word of a language with spaces, or one character of Chinese or Japanese; no punctuation.
_CJK = "\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+(?:['’-][^\W{_CJK}]+)*")


class AttentionMaps(NamedTuple):
    """How much each patch is attended to; each map sums to 1.

    A patch's value is its attention weight, averaged over the heads and over all tokens as queries, as the branch
    averages over them; that of the class token is left out and the rest scaled to sum 1.
    """

    identity: Tensor  # [B, h, w]
    clothing: Tensor  # [B, h, w]

    def photo(self, index: int) -> AttentionMaps:
        """The maps ``[h, w]`` of one photo."""
        return AttentionMaps(self.identity[index], self.clothing[index])


class Interval(NamedTuple):
    """A mean over photos and its 95 % bootstrap interval over people."""

    mean: float
    low: float
    high: float


class PartShare(NamedTuple):
    """The attention on one part of the photos, beside the part's share of their area."""

    part: str
    area: float  # what looking everywhere equally would give
    identity: Interval  # the branch's share of attention
    clothing: Interval
    difference: Interval  # identity less clothing


@torch.no_grad()
def attention_maps(model: T2IReIDModel, images: Tensor) -> AttentionMaps:
    """The maps of images ``[B, 3, H, W]``, on the CPU; the model is asked in eval mode and left in its own.

    Raises:
        InputError: for images of another shape, or an image encoder whose tokens are no grid of patches.
        ConfigError: when the branches see one pooled token (``model.disentangle.tokens``).
    """
    seen: list[tuple[Tensor, tuple[int, int]]] = []  # tokens, and the grid that the image's patches make
    handle = model.disentangle.register_forward_pre_hook(lambda _, args: seen.append(args))
    with _evaluating(model):
        try:
            model.encode_image(images)
        finally:
            handle.remove()
        weights = model.disentangle.attention_weights(*seen[0])
    h, w = _grid(model, images, tokens=seen[0][0].shape[1])
    return AttentionMaps(*(_patch_shares(branch, h, w).cpu() for branch in weights))


def photo_maps(
    model: T2IReIDModel, paths: Sequence[str | Path], transform: TestTransform, batch_size: int = 64
) -> AttentionMaps:
    """The maps ``[n, h, w]`` of image files, read as in testing.

    Raises:
        DataError: when an image is missing or damaged.
    """
    parts = []
    for start in range(0, len(paths), batch_size):
        images = [transform.tensor(transform.load(path)) for path in paths[start : start + batch_size]]
        parts.append(attention_maps(model, torch.stack(images)))
    return AttentionMaps(*(torch.cat(branch) for branch in zip(*parts)))


@torch.no_grad()
def word_relevance(model: T2IReIDModel, captions: Sequence[str], target_embeds: Tensor) -> list[list[WordRelevance]]:
    """How much each word adds to a caption's similarity with a target, as found by leaving it out.

    That is the cosine of the whole caption less that of the caption without the word: occlusion (Zeiler & Fergus
    2014), on text. Positive words speak for the target. A caption's only word adds all of its cosine. Words beyond
    the model's ``max_length`` add nothing.

    Args:
        model: asked in eval mode and left in its own.
        captions: ``n`` texts; a word is one between spaces without its punctuation, or one Chinese character.
        target_embeds: ``[n, 256]`` of unit norm, such as of the photos found.

    Returns:
        The words of each caption in their order, each with its relevance.

    Raises:
        InputError: when the numbers differ, or a caption is empty.
    """
    if len(captions) != len(target_embeds):
        raise InputError(f"the numbers differ: {len(captions)} captions, {len(target_embeds)} target_embeds")
    if not captions:
        return []
    words = [list(_WORD.finditer(caption)) for caption in captions]
    shorter = [
        (row, caption[: word.start()] + caption[word.end() :])
        for row, caption in enumerate(captions)
        for word in words[row]
        if len(words[row]) > 1
    ]
    rows = [*range(len(captions)), *(row for row, _ in shorter)]
    with _evaluating(model):
        embeds = model.encode_text([*captions, *(text for _, text in shorter)])
    cosines = (embeds * target_embeds.to(embeds)[rows]).sum(dim=1).tolist()
    whole, without = cosines[: len(captions)], iter(cosines[len(captions) :])
    return [
        [(word[0], whole[row] - (next(without) if len(found) > 1 else 0.0)) for word in found]
        for row, found in enumerate(words)
    ]


def attention_shares(
    maps: AttentionMaps,
    masks: Iterable[Mapping[str, npt.NDArray[np.bool_]]],
    pids: Sequence[int],
    resamples: int = 2000,
    seed: int = 0,
) -> list[PartShare]:
    """The share of attention on each part, per branch, with 95 % intervals from resampling people.

    A patch's attention counts for a part as far as the part covers the patch, so a part smaller than a patch can
    never have all of it.

    Args:
        maps: of ``n`` photos, ``[n, h, w]``.
        masks: of each photo, the same parts in each, ``[H, W]`` of the whole photo, no coarser than the grid.
            Parts may overlap and need not cover the photo. They are looked at one photo after the other.
        pids: who each photo shows. All photos of a person are drawn or left out together.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        InputError: when the numbers differ or there is no photo.
    """
    grid = maps.identity.shape[1:]
    covers: dict[str, list[Tensor]] = {}
    areas: dict[str, list[float]] = {}
    count = 0
    for mask in masks:
        count += 1
        for part, pixels in mask.items():
            covers.setdefault(part, []).append(_cover(pixels, *grid))
            areas.setdefault(part, []).append(float(pixels.mean()))
    if not len(maps.identity) == count == len(pids) > 0:
        counts = f"{len(maps.identity)} maps, {count} masks, {len(pids)} pids"
        raise InputError(f"the numbers differ, or there is no photo: {counts}")
    people = np.unique(np.asarray(pids), return_inverse=True)[1]
    drawn = np.random.default_rng(seed).integers(0, people.max() + 1, (resamples, people.max() + 1))
    table = []
    for part, cover in covers.items():
        identity, clothing = ((branch * torch.stack(cover)).sum(dim=(1, 2)).double().numpy() for branch in maps)
        values = (_interval(v, people, drawn) for v in (identity, clothing, identity - clothing))
        table.append(PartShare(part, float(np.mean(areas[part])), *values))
    return table


def format_shares(table: Sequence[PartShare]) -> str:
    """One line a part, in percent, intervals in brackets."""
    width = max(len("part"), *(len(row.part) for row in table))
    lines = [f"{'part':<{width}}{'area':>8}" + "".join(f"{name:>25}" for name in (*BRANCHES, "difference"))]
    for row in table:
        cells = "".join(f"{_percent(value):>25}" for value in (row.identity, row.clothing, row.difference))
        lines.append(f"{row.part:<{width}}{100 * row.area:>8.2f}{cells}")
    return "\n".join(lines)


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode: batch statistics and dropout would make an answer depend on what else was asked."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _grid(model: T2IReIDModel, images: Tensor, tokens: int) -> tuple[int, int]:
    """Rows and columns of patches; what tokens there are more (class, registers) come before them."""
    patch = getattr(model.visual_encoder.config, "patch_size", 0)
    patch_h, patch_w = (patch, patch) if isinstance(patch, int) else patch
    h, w = (images.shape[2] // patch_h, images.shape[3] // patch_w) if patch_h and patch_w else (0, 0)
    if not 0 < h * w <= tokens:
        name = type(model.visual_encoder).__name__
        raise InputError(f"attention maps need one token a patch: {name} gives {tokens} tokens for {h} x {w} patches")
    return h, w


def _patch_shares(weights: Tensor, h: int, w: int) -> Tensor:
    """Weights ``[B, heads, L, L]`` to maps ``[B, h, w]`` of sum 1."""
    attended = weights.mean(dim=(1, 2))[:, -h * w :]  # [B, patches]
    return (attended / attended.sum(dim=1, keepdim=True)).reshape(-1, h, w)


def _cover(mask: npt.NDArray[np.bool_], h: int, w: int) -> Tensor:
    """Which share of each patch ``[h, w]`` a mask ``[H, W]`` covers."""
    return torch.from_numpy(cv2.resize(mask.astype(np.float32), (w, h), interpolation=cv2.INTER_AREA))


def _interval(values: npt.NDArray[np.float64], people: npt.NDArray[np.int64], drawn: npt.NDArray[np.int64]) -> Interval:
    """The mean of ``values [n]`` of photos, and its interval over ``drawn [resamples, people]``."""
    sums, counts = np.bincount(people, values), np.bincount(people)
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high))


def _percent(value: Interval) -> str:
    return f"{100 * value.mean:.2f} [{100 * value.low:.2f}, {100 * value.high:.2f}]"
