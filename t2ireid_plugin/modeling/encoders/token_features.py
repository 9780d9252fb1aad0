"""Token ids to features of the tokens, by a text encoder that is given as little padding as it allows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch
from torch import Tensor

from t2ireid_plugin.modeling.encoders.families import tower_class
from t2ireid_plugin.modeling.encoders.packing import ROW_TOKENS, PackedBatch, pack, split_batches, start_offsets

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Ids: TypeAlias = tuple[int, ...]


class TokenFeatureCache(Protocol):
    """What may stand in for `word_features` in training; `engine.text_features.TextFeatures` is one."""

    def __call__(self, encoder: PreTrainedModel, texts: Sequence[Ids], pad: int) -> Tensor:
        """As `word_features`."""

    def recheck(self) -> None:
        """Called when the model changes between training and evaluation: its weights may be others now."""


TEXTS_AT_ONCE = 64
# Encoders with absolute positions that count from 0 and that take a mask for each pair of tokens.
_PACKED = ("bert",)


def word_features(encoder: PreTrainedModel, texts: Sequence[Ids], pad: int) -> Tensor:
    """Token ids of ``n`` texts to features of all their ``N`` tokens, one text after the other: ``[N, D]``.

    Args:
        encoder: the text encoder.
        texts: sorted by length.
        pad: the token that fills up.
    """
    lengths = [len(ids) for ids in texts]
    packs = _can_pack(encoder.config)
    if packs:
        parts = [range(i, min(i + TEXTS_AT_ONCE, len(texts))) for i in range(0, len(texts), TEXTS_AT_ONCE)]
    else:
        parts = split_batches(lengths, TEXTS_AT_ONCE)
    found = []
    for part in parts:
        layout = pack([lengths[i] for i in part], width=ROW_TOKENS if packs else 0)
        ids = torch.tensor([token for i in part for token in texts[i]])
        found.append(_read(encoder, ids.to(encoder.device, non_blocking=True), layout.to(encoder.device), pad, packs))
    return torch.cat(found)


def encode_texts(
    texts: Sequence[Ids], read: Callable[[Sequence[Ids]], Tensor], repeats_differ: bool = False
) -> tuple[Tensor, PackedBatch]:
    """Token ids of ``n`` texts to features of tokens ``[N, D]``, and how these are spread over rows for all texts.

    Args:
        texts: as they come; a repeated one is read once and spread as often as it is there.
        read: gives the features of texts sorted by length, one after the other.
        repeats_differ: read repeated texts too, because dropout makes each another one.
    """
    keys: Sequence[Any] = range(len(texts)) if repeats_differ else texts
    different = sorted(dict(zip(keys, texts)).items(), key=lambda item: len(item[1]))
    words = read([ids for _, ids in different])
    begins = dict(zip((key for key, _ in different), start_offsets([len(ids) for _, ids in different])))
    return words, pack([len(ids) for ids in texts], [begins[key] for key in keys])


def _read(encoder: PreTrainedModel, ids: Tensor, layout: PackedBatch, pad: int, packs: bool) -> Tensor:
    """One pass: ids ``[N]`` to features ``[N, D]``."""
    input_ids = layout.to_rows(ids)  # [R, T]
    if layout.is_single:
        return encoder(input_ids=input_ids).last_hidden_state[0]
    input_ids = input_ids.masked_fill(layout.segment_ids < 0, pad)
    if not packs:
        mask = (layout.segment_ids >= 0).long()
        return layout.to_tokens(encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state)
    blocked = layout.attention_mask()
    assert blocked is not None
    mask = ~blocked.unsqueeze(1)  # [R, 1, T, T]
    if encoder.config._attn_implementation == "eager":  # which adds it to the scores
        mask = torch.zeros(mask.shape, device=ids.device).masked_fill(~mask, torch.finfo(encoder.dtype).min)
    found = encoder(input_ids=input_ids, attention_mask=mask, position_ids=layout.positions)
    return layout.to_tokens(found.last_hidden_state)


def _can_pack(config: PretrainedConfig) -> bool:
    """Whether several texts may share a row."""
    implementation = getattr(config, "_attn_implementation", None)
    known = config.model_type in _PACKED and implementation in ("sdpa", "eager")
    return known and _takes_mask_of_pairs(config.model_type, implementation)


@functools.cache
def _takes_mask_of_pairs(model_type: str, implementation: str | None) -> bool:
    """Tried on the smallest encoder of its kind: which masks are taken depends on the library's version."""
    from transformers import AutoConfig

    small = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4}
    config = AutoConfig.for_model(model_type, **small, vocab_size=8, attn_implementation=implementation)
    model_class = tower_class(config)
    assert model_class is not None
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        encoder = model_class(config).eval()
        texts = torch.tensor([1, 2]), torch.tensor([3, 4, 5])
        expected = torch.cat([encoder(input_ids=text.unsqueeze(0)).last_hidden_state[0] for text in texts])
        try:
            found = _read(encoder, torch.cat(texts), pack([2, 3]), 0, packs=True)
        except (ValueError, RuntimeError, IndexError, TypeError):  # it was made for two dimensions
            return False
    return torch.allclose(found, expected, atol=1e-5)
