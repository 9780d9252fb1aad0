"""Token-selection embedding (TSE) of RDE: a second embedding of the tokens that the encoders' last block attends to.

Qin et al., "Noisy-Correspondence Learning for Text-to-Image Person Re-identification", CVPR 2024, as in the authors'
code (github.com/QinYang79/RDE, ``model/CrossEmbeddingLayer_tse.py``). The encoders are those of CLIP.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from t2ireid_plugin.modeling.ranking import join

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SelectedTokens(nn.Module):
    """Chosen tokens ``[B, k, D]`` to one embedding ``[B, E]``: a linear layer plus an MLP, the maximum over the tokens.

    Args:
        width: ``D``.
        dim: ``E``.
        batch_norm: False keeps the MLP's batch normalisation at its first statistics (mean 0, variance 1), as training
            in eval mode does.
    """

    def __init__(self, width: int, dim: int, batch_norm: bool = True) -> None:
        super().__init__()
        self.batch_norm = batch_norm
        self.linear = nn.Linear(width, dim)
        hidden = dim // 2
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, dim))

    def train(self, mode: bool = True) -> SelectedTokens:
        """As `nn.Module.train`, except for statistics that stay as they are."""
        return super().train(mode and self.batch_norm)

    def forward(self, tokens: Tensor, scores: Tensor, number: int, words: Tensor | None = None) -> Tensor:
        """The embedding of the ``number`` tokens with the highest scores.

        Args:
            tokens: ``[B, L, D]``.
            scores: ``[B, L]``.
            number: ``k``.
            words: ``[B]`` real tokens of each row; the chosen ones after these are padding, which the maximum leaves
                out, but not the batch statistics.
        """
        chosen = scores.topk(number, dim=1).indices  # [B, k], the highest score first
        tokens = tokens.gather(1, chosen.unsqueeze(2).expand(-1, -1, tokens.shape[2]))
        tokens = tokens / (tokens.norm(dim=2, keepdim=True) + 1e-8)
        features = self.mlp(tokens.flatten(0, 1)).unflatten(0, chosen.shape) + self.linear(tokens)  # [B, k, E]
        if words is not None:
            is_padding = torch.arange(number, device=words.device) >= words.clamp(min=1).unsqueeze(1)  # [B, k]
            features = features.masked_fill(is_padding.unsqueeze(2), torch.finfo(features.dtype).min)
        return features.max(dim=1).values


class TokenSelection(nn.Module):
    """The embeddings of an image's and a text's selected tokens, ``[B, E]`` each, not normalised.

    Args:
        width: ``D`` of the tokens.
        ratio: share of the patches, and of a text's positions without start and end, that are selected.
        dim: ``E``.
        batch_norm: see `SelectedTokens`.
    """

    def __init__(self, width: int, ratio: float, dim: int = 1024, batch_norm: bool = True) -> None:
        super().__init__()
        self.ratio, self.dim = ratio, dim
        self.image, self.text = SelectedTokens(width, dim, batch_norm), SelectedTokens(width, dim, batch_norm)

    def embed_image(self, tokens: Tensor, scores: Tensor) -> Tensor:
        """Tokens ``[B, L, D]``, the class token first, and its attention to all ``[B, L]``."""
        scores = torch.cat([torch.full_like(scores[:, :1], -1.0), scores[:, 1:]], dim=1)
        return self.image(tokens, scores, self._number(tokens.shape[1] - 1))

    def embed_text(self, tokens: Tensor, scores: Tensor, ids: Tensor, last: Tensor) -> Tensor:
        """Tokens ``[B, L, D]`` of ``ids [B, L]`` padded with 0, and the attention ``[B, L]`` of the one at ``last``."""
        is_token = ids != 0
        ends = torch.zeros_like(ids).scatter(1, last.unsqueeze(1), 1).index_fill(1, ids.new_zeros(1), 1)  # [B, L]
        scores = (scores * is_token).masked_fill(ends.bool(), -1.0)
        return self.text(tokens, scores, self._number(tokens.shape[1] - 2), is_token.sum(dim=1) - 2)

    def _number(self, positions: int) -> int:
        return max(1, int(positions * self.ratio))


def join_selected(embeds: Tensor, selected: Tensor) -> Tensor:
    """Both embeddings side by side ``[B, D + E]`` of unit norm: the inner product is the mean of both cosines."""
    return join(embeds, nn.functional.normalize(selected, dim=-1), 0.5)


def pick_token(tokens: Tensor, places: Tensor) -> Tensor:
    """One token of each row: ``[n, L, D], [n] -> [n, D]``; not by an `arange`, which fixes the batch in ONNX."""
    index = places.to(tokens.device)[:, None, None].expand(-1, 1, tokens.shape[2])
    return tokens.gather(1, index).squeeze(1)


@contextlib.contextmanager
def watch_last_block(encoder: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Collects what the attention of the last block of a CLIP encoder reads, ``[B, L, W]`` of each pass."""
    read: list[Tensor] = []
    norm = _last_block(encoder).layer_norm1
    hook = norm.register_forward_hook(lambda _module, _inputs, output: read.append(output.detach()))
    try:
        yield read
    finally:
        hook.remove()


@torch.no_grad()
def last_attention(encoder: PreTrainedModel, read: list[Tensor], rows: Tensor | None = None) -> Tensor:
    """Attention ``[B, L]`` of one token to all in the last block, the mean over its heads.

    Only this row is computed, so that the encoder itself may use fused attention.

    Args:
        encoder: of CLIP.
        read: from `watch_last_block`.
        rows: ``[B]`` place of the token in a text, which does not attend to later ones; None for the class token.
    """
    attention, states = _last_block(encoder).self_attn, torch.cat(read)
    places = torch.zeros(len(states), dtype=torch.long, device=states.device) if rows is None else rows
    own = pick_token(states, places)  # [B, W]
    heads = (attention.num_heads, -1)
    query, keys = attention.q_proj(own).unflatten(-1, heads), attention.k_proj(states).unflatten(-1, heads)
    logits = torch.einsum("bhd,blhd->bhl", query * attention.head_dim**-0.5, keys)
    if rows is not None:
        is_later = torch.arange(states.shape[1], device=states.device) > rows.unsqueeze(1)  # [B, L]
        logits = logits.masked_fill(is_later.unsqueeze(1), -torch.inf)
    return logits.softmax(dim=-1).mean(dim=1)


def _last_block(encoder: PreTrainedModel) -> Any:
    tower: Any = encoder
    for level in ("vision_model", "text_model"):  # in transformers 4
        tower = getattr(tower, level, tower)
    return tower.encoder.layers[-1]
