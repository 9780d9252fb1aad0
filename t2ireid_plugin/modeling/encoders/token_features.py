"""Runs the text encoder on token ids with as little padding as it supports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

import torch
from torch import Tensor

from t2ireid_plugin.modeling.encoders.packing import PackedBatch, pack

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Ids: TypeAlias = tuple[int, ...]

TEXTS_AT_ONCE = 64
# Texts per pass of an encoder without packing: fewer texts differ less in length and need less padding.
_ROWS_AT_ONCE = 32
# Model types with absolute positions that count from 0 and masks for each pair of tokens.
_PACKABLE = ("bert",)


class TokenFeatureCache(Protocol):
    """Stands in for `encode_texts` in training, where a frozen encoder computes the same features every epoch."""

    def __call__(self, encoder: PreTrainedModel, texts: Sequence[Ids], pad: int) -> Tensor:
        """As `encode_texts`."""

    def recheck(self) -> None:
        """Called when the model changes between training and evaluation, as its weights may have changed."""


def encode_texts(encoder: PreTrainedModel, texts: Sequence[Ids], pad: int) -> Tensor:
    """Token ids of ``n`` texts to the features of all their ``N`` tokens, text after text: ``[N, D]``.

    Args:
        encoder: the text encoder.
        texts: best sorted by length, because those of one pass are padded or packed together.
        pad: the padding token.
    """
    packs, device = can_pack(encoder.config), encoder.device
    step = TEXTS_AT_ONCE if packs else _ROWS_AT_ONCE
    features = []
    for start in range(0, len(texts), step):
        chunk = texts[start : start + step]
        lengths = [len(ids) for ids in chunk]
        batch = pack(lengths) if packs else pack(lengths, width=None)
        ids = torch.tensor([token for ids in chunk for token in ids]).to(device, non_blocking=True)
        features.append(_encode_batch(encoder, ids, batch.to(device), pad))
    return torch.cat(features)


def _encode_batch(encoder: PreTrainedModel, ids: Tensor, batch: PackedBatch, pad: int) -> Tensor:
    """One pass of the encoder: ids ``[N]`` to features ``[N, D]``."""
    input_ids = batch.to_rows(ids)  # [R, T]
    if batch.is_single:
        return encoder(input_ids=input_ids).last_hidden_state[0]
    input_ids = input_ids.masked_fill(batch.segment_ids < 0, pad)
    if not can_pack(encoder.config):
        mask = (batch.segment_ids >= 0).long()
        return batch.to_tokens(encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state)
    mask = batch.attention_mask().unsqueeze(1)  # [R, 1, T, T]
    if encoder.config._attn_implementation == "eager":  # which adds the mask to the scores
        mask = torch.zeros(mask.shape, device=ids.device).masked_fill(~mask, torch.finfo(encoder.dtype).min)
    output = encoder(input_ids=input_ids, attention_mask=mask, position_ids=batch.positions)
    return batch.to_tokens(output.last_hidden_state)


def can_pack(config: PretrainedConfig) -> bool:
    """True if several texts may share a row of this encoder, which transformers 4 does not support."""
    import transformers

    implementation = getattr(config, "_attn_implementation", None)
    takes_masks_of_pairs = int(transformers.__version__.split(".")[0]) >= 5 and implementation in ("sdpa", "eager")
    return takes_masks_of_pairs and config.model_type in _PACKABLE
