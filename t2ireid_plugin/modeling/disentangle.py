"""Separates identity from clothing in the tokens of an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.modeling.settings import check_rows


class DisentangleModule(nn.Module):
    """Two attention branches over the image tokens, cross-attention between them, and a gate that weighs the channels.

    Args:
        dim: token width ``D``.
        num_heads: heads of each of the four attentions.
        tokens: which tokens the branches read. ``all`` is the specification's: each token attends to all. ``cls`` keeps
            the first token, ``mean`` and ``max`` pool all into one; on one token an attention is a linear map, and all
            layers keep their parameters. ``window``: a patch attends to the patches around it only, as in a
            convolution; the tokens in front of the patches attend to everything.
        window: width of the window in patches, odd.
        pool: how a branch's tokens become one feature. ``mean`` is the specification's. ``stripes``: the mean of each
            horizontal band of patches, side by side through a linear layer, so that places stay apart; ``attention``:
            what one learned query reads from all tokens. The layers of both are ``id_pool`` and ``cloth_pool``.
        stripes: number of bands, as even as the rows allow.
        cross: what the cross-attention reads: the tokens of the ``other`` branch, as in the specification, or the
            branch's ``own``; ``none`` leaves the cross-attention out.
    """

    def __init__(
        self,
        dim: int = 768,
        num_heads: int = 4,
        tokens: str = "all",
        window: int = 5,
        pool: str = "mean",
        stripes: int = 6,
        cross: str = "other",
    ) -> None:
        super().__init__()
        self.tokens, self.window, self.pool, self.stripes, self.cross = tokens, window, pool, stripes, cross
        self.id_linear = nn.Linear(dim, dim)
        self.id_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.id_norm = nn.LayerNorm(dim)
        self.cloth_linear = nn.Linear(dim, dim)
        self.cloth_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.cloth_norm = nn.LayerNorm(dim)
        if cross != "none":
            self.id_cross_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
            self.cloth_cross_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
            self.id_cross_norm = nn.LayerNorm(dim)
            self.cloth_cross_norm = nn.LayerNorm(dim)
        self.gate = nn.Sequential(nn.Linear(2 * dim, dim), nn.Sigmoid())
        # Last, so that the layers above start with the same weights as without them.
        if pool == "stripes":
            self.id_pool: nn.Module = nn.Linear(stripes * dim, dim)
            self.cloth_pool: nn.Module = nn.Linear(stripes * dim, dim)
        elif pool == "attention":
            self.id_pool, self.cloth_pool = AttentionPool(dim, num_heads), AttentionPool(dim, num_heads)

    def forward(self, x: Tensor, grid: tuple[int, int] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens ``[B, L, D]`` to identity features, clothing features and gate, ``[B, D]`` each.

        ``grid`` is the rows and columns of patches, which are the last tokens; ``window`` and ``stripes`` need it.

        Raises:
            ConfigError: when the tokens do not hold a grid that is needed, or its rows do not fill the stripes.
        """
        x, mask = self._select_tokens(x, grid)

        # Identity branch. The residual is the input, not the linear layer's output, as in the specification.
        id_feat = self.id_linear(x)
        id_attn = _attend(self.id_attn, id_feat, id_feat, mask)
        id_feat = self.id_norm(id_attn + x)  # [B, L, D]

        # Clothing branch
        cloth_feat = self.cloth_linear(x)
        cloth_attn = _attend(self.cloth_attn, cloth_feat, cloth_feat, mask)
        cloth_feat = self.cloth_norm(cloth_attn + x)

        # Cross-attention; each branch reads the other one as it was before this step.
        if self.cross != "none":
            id_read, cloth_read = (cloth_feat, id_feat) if self.cross == "other" else (id_feat, cloth_feat)
            id_cross = _attend(self.id_cross_attn, id_feat, id_read)
            cloth_cross = _attend(self.cloth_cross_attn, cloth_feat, cloth_read)
            id_feat = self.id_cross_norm(id_cross + id_feat)
            cloth_feat = self.cloth_cross_norm(cloth_cross + cloth_feat)

        # Pooling
        if self.pool == "mean":
            id_feat = id_feat.mean(dim=1)  # [B, D]
            cloth_feat = cloth_feat.mean(dim=1)
        else:
            if self.pool == "stripes":
                rows, columns = self._checked_grid(x, grid)
                check_rows({"pool": self.pool, "stripes": self.stripes}, rows)
                id_feat = stripe_means(id_feat, rows, columns, self.stripes)  # [B, s * D]
                cloth_feat = stripe_means(cloth_feat, rows, columns, self.stripes)
            id_feat, cloth_feat = self.id_pool(id_feat), self.cloth_pool(cloth_feat)

        # Gate
        gate = self.gate(torch.cat([id_feat, cloth_feat], dim=-1))  # [B, D]
        return gate * id_feat, (1 - gate) * cloth_feat, gate

    def attention_weights(self, x: Tensor, grid: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
        """Tokens ``[B, L, D]`` to the weights of ``id_attn`` and ``cloth_attn``, ``[B, heads, L, L]`` each.

        Row ``i`` holds the weights with which token ``i`` attends to each token; it sums to 1.

        Raises:
            ConfigError: when the branches read a single pooled token, where there is nothing to weigh.
        """
        if self.tokens not in ("all", "window"):
            raise ConfigError(f"disentangle.tokens '{self.tokens}' has no attention over patches to show")
        x, mask = self._select_tokens(x, grid)
        id_feat, cloth_feat = self.id_linear(x), self.cloth_linear(x)
        options = {"attn_mask": mask, "average_attn_weights": False}
        _, id_weights = self.id_attn(query=id_feat, key=id_feat, value=id_feat, **options)
        _, cloth_weights = self.cloth_attn(query=cloth_feat, key=cloth_feat, value=cloth_feat, **options)
        return id_weights, cloth_weights

    def _select_tokens(self, x: Tensor, grid: tuple[int, int] | None) -> tuple[Tensor, Tensor | None]:
        """The tokens that the branches read, and the attention mask of `outside_window` where there is one."""
        if self.tokens == "cls":
            return x[:, :1], None
        if self.tokens == "mean":
            return x.mean(dim=1, keepdim=True), None
        if self.tokens == "max":
            return x.amax(dim=1, keepdim=True), None
        if self.tokens == "window":
            return x, outside_window(x.shape[1], *self._checked_grid(x, grid), self.window).to(x.device)
        return x, None

    def _checked_grid(self, x: Tensor, grid: tuple[int, int] | None) -> tuple[int, int]:
        if grid is None or x.shape[1] < grid[0] * grid[1]:
            raise ConfigError(
                f"disentangle.tokens '{self.tokens}' with pool '{self.pool}': {x.shape[1]} tokens do not hold a grid "
                f"of {grid}"
            )
        return grid


class AttentionPool(nn.Module):
    """One learned query over the tokens, as the head of SigLIP's image tower (Zhai et al., ICCV 2023)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, L, D]`` to ``[B, D]``."""
        return _attend(self.attn, self.query.expand(tokens.shape[0], -1, -1), tokens)[:, 0]


def stripe_means(tokens: Tensor, rows: int, columns: int, stripes: int) -> Tensor:
    """Means of horizontal bands of the patches, ``[B, L, D]`` to ``[B, stripes * D]``; tokens before them are left out.

    Bands are cut as in `torch.nn.AdaptiveAvgPool2d`, which ONNX lacks where the rows do not divide.
    """
    patches = tokens[:, tokens.shape[1] - rows * columns :]
    ends = [(i * rows // stripes * columns, -(-(i + 1) * rows // stripes) * columns) for i in range(stripes)]
    return torch.cat([patches[:, start:end].mean(dim=1) for start, end in ends], dim=1)


def outside_window(length: int, rows: int, columns: int, window: int) -> Tensor:
    """Attention mask ``[length, length]``, True where a token must not attend to another (as nn.MultiheadAttention).

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


def _attend(attention: nn.MultiheadAttention, query: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention without its weights, which lets PyTorch use its fused kernels: ``[B, L, D]``."""
    return attention(query=query, key=context, value=context, need_weights=False, attn_mask=mask)[0]
