"""Attention maps of the identity and clothing branches, and the relevance of a caption's words.

The maps show the first attention of each branch, over tokens that the image encoder has already mixed; the residual
connection, the cross-attention after it and the gate are not included. They show where a branch reads from, not what it
computes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from t2ireid_plugin.data.transforms import TestTransform
from t2ireid_plugin.errors import ConfigError, InputError
from t2ireid_plugin.evaluation.bootstrap import group_means, percentile_interval
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel
from t2ireid_plugin.utils.text import CJK

BRANCHES = ("identity", "clothing")
WordRelevance = tuple[str, float]

# A word of a language with spaces, or one character of Chinese or Japanese; no punctuation.
_WORD = re.compile(rf"[{CJK}]|[^\W{CJK}]+(?:['’-][^\W{CJK}]+)*")


class AttentionMaps(NamedTuple):
    """Attention on each patch; each map sums to 1.

    A patch's value is its attention weight averaged over the heads and over all tokens as queries, as in the branch.
    The class token's weight is left out and the rest scaled to sum 1.
    """

    identity: Tensor  # [B, h, w]
    clothing: Tensor  # [B, h, w]


@torch.no_grad()
def attention_maps(model: T2IReIDModel, images: Tensor) -> AttentionMaps:
    """The maps of images ``[B, 3, H, W]``, on the CPU; the model should be in eval mode.

    Raises:
        InputError: for images of another shape, or an image encoder whose tokens are not a grid of patches.
        ConfigError: when the branches see one pooled token (``model.disentangle.tokens``), or there are none.
    """
    if model.disentangle is None:
        raise ConfigError("disentangle.type none has no attention to show")
    inputs: list[tuple[Tensor, tuple[int, int]]] = []  # tokens, and rows and columns of patches
    handle = model.disentangle.register_forward_pre_hook(lambda _, args: inputs.append(args))
    try:
        model.encode_image(images)
    finally:
        handle.remove()
    weights = model.disentangle.attention_weights(*inputs[0])
    tokens, (h, w) = inputs[0]
    if not 0 < h * w <= tokens.shape[1]:
        name = type(model.visual_encoder).__name__
        raise InputError(
            f"attention maps need one token per patch: {name} has {tokens.shape[1]} tokens for {h} x {w} patches"
        )
    # The patches are the last tokens: [B, heads, L, L] to [B, patches].
    attended = [branch.mean(dim=(1, 2))[:, -h * w :].cpu() for branch in weights]
    return AttentionMaps(*((each / each.sum(dim=1, keepdim=True)).reshape(-1, h, w) for each in attended))


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
    """Contribution of each word to a caption's similarity with a target, by occlusion (Zeiler & Fergus 2014).

    A word's relevance is the score of the whole caption minus that of the caption without the word. A caption's only
    word has all of its cosine. Words beyond the model's ``max_length`` have none.

    Args:
        model: in eval mode.
        captions: ``n`` texts; a word stands between spaces, without its punctuation, or is one Chinese character.
        target_embeds: of `T2IReIDModel.encode_gallery`, such as those of the captions' photos, ``[n, d]``.

    Returns:
        The words of each caption in their order, each with its relevance.

    Raises:
        InputError: when a caption is empty.
    """
    words = [list(_WORD.finditer(caption)) for caption in captions]
    shorter = [
        (row, caption[: word.start()] + caption[word.end() :])
        for row, caption in enumerate(captions)
        for word in words[row]
        if len(words[row]) > 1
    ]
    rows = [*range(len(captions)), *(row for row, _ in shorter)]
    embeds = model.encode_query([*captions, *(text for _, text in shorter)])
    cosines = (embeds * target_embeds.to(embeds)[rows]).sum(dim=1).tolist()
    whole, without = cosines[: len(captions)], iter(cosines[len(captions) :])
    return [
        [(word[0], whole[row] - (next(without) if len(matches) > 1 else 0.0)) for word in matches]
        for row, matches in enumerate(words)
    ]


def attention_shares(
    maps: AttentionMaps, masks: Iterable[Mapping[str, npt.NDArray[np.bool_]]], pids: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """The share of attention on each part, per branch, with 95 % intervals from resampling people.

    A patch's attention counts in proportion to how much of the patch the part covers.

    Args:
        maps: of ``n`` photos, ``[n, h, w]``.
        masks: of each photo, the same parts in each, ``[H, W]`` of the whole photo, no coarser than the grid.
            Parts may overlap and need not cover the photo. They are read one photo at a time.
        pids: identity in each photo; all photos of a person are resampled together.

    Returns:
        For each part its ``area``, the share of attention that uniform maps would give it, and for ``identity``,
        ``clothing`` and ``difference`` (identity less clothing) the ``mean`` share of attention and the ends ``low``
        and ``high`` of its interval.
    """
    grid = maps.identity.shape[1:]
    covers: dict[str, list[Tensor]] = {}
    areas: dict[str, list[float]] = {}
    for mask in masks:
        for part, pixels in mask.items():
            cover = cv2.resize(pixels.astype(np.float32), grid[::-1], interpolation=cv2.INTER_AREA)  # share per patch
            covers.setdefault(part, []).append(torch.from_numpy(cover))
            areas.setdefault(part, []).append(float(pixels.mean()))
    shares: dict[str, dict[str, Any]] = {}
    for part, cover in covers.items():
        identity, clothing = ((branch * torch.stack(cover)).sum(dim=(1, 2)).double().numpy() for branch in maps)
        values = np.stack([identity, clothing, identity - clothing], axis=1)
        low, high = percentile_interval(group_means(values, pids, samples=2000, seed=0))
        columns = np.stack([values.mean(axis=0), low, high], axis=1).tolist()
        shares[part] = {"area": float(np.mean(areas[part]))}
        for name, column in zip((*BRANCHES, "difference"), columns):
            shares[part][name] = dict(zip(("mean", "low", "high"), column))
    return shares
