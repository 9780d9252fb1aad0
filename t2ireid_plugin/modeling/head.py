"""`DisentangleHead`: tokens or a feature map to identity and clothing embeddings and logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ireid_plugin.errors import ConfigError, InputError, check_choice
from t2ireid_plugin.modeling.disentangle import DisentangleModule
from t2ireid_plugin.modeling.encoders.backbones import flatten_map, pooled_token
from t2ireid_plugin.modeling.fusion import build_fusion
from t2ireid_plugin.modeling.ranking import join
from t2ireid_plugin.modeling.settings import (
    DEFAULT_FUSION,
    EMBED_DIM,
    NUM_HEADS,
    check_branch,
    check_fusion,
    disentangle_dim,
)

SHARED_DIM = 512


class HeadOutput(NamedTuple):
    """Output of `DisentangleHead`; ``d`` is 256, 512 with ``branch: both``, and ``D`` with ``projection: none``."""

    embeds: Tensor  # [B, d] of unit norm, to compare images by
    features: Tensor  # [B, d] before normalisation, which the classifier reads
    logits: Tensor | None  # [B, num_classes]
    id_embeds: Tensor | None  # [B, 256] of unit norm; None with branch clothing
    cloth_embeds: Tensor | None  # [B, 256] of unit norm; None with branch identity
    gate: Tensor | None  # [B, D] share of the identity branch, 0..1; None with disentangle.type none


class HeadLayers(nn.Module):
    """Layers of `DisentangleHead` under the names that they have in `T2IReIDModel`; `ImageEmbedder` has them too."""

    image_adapter: nn.Linear | None
    disentangle: DisentangleModule | None
    fusion: nn.Module
    classifier: nn.Linear | None

    def build_head(
        self,
        in_dim: int,
        num_classes: int,
        branch: str,
        disentangle: Mapping[str, Any],
        projection: str,
        projection_dropout: float,
        fusion: Mapping[str, Any],
        feature_map: bool,
    ) -> None:
        """Adds the layers; for the arguments see `DisentangleHead`."""
        check_branch(branch, disentangle, projection)
        self.branch = branch
        self.identity_weight = 0.5  # of the identity branch, with both
        width = disentangle_dim(disentangle, in_dim, feature_map)
        self.image_adapter = nn.Linear(in_dim, width) if width != in_dim else None
        self.disentangle = build_disentangle(disentangle, width)
        if projection == "mlp":
            self.shared_mlp = nn.Linear(width, SHARED_DIM)
            self.image_mlp = projection_mlp(SHARED_DIM, EMBED_DIM, projection_dropout)
        self.projection = projection
        self.feature_dim = (EMBED_DIM if projection == "mlp" else width) * (2 if branch == "both" else 1)
        if branch == "fused":
            fusion = {**DEFAULT_FUSION, **fusion}
            check_fusion(fusion, EMBED_DIM)
            check_choice("fusion.type", fusion["type"], ("enhanced_mamba", "gated_mamba"))
            self.fusion = build_fusion(fusion, width)
        self.classifier = nn.Linear(self.feature_dim, num_classes) if num_classes else None

    def apply_head(self, tokens: Tensor, grid: tuple[int, int] | None, classify: bool = True) -> HeadOutput:
        """Tokens ``[B, L, in_dim]`` and their grid to all outputs; without ``classify`` the logits are None."""
        if self.image_adapter is not None:
            tokens = self.image_adapter(tokens)
        identity, clothing, gate = disentangled(self.disentangle, tokens, grid)
        branches = [identity] * (self.branch != "clothing") + [clothing] * (self.branch != "identity")
        parts = [part for part in branches if part is not None]
        if self.projection == "mlp":
            parts = list(project(self.shared_mlp, self.image_mlp, parts))
        units = [F.normalize(part, dim=-1) for part in parts]
        if self.branch == "fused":
            features = self.fusion(*units)[0]
            embeds = F.normalize(features, dim=-1)
        else:
            features = torch.cat(parts, dim=-1)
            embeds = join(units[0], units[1], self.identity_weight) if self.branch == "both" else units[0]
        return HeadOutput(
            embeds=embeds,
            features=features,
            logits=self.classifier(features) if classify and self.classifier is not None else None,
            id_embeds=units[0] if self.branch != "clothing" else None,
            cloth_embeds=units[-1] if self.branch != "identity" else None,
            gate=gate,
        )


class DisentangleHead(HeadLayers):
    """Identity and clothing embeddings and logits from the tokens or the feature map of any image backbone.

    Args:
        in_dim: width of the tokens, or channels of the feature map.
        num_classes: training identities; 0 leaves out the classifier.
        branch: which embedding ``embeds`` and ``logits`` are of: ``identity``, ``clothing``, ``both`` side by side, or
            ``fused``, the output of a Mamba fusion over both.
        disentangle: ``type: none`` takes the class token, or the mean where there is none, in place of
            `DisentangleModule`; ``dim`` is the width that it reads, through a linear layer where it is not ``in_dim``;
            the other keys are its arguments.
        projection: ``mlp`` to 256 dimensions, or ``none``.
        projection_dropout: of that MLP.
        fusion: settings of the fusion with ``branch: fused``; its type is ``enhanced_mamba`` or ``gated_mamba``.
        feature_map: whether a feature map is read, whose default ``dim`` is at most 512.

    Raises:
        ConfigError: for an unknown choice or a value that cannot work.
    """

    def __init__(
        self,
        in_dim: int,
        num_classes: int = 0,
        branch: str = "identity",
        *,
        disentangle: Mapping[str, Any] | None = None,
        projection: str = "mlp",
        projection_dropout: float = 0.2,
        fusion: Mapping[str, Any] | None = None,
        feature_map: bool = True,
    ) -> None:
        super().__init__()
        self.build_head(
            in_dim,
            num_classes,
            branch,
            disentangle or {},
            projection,
            projection_dropout,
            fusion or {},
            feature_map,
        )

    def forward(self, features: Tensor, grid: tuple[int, int] | None = None) -> HeadOutput:
        """A feature map ``[B, in_dim, H, W]``, or tokens ``[B, L, in_dim]``, to embeddings and logits.

        ``grid``: rows and columns of patches, which are the last of the tokens; a feature map has its own. Without it
        all tokens count as patches without a grid, which ``window`` and ``stripes`` need.

        Raises:
            InputError: for features of another shape, or a training batch of one.
        """
        if features.dim() == 4:
            features, grid = flatten_map(features)
        if features.dim() != 3:
            raise InputError(f"features must be [B, C, H, W] or [B, L, D], not {list(features.shape)}")
        return self.apply_head(features, grid)


def build_disentangle(config: Mapping[str, Any], width: int) -> DisentangleModule | None:
    """Builds the `DisentangleModule` for tokens of this width; None for ``type: none``.

    Raises:
        ConfigError: for a width that the attentions' heads do not divide.
    """
    if config.get("type") == "none":
        return None
    if width % NUM_HEADS:
        raise ConfigError(
            f"vit_pretrained: hidden_size {width} must be a multiple of {NUM_HEADS}, the model's own heads; or set "
            "disentangle.dim"
        )
    arguments = {key: value for key, value in config.items() if key not in ("type", "dim")}
    return DisentangleModule(width, NUM_HEADS, **arguments)


def disentangled(
    module: DisentangleModule | None, tokens: Tensor, grid: tuple[int, int] | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Identity features, clothing features and gate ``[B, D]``; without a ``module`` the pooled token alone."""
    return (pooled_token(tokens, grid), None, None) if module is None else module(tokens, grid)


def projection_mlp(in_dim: int = SHARED_DIM, out_dim: int = EMBED_DIM, dropout: float = 0.2) -> nn.Sequential:
    """``[B, in_dim] -> [B, out_dim]``: BatchNorm, ReLU, Dropout, Linear, twice; the hidden width is ``out_dim``.

    Raises:
        ConfigError: unless ``dropout`` is from 0 to below 1.
    """
    if not 0 <= dropout < 1:
        raise ConfigError(f"projection_dropout: {dropout} must be from 0 to below 1")
    return nn.Sequential(
        nn.BatchNorm1d(in_dim),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(in_dim, out_dim),
        nn.BatchNorm1d(out_dim),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(out_dim, out_dim),
    )


def project(shared: nn.Module, mlp: nn.Module, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Each of ``features [n, D]`` to ``[n, 256]``, as one batch so that they share batch statistics.

    Raises:
        InputError: for a training batch of one.
    """
    sizes = [part.shape[0] for part in features]  # `len` would fix the batch of an exported graph
    if mlp.training and min(sizes) < 2:
        raise InputError("a training batch of 1: batch normalisation needs at least 2 samples; raise train.batch_size")
    return mlp(shared(torch.cat(list(features)))).split(sizes)
