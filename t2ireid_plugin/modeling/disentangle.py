"""Separates identity from clothing in the tokens of an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DisentangleModule(nn.Module):
    """Two attention branches over all tokens, each looking at the other, and a gate that shares the channels.

    Args:
        dim: token width ``D``.
        num_heads: heads of each of the four attentions.
    """

    def __init__(self, dim: int = 768, num_heads: int = 4) -> None:
        super().__init__()
        self.id_linear = nn.Linear(dim, dim)
        self.id_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.id_norm = nn.LayerNorm(dim)
        self.cloth_linear = nn.Linear(dim, dim)
        self.cloth_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.cloth_norm = nn.LayerNorm(dim)
        self.id_cross_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.cloth_cross_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.id_cross_norm = nn.LayerNorm(dim)
        self.cloth_cross_norm = nn.LayerNorm(dim)
        self.gate = nn.Sequential(nn.Linear(2 * dim, dim), nn.Sigmoid())

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens ``[B, L, D]`` to identity features, clothing features and gate, ``[B, D]`` each."""
        # The residual is the encoder's output, not the linear's: so the specification has it.
        id_tokens = self.id_norm(_attend(self.id_attn, self.id_linear(tokens)) + tokens)
        cloth_tokens = self.cloth_norm(_attend(self.cloth_attn, self.cloth_linear(tokens)) + tokens)

        # Both read the other branch before its own cross-attention, so neither branch comes first.
        id_cross = _attend(self.id_cross_attn, id_tokens, cloth_tokens)
        cloth_cross = _attend(self.cloth_cross_attn, cloth_tokens, id_tokens)
        id_feature = self.id_cross_norm(id_cross + id_tokens).mean(dim=1)  # [B, D]
        cloth_feature = self.cloth_cross_norm(cloth_cross + cloth_tokens).mean(dim=1)  # [B, D]

        gate = self.gate(torch.cat([id_feature, cloth_feature], dim=-1))  # [B, D]
        return gate * id_feature, (1 - gate) * cloth_feature, gate

    def attention_weights(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens ``[B, L, D]`` to the weights of ``id_attn`` and ``cloth_attn``, ``[B, heads, L, L]`` each.

        Row ``i`` says how much token ``i`` takes from each token, and sums to 1.
        """
        return _weights(self.id_attn, self.id_linear(tokens)), _weights(self.cloth_attn, self.cloth_linear(tokens))


def _attend(attention: nn.MultiheadAttention, query: Tensor, context: Tensor | None = None) -> Tensor:
    """Attention without its weights, which lets PyTorch take its fused path."""
    context = query if context is None else context
    return attention(query, context, context, need_weights=False)[0]


def _weights(attention: nn.MultiheadAttention, tokens: Tensor) -> Tensor:
    """Self-attention's weights ``[B, heads, L, L]``, which the fused path of `_attend` never forms."""
    return attention(tokens, tokens, tokens, need_weights=True, average_attn_weights=False)[1]
