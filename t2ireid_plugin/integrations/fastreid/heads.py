"""`DisentangleHead` as a head of FastReID, behind any backbone."""

from __future__ import annotations

from typing import Any

from fastreid.config import CfgNode, configurable
from fastreid.modeling.heads import REID_HEADS_REGISTRY, EmbeddingHead
from torch import Tensor

from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.integrations.fastreid.backbone import connected, head_options
from t2ireid_plugin.integrations.fastreid.parts import check_parts
from t2ireid_plugin.modeling import head
from t2ireid_plugin.modeling.encoders.backbones import ImageTokens


class DisentanglePooling(head.DisentangleHead):
    """Embedding of `DisentangleHead` before normalisation, in the place of FastReID's pooling."""

    def __init__(self, in_dim: int, **options: Any) -> None:
        super().__init__(in_dim, **options)
        self.in_dim = in_dim

    def forward(self, features: Tensor | ImageTokens) -> Tensor:  # type: ignore[override]
        """A feature map ``[B, C, h, w]``, or tokens with their grid, to ``[B, feature_dim, 1, 1]``.

        Raises:
            ConfigError: for features of another width than ``FEAT_DIM``.
        """
        tokens, grid = features if isinstance(features, tuple) else (features, None)
        width = tokens.shape[1 if tokens.dim() == 4 else 2]
        if width != self.in_dim:
            raise ConfigError(
                f"MODEL.BACKBONE.FEAT_DIM: {self.in_dim} must be {width}, the width of the backbone's features"
            )
        return connected(super().forward(tokens, grid).features[..., None, None], self)


@REID_HEADS_REGISTRY.register()
class DisentangleHead(EmbeddingHead):
    """FastReID's `EmbeddingHead` with our `DisentangleHead` in the place of its pooling.

    FastReID's neck, classification layer and losses read the embedding of ``T2IREID.BRANCH``; in eval mode it is the
    feature by which images are compared.

    Args:
        pooling: the module.
        **kwargs: FastReID's.
    """

    @configurable
    def __init__(self, *, pooling: DisentanglePooling, **kwargs: Any) -> None:
        super().__init__(feat_dim=pooling.feature_dim, pool_type="Identity", **kwargs)
        self.pool_layer = pooling

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Builds the arguments from ``MODEL.HEADS`` and ``T2IREID``.

        Raises:
            ConfigError: as our `DisentangleHead` and `check_parts`.
        """
        check_parts(cfg)
        stock = super().from_config(cfg)
        pooling = DisentanglePooling(stock.pop("feat_dim"), **head_options(cfg))
        stock.pop("pool_type")
        return {"pooling": pooling, **stock}
