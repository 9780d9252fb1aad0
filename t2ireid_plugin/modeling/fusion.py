"""Fusion of two inputs, such as an image and a text: of their embeddings, or of their tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ireid_plugin.modeling.mamba import Mamba
from t2ireid_plugin.modeling.settings import FUSIONS, NUM_HEADS


class EnhancedMambaFusion(nn.Module):
    """Aligns both embeddings, passes the pair through Mamba layers and projects the result.

    The pair is one token of width ``2 * dim``. With a single token the state starts at zero, so ``A_log`` and all but
    the last tap of the convolution get no gradient and a layer acts as a gated MLP. The gate computes a weight for each
    half, but ``fc`` reads the whole Mamba output, so the weights do not affect the fused embedding and the gate gets no
    gradient from it. Both properties are the specification's; `GatedMambaFusion` fixes the second.

    Args:
        dim: width ``d`` of each embedding.
        d_state, d_conv: Mamba's state width and convolution taps.
        num_layers: number of Mamba layers.
        output_dim: width of the fused embedding.
        dropout: in the gate and its attention.
    """

    def __init__(
        self,
        dim: int = 256,
        d_state: int = 16,
        d_conv: int = 4,
        num_layers: int = 2,
        output_dim: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        pair = 2 * dim
        self.image_align, self.text_align = _align(dim, dim), _align(dim, dim)
        self.mamba_layers = nn.ModuleList(Mamba(pair, d_state, d_conv) for _ in range(num_layers))
        self.mamba_norms = nn.ModuleList(nn.LayerNorm(pair) for _ in range(num_layers))
        self.gate_attn = nn.MultiheadAttention(pair, NUM_HEADS, dropout=dropout, batch_first=True)
        self.gate = _gate(dim, dropout)
        self.fc = nn.Linear(pair, output_dim)
        self.norm_final = nn.LayerNorm(output_dim)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Two embeddings ``[B, d]`` to ``fused [B, output_dim]`` and ``weights [B, 2]`` of the first and the second."""
        pair = torch.cat([self.image_align(image), self.text_align(text)], dim=-1).unsqueeze(1)  # [B, 1, 2d]
        for mamba, norm in zip(self.mamba_layers, self.mamba_norms):
            pair = norm(mamba(pair) + pair)
        # Still [B, 1, 2d]: for [B, 2d], PyTorch would treat the batch as one sequence.
        attended = self.gate_attn(pair, pair, pair, need_weights=False)[0].squeeze(1)  # [B, 2d]
        weights = self.gate(attended)  # [B, 2]
        return self.norm_final(self.fc(self.weigh(pair.squeeze(1), weights))), weights

    @staticmethod
    def weigh(pair: Tensor, weights: Tensor) -> Tensor:
        """Input of ``fc``: the whole Mamba output ``[B, 2d]``, independent of the weights ``[B, 2]``."""
        return pair


class GatedMambaFusion(EnhancedMambaFusion):
    """`EnhancedMambaFusion` whose gate weights affect the output and so are learned; parameter names are the same.

    The halves are scaled by ``2 * w_image`` and ``2 * w_text``: the identity while both weights are 1/2.
    """

    @staticmethod
    def weigh(pair: Tensor, weights: Tensor) -> Tensor:
        """The image and the text half of ``pair [B, 2d]``, each times twice its weight."""
        image, text = pair.chunk(2, dim=-1)
        return 2 * torch.cat([weights[:, :1] * image, weights[:, 1:] * text], dim=-1)


