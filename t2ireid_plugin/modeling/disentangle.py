"""Separates identity from clothing in the tokens of an image."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ireid_plugin.errors import ConfigError, check_choice, check_keys
from t2ireid_plugin.modeling.folding import Derived, attend, attention, behind, can_fold, exchanged

# What the two branches see. The specification's `all` is compared with what it argues against.
TOKENS = ("all", "cls", "mean", "max", "window")


class DisentangleModule(nn.Module):
    """Two attention branches over all tokens, each looking at the other, and a gate that shares the channels.

    In inference the linears are folded into the projections behind them and what reads the same tokens is projected in
    one product: sixteen ``D x D`` products a token in place of eighteen, in three calls in place of eight.

    Args:
        dim: token width ``D``.
        num_heads: heads of each of the four attentions.
        tokens: what the branches see. ``all`` is the specification's: each token attends to all. ``cls`` keeps the
            first token, ``mean`` and ``max`` pool all into one; on one token an attention is a linear map, and all
            layers keep their parameters. ``window``: a patch attends to the patches around it alone, as in a
            convolution; only the tokens in front of the patches see everything.
        window: width of the window in patches, odd.
    """

    def __init__(self, dim: int = 768, num_heads: int = 4, tokens: str = "all", window: int = 5) -> None:
        super().__init__()
        self.tokens, self.window = tokens, window
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
        self._folded: Derived[tuple[Tensor, ...]] = Derived()

    def forward(self, tokens: Tensor, grid: tuple[int, int] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens ``[B, L, D]`` to identity features, clothing features and gate, ``[B, D]`` each.

        ``grid`` is the rows and columns of patches, which are the last tokens; only ``window`` needs it.
        """
        tokens, mask = self._seen(tokens, grid)
        folds = not self.training and can_fold(self._layers())
        attended, crossed = (self._attend_folded, self._cross_folded) if folds else (self._attend, self._cross)
        id_attended, cloth_attended = attended(tokens, mask)
        # The residual is the encoder's output, not the linear's: so the specification has it.
        id_tokens = self.id_norm(id_attended + tokens)
        cloth_tokens = self.cloth_norm(cloth_attended + tokens)

        id_cross, cloth_cross = crossed(id_tokens, cloth_tokens)
        id_feature = self.id_cross_norm(id_cross + id_tokens).mean(dim=1)  # [B, D]
        cloth_feature = self.cloth_cross_norm(cloth_cross + cloth_tokens).mean(dim=1)  # [B, D]

        gate = self.gate(torch.cat([id_feature, cloth_feature], dim=-1))  # [B, D]
        return gate * id_feature, (1 - gate) * cloth_feature, gate

    def attention_weights(self, tokens: Tensor, grid: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
        """Tokens ``[B, L, D]`` to the weights of ``id_attn`` and ``cloth_attn``, ``[B, heads, L, L]`` each.

        Row ``i`` says how much token ``i`` takes from each token, and sums to 1.

        Raises:
            ConfigError: when the branches see one pooled token, which has nothing to choose from.
        """
        if self.tokens not in ("all", "window"):
            raise ConfigError(f"disentangle.tokens '{self.tokens}' has no attention over patches to show")
        tokens, mask = self._seen(tokens, grid)
        return (
            _weights(self.id_attn, self.id_linear(tokens), mask),
            _weights(self.cloth_attn, self.cloth_linear(tokens), mask),
        )

    def train(self, mode: bool = True) -> DisentangleModule:
        """As `nn.Module.train`; what was folded is forgotten, see `Derived`."""
        self._folded.clear()
        return super().train(mode)

    def _attend(self, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Self-attention of both branches, ``[B, L, D]`` each."""
        id_tokens, cloth_tokens = self.id_linear(tokens), self.cloth_linear(tokens)
        return (
            attention(self.id_attn, id_tokens, id_tokens, mask),
            attention(self.cloth_attn, cloth_tokens, cloth_tokens, mask),
        )

    def _cross(self, identity: Tensor, clothing: Tensor) -> tuple[Tensor, Tensor]:
        """What each branch finds in the other, ``[B, L, D]`` each.

        Both read the other branch before its own cross-attention, so neither branch comes first.
        """
        return (
            attention(self.id_cross_attn, identity, clothing),
            attention(self.cloth_cross_attn, clothing, identity),
        )

    def _layers(self) -> tuple[nn.Module, ...]:
        """What can be folded, in pairs of both branches."""
        return (
            self.id_linear,
            self.cloth_linear,
            self.id_attn,
            self.cloth_attn,
            self.id_cross_attn,
            self.cloth_cross_attn,
        )

    def _fold(self) -> tuple[Tensor, ...]:
        """Weight and bias of what reads the encoder's tokens, the identity branch's and the clothing branch's."""

        def compute() -> tuple[Tensor, ...]:
            branches = behind(self.id_linear, self.id_attn), behind(self.cloth_linear, self.cloth_attn)
            return (
                *(torch.cat(parts) for parts in zip(*branches)),
                *exchanged(self.id_cross_attn, self.cloth_cross_attn),
                *exchanged(self.cloth_cross_attn, self.id_cross_attn),
            )

        outputs = ("out_proj.weight", "out_proj.bias")  # not folded
        layers = self._layers()
        return self._folded.get(
            [p for layer in layers for name, p in layer.named_parameters() if name not in outputs], compute
        )

    def _attend_folded(self, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """As `_attend`, to rounding."""
        heads, (weight, bias, *_) = self.id_attn.num_heads, self._fold()
        query, key, value, cloth_query, cloth_key, cloth_value = F.linear(tokens, weight, bias).chunk(6, dim=-1)
        return (
            self.id_attn.out_proj(attend(query, key, value, heads, mask)),
            self.cloth_attn.out_proj(attend(cloth_query, cloth_key, cloth_value, heads, mask)),
        )

    def _cross_folded(self, identity: Tensor, clothing: Tensor) -> tuple[Tensor, Tensor]:
        """As `_cross`, to rounding: each branch's tokens become its own query and the other one's key and value."""
        heads, (_, _, id_weight, id_bias, cloth_weight, cloth_bias) = self.id_attn.num_heads, self._fold()
        id_query, cloth_key, cloth_value = F.linear(identity, id_weight, id_bias).chunk(3, dim=-1)
        cloth_query, id_key, id_value = F.linear(clothing, cloth_weight, cloth_bias).chunk(3, dim=-1)
        return (
            self.id_cross_attn.out_proj(attend(id_query, id_key, id_value, heads)),
            self.cloth_cross_attn.out_proj(attend(cloth_query, cloth_key, cloth_value, heads)),
        )

    def _seen(self, tokens: Tensor, grid: tuple[int, int] | None) -> tuple[Tensor, Tensor | None]:
        """The tokens that the branches see, and which of them each must not attend to."""
        if self.tokens == "cls":
            return tokens[:, :1], None
        if self.tokens == "mean":
            return tokens.mean(dim=1, keepdim=True), None
        if self.tokens == "max":
            return tokens.amax(dim=1, keepdim=True), None
        if self.tokens == "window":
            if grid is None or tokens.shape[1] < grid[0] * grid[1]:
                raise ConfigError(f"disentangle.tokens 'window': {tokens.shape[1]} tokens do not hold a grid of {grid}")
            return tokens, outside_window(tokens.shape[1], *grid, self.window).to(tokens.device)
        return tokens, None


def build_disentangle(config: Mapping[str, Any], dim: int, num_heads: int) -> DisentangleModule:
    """The module that ``config`` (``tokens``, ``window``) describes.

    Raises:
        ConfigError: for an unknown key or choice, or an even window.
    """
    check_keys("disentangle", config, ("tokens", "window"))
    tokens, window = config.get("tokens", "all"), config.get("window", 5)
    check_choice("disentangle.tokens", tokens, TOKENS)
    if not isinstance(window, int) or window < 1 or window % 2 == 0:
        raise ConfigError(f"disentangle.window: {window!r} must be an odd number of patches, such as 5")
    return DisentangleModule(dim, num_heads, tokens, window)


@functools.lru_cache(maxsize=8)
def outside_window(length: int, rows: int, columns: int, window: int) -> Tensor:
    """``[length, length]`` bool: true where a token must not attend to another.

    The last ``rows * columns`` tokens are the patches, row by row; those in front of them attend to all.
    """
    row = torch.arange(rows).repeat_interleave(columns)
    column = torch.arange(columns).repeat(rows)
    far = torch.maximum((row[:, None] - row).abs(), (column[:, None] - column).abs()) > window // 2
    mask = torch.zeros(length, length, dtype=torch.bool)
    front = length - rows * columns
    mask[front:, :front] = True
    mask[front:, front:] = far
    return mask


def _weights(attention: nn.MultiheadAttention, tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Self-attention's weights ``[B, heads, L, L]``, which no other path forms."""
    return attention(tokens, tokens, tokens, need_weights=True, average_attn_weights=False, attn_mask=mask)[1]
