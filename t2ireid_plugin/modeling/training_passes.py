"""Forward passes of `T2IReIDModel` for the losses that need more than its output, and texts encoded at full length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.modeling.encoders.backbones import ImageTokens
from t2ireid_plugin.modeling.encoders.token_features import Ids
from t2ireid_plugin.modeling.masking import hide_tokens, hide_words
from t2ireid_plugin.modeling.token_selection import last_attention, pick_token, watch_last_block

if TYPE_CHECKING:
    from t2ireid_plugin.modeling.t2ireid import T2IReIDModel, T2IReIDOutput


def forward_masked(
    model: T2IReIDModel,
    image: Tensor,
    cloth_instruction: Sequence[str] | None,
    id_instruction: Sequence[str],
    share: float = 0.15,
    fuse: bool = True,
) -> tuple[T2IReIDOutput, dict[str, Tensor | None]]:
    """As `T2IReIDModel.forward`, and in addition the image tokens and the identity texts with hidden words.

    These are ``image_tokens [B, L, D]``, ``word_tokens [B, W, D]`` padded at the end, ``word_mask [B, W]`` with 1
    for tokens and 0 for padding, and ``hidden_words [B, W]``, ids of the hidden words, a ``share`` of all, and -100
    elsewhere. The image is encoded once for both; the text with its hidden words is encoded separately.

    Raises:
        InputError: as `T2IReIDModel.forward`.
        ConfigError: for a tokenizer without a token that can stand for a hidden word.
    """
    output, others = model._encode(image, cloth_instruction, id_instruction, fuse)
    input_ids, mask = model.text_cache(list(id_instruction))
    masked, hidden = hide_words(input_ids, model.text_cache.tokenizer, share)
    lengths = mask.sum(dim=1).tolist()
    # Not cached: other words are hidden every time.
    features, batch = model._encode_tokens([tuple(ids[:n]) for ids, n in zip(masked.tolist(), lengths)], False)
    tokens, word_mask = batch.padded(model._attend_tokens(features, batch))
    hidden = hidden[:, : tokens.shape[1]].to(model.device)
    words = {"word_tokens": tokens, "word_mask": word_mask, "hidden_words": hidden}
    return output, {**others, **words}


def forward_irr(
    model: T2IReIDModel,
    image: Tensor,
    cloth_instruction: Sequence[str] | None,
    id_instruction: Sequence[str],
    share: float = 0.15,
    masked_captions: bool = True,
) -> tuple[T2IReIDOutput, dict[str, Tensor | None]]:
    """As `forward_masked`, by the rules of IRRA's code: see `hide_tokens`; padding with token 0 counts as a word.

    ``word_tokens`` are ``[B, max_length, D]``. With ``masked_captions`` the identity texts of the output are those
    with hidden words.

    Raises:
        ConfigError: without ``projection: encoder``; the rules are for CLIP's causal text encoder.
    """
    if model.text_attn is not None:
        raise ConfigError(f"loss 'irr' needs projection encoder, not {model.projection}")
    input_ids, last = _padded(model, model.text_cache.ids(list(id_instruction)))
    masked, hidden = (t.to(model.device) for t in hide_tokens(input_ids, model.text_cache.tokenizer, share))
    tokens = _encode_padded(model, masked)
    output, others = model._encode(image, cloth_instruction, None if masked_captions else id_instruction, False)
    if masked_captions:
        features = pick_token(tokens, last)
        embeds = model._project("text_mlp", features)[0]
        output, others["id_text_features"] = output._replace(id_text_embeds=embeds), features
    words = {"word_tokens": tokens, "word_mask": torch.ones_like(masked), "hidden_words": hidden}
    return output, {**others, **words}


def forward_selected(
    model: T2IReIDModel,
    image: Tensor,
    cloth_instruction: Sequence[str] | None,
    id_instruction: Sequence[str],
) -> tuple[T2IReIDOutput, dict[str, Tensor | None]]:
    """As `T2IReIDModel.forward` without fusion, and in addition the embeddings of `TokenSelection`.

    These are ``selected_image_embeds`` and ``selected_text_embeds``, ``[B, E]`` each, not normalised.
    """
    assert model.token_selection is not None
    read, scores = read_selected(model, image)
    features, selected_text = encode_selected(model, model.text_cache.ids(list(id_instruction)))
    clothing = batch = None
    if cloth_instruction is not None:
        clothing, batch = model._encode_tokens(model.text_cache.ids(list(cloth_instruction)))
    output, others = model._core(read, clothing, batch, ("cloth_instruction",), False)
    tokens = others["image_tokens"]
    assert tokens is not None
    selected = {
        "selected_image_embeds": model.token_selection.embed_image(tokens, scores),
        "selected_text_embeds": selected_text,
        "id_text_features": features,
    }
    return output._replace(id_text_embeds=model._project("text_mlp", features)[0]), {**others, **selected}


def read_selected(model: T2IReIDModel, image: Tensor) -> tuple[ImageTokens, Tensor]:
    """The image encoder's tokens, and the attention ``[B, L]`` of the class token to them in the last block."""
    with watch_last_block(model.visual_encoder) as read:
        tokens = model._read_image(image)
    return tokens, last_attention(model.visual_encoder, read)


def encode_selected(model: T2IReIDModel, ids: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    """Token ids of ``n`` texts to their pooled features ``[n, D]`` and the embeddings of their selected tokens."""
    assert model.token_selection is not None
    input_ids, last = (t.to(model.device) for t in _padded(model, ids))
    with watch_last_block(model.text_encoder) as read:
        tokens = _encode_padded(model, input_ids)
    scores = last_attention(model.text_encoder, read, last)
    return pick_token(tokens, last), model.token_selection.embed_text(tokens, scores, input_ids, last)


def _padded(model: T2IReIDModel, ids: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    """Ids ``[n, max_length]`` padded with token 0, and the place of each text's last token ``[n]``."""
    input_ids = torch.zeros(len(ids), model.text_cache.max_length, dtype=torch.long)
    for row, own in zip(input_ids, ids):
        row[: len(own)] = torch.tensor(own)
    return input_ids, torch.tensor([len(own) - 1 for own in ids])


def _encode_padded(model: T2IReIDModel, input_ids: Tensor) -> Tensor:
    """Tokens ``[n, max_length, D]`` without a padding mask: CLIP's text encoder reads from left to right."""
    tokens = model.text_encoder(input_ids=input_ids).last_hidden_state
    return tokens if model.text_adapter is None else model.text_adapter(tokens)