class SequenceScan(nn.Module):
    """Scans patch tokens and word tokens as one sequence with Mamba in both directions.

    Going forward the state carries the image to the words, going backward the words to the image. Padding comes last in
    both directions, where it cannot affect any token of a causal scan.

    Args:
        dim: width ``d`` of the sequence.
        d_state, d_conv: Mamba's state width and convolution taps.
        num_layers: number of layers, each with one mixer per direction.
        width: token width ``D``.
    """

    def __init__(
        self, dim: int = 256, d_state: int = 16, d_conv: int = 4, num_layers: int = 2, width: int = 768
    ) -> None:
        super().__init__()
        self.image_align, self.text_align = _align(width, dim), _align(width, dim)
        self.forward_layers = nn.ModuleList(Mamba(dim, d_state, d_conv) for _ in range(num_layers))
        self.backward_layers = nn.ModuleList(Mamba(dim, d_state, d_conv) for _ in range(num_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(num_layers))

    def scan(self, image: Tensor, text: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Both parts after the layers, ``[B, L, d]`` and ``[B, W, d]``; the values on padding are meaningless.

        Args:
            image: ``[B, L, D]``.
            text: ``[B, W, D]``, padded at the end.
            text_mask: ``[B, W]``, 1 for words and 0 for padding.
        """
        hidden = torch.cat([self.image_align(image), self.text_align(text)], dim=1)  # [B, L + W, d]
        reverse = _reversed(image.shape[1] + text_mask.sum(dim=1).long(), hidden.shape[1])
        reverse = reverse.unsqueeze(-1).expand_as(hidden)
        for forward, backward, norm in zip(self.forward_layers, self.backward_layers, self.norms):
            backward_output = backward(hidden.gather(1, reverse)).gather(1, reverse)
            hidden = norm(hidden + forward(hidden) + backward_output)
        return hidden[:, : image.shape[1]], hidden[:, image.shape[1] :]


class SequenceMambaFusion(SequenceScan):
    """`SequenceScan` with pooling and a gate that weighs image and text.

    Unlike the other fusions it reads tokens instead of embeddings. Arguments are those of `SequenceScan`, and:

    Args:
        output_dim: width of the fused embedding.
        dropout: in the gate.
    """

    def __init__(
        self,
        dim: int = 256,
        d_state: int = 16,
        d_conv: int = 4,
        num_layers: int = 2,
        output_dim: int = 256,
        dropout: float = 0.1,
        width: int = 768,
    ) -> None:
        super().__init__(dim, d_state, d_conv, num_layers, width)
        self.gate = _gate(dim, dropout)
        self.fc = nn.Linear(2 * dim, output_dim)
        self.norm_final = nn.LayerNorm(output_dim)

    def forward(self, image: Tensor, text: Tensor, text_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `scan`, to ``fused [B, output_dim]`` and ``weights [B, 2]`` of the first and the second sequence.

        Without ``text_mask`` the second sequence has no padding.
        """
        if text_mask is None:
            text_mask = torch.ones(text.shape[:2], dtype=torch.long, device=text.device)
        patches, words = self.scan(image, text, text_mask)
        mask = text_mask.unsqueeze(-1).to(words.dtype)
        pair = torch.cat([patches.mean(dim=1), (words * mask).sum(dim=1) / mask.sum(dim=1)], dim=-1)  # [B, 2d]
        weights = self.gate(pair)
        return self.norm_final(self.fc(GatedMambaFusion.weigh(pair, weights))), weights


class ResidualFusion(nn.Module):
    """``a * image + b * text`` of each branch, with weights for each query, plus a residual of all four embeddings.

    What a gate adds to the weights and the residual both start at zero, so that it starts as the plain sum. See
    docs/fusing.md.

    Args:
        dim: width ``d`` of each embedding.
        dropout: of what the gate and the residual read.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.full((2, 2), 0.5))  # identity and clothing by image and text
        self.drop = nn.Dropout(dropout)
        self.gate = nn.Sequential(nn.Linear(4 * dim, dim // 2), nn.GELU(), zero_linear(dim // 2, 4))
        self.last = zero_linear(4 * dim, 2 * dim)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Identity and clothing embeddings ``[B, 2, d]`` each, to ``[B, 2 d]`` of unit norm: both halves of the query.

        A text that says nothing for a branch is zero there.
        """
        root = image.shape[2] ** 0.5
        four = self.read(torch.cat([image, text], 1) * root)  # entries of about 1
        weights = self.weights + self.gate(four).view(-1, 2, 2)
        query = weights[..., :1] * image + weights[..., 1:] * text
        query = query + self.last(four).view_as(query) / root
        return F.normalize(query.flatten(1), dim=-1)

    def read(self, vectors: Tensor) -> Tensor:
        """Identity and clothing of image, then of text ``[B, 4, d]``, as gate and residual read them ``[B, 4 d]``."""
        return self.drop(vectors.flatten(1))


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer whose output is zero until it is trained."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _align(width: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, dim), nn.ReLU(), nn.LayerNorm(dim))


def _gate(dim: int, dropout: float) -> nn.Sequential:
    """``[B, 2d]`` to the weights of image and text ``[B, 2]``."""
    return nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, 2), nn.Softmax(dim=-1))


def _reversed(lengths: Tensor, max_length: int) -> Tensor:
    """Indices ``[B, max_length]`` that reverse the first ``lengths[i]`` tokens of row i and leave padding in place."""
    index = torch.arange(max_length, device=lengths.device).expand(len(lengths), -1)
    reverse = lengths[:, None] - 1 - index
    return torch.where(reverse >= 0, reverse, index)


def build_fusion(config: Mapping[str, Any], width: int) -> nn.Module:
    """Builds the fusion that ``config`` describes, see `check_fusion`; ``width`` is the token width."""
    arguments = {name: value for name, value in config.items() if name != "type"}
    if config["type"] == "sequence_mamba":
        arguments["width"] = width
    if config["type"] == "residual":
        arguments = {name: config[name] for name in ("dim", "dropout")}
    return FUSIONS[config["type"]](**arguments)
