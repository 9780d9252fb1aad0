"""Runs the text encoder on token ids with as little padding as it supports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from t2ireid_plugin.modeling.encoders.packing import pack

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Ids: TypeAlias = tuple[int, ...]
# Stands in for `encode_texts` in training, where a frozen encoder computes the same features every epoch.
TokenFeatureCache: TypeAlias = "Callable[[PreTrainedModel, Sequence[Ids], int], Tensor]"

TEXTS_AT_ONCE = 64
# Texts per pass of an encoder without packing: fewer texts differ less in length and need less padding.
_ROWS_AT_ONCE = 32
# Model types with absolute positions that count from 0 and masks for each pair of tokens.
_PACKABLE = ("bert",)


def encode_texts(encoder: PreTrainedModel, texts: Sequence[Ids], pad: int) -> Tensor:
    """Token ids of ``n`` texts to the features of all their ``N`` tokens, text after text: ``[N, D]``.

    Args:
        encoder: the text encoder.
        texts: best sorted by length, because those of one pass are padded or packed together.
        pad: the padding token.
    """
    encode, at_once = (_encode_packed, TEXTS_AT_ONCE) if can_pack(encoder.config) else (_encode_padded, _ROWS_AT_ONCE)
    return torch.cat([encode(encoder, texts[i : i + at_once], pad) for i in range(0, len(texts), at_once)])


def _encode_packed(encoder: PreTrainedModel, texts: Sequence[Ids], pad: int) -> Tensor:
    """As `encode_texts`, in one pass with several texts per row."""
    batch = pack([len(ids) for ids in texts]).to(encoder.device)
    ids = torch.tensor([token for text in texts for token in text]).to(encoder.device, non_blocking=True)
    input_ids = batch.to_rows(ids).masked_fill(batch.segment_ids < 0, pad)  # [R, T]
    if batch.is_single:
        return encoder(input_ids=input_ids).last_hidden_state[0]
    mask = batch.attention_mask().unsqueeze(1)  # [R, 1, T, T]
    if encoder.config._attn_implementation == "eager":  # which adds the mask to the scores
        mask = torch.zeros(mask.shape, device=ids.device).masked_fill(~mask, torch.finfo(encoder.dtype).min)
    output = encoder(input_ids=input_ids, attention_mask=mask, position_ids=batch.positions)
    return batch.to_tokens(output.last_hidden_state)


def _encode_padded(encoder: PreTrainedModel, texts: Sequence[Ids], pad: int) -> Tensor:
    """As `encode_texts`, in one pass with one text per row."""
    input_ids = pad_sequence([torch.tensor(ids) for ids in texts], batch_first=True, padding_value=pad)  # [n, L]
    lengths = torch.tensor([len(ids) for ids in texts])
    mask = (torch.arange(input_ids.shape[1]) < lengths.unsqueeze(1)).long()
    places = mask.flatten().nonzero().squeeze(1)  # [N], found on the CPU, where nothing waits for a GPU
    input_ids, mask, places = (t.to(encoder.device, non_blocking=True) for t in (input_ids, mask, places))
    output = encoder(input_ids=input_ids, attention_mask=mask if len(texts) > 1 else None)
    return output.last_hidden_state.flatten(0, 1)[places]


def can_pack(config: PretrainedConfig) -> bool:
    """True if several texts may share a row of this encoder, which transformers 4 does not support."""
    import transformers

    implementation = getattr(config, "_attn_implementation", None)
    takes_masks_of_pairs = int(transformers.__version__.split(".")[0]) >= 5 and implementation in ("sdpa", "eager")
    return takes_masks_of_pairs and config.model_type in _PACKABLE
