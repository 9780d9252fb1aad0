"""Image branch of `T2IReIDModel` as a FastReID backbone, for FastReID's meta-architectures and heads."""

from __future__ import annotations

from fastreid.config import CfgNode
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from torch import Tensor

from t2ireid_plugin.config import to_dict
from t2ireid_plugin.errors import CheckpointError
from t2ireid_plugin.integrations.fastreid.checks import check_image_encoder
from t2ireid_plugin.integrations.fastreid.config import lower
from t2ireid_plugin.modeling.checkpoint import load_weights
from t2ireid_plugin.modeling.image_embedder import ImageEmbedder, check_pixels


class T2IReIDBackbone(ImageEmbedder):
    """Embeddings of `T2IReIDModel` before normalisation; arguments and errors as for `ImageEmbedder`."""

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` to ``[B, feature_dim, 1, 1]``."""
        check_pixels(images)
        return self.embed(images).features[..., None, None]


@BACKBONE_REGISTRY.register()
def build_t2ireid_backbone(cfg: CfgNode) -> T2IReIDBackbone:
    """Builds the backbone from ``T2IREID``; ``MODEL.BACKBONE.PRETRAIN`` loads the checkpoint ``PRETRAIN_PATH``.

    Raises:
        ConfigError: when ``FEAT_DIM`` or ``INPUT`` do not fit, or as `T2IReIDBackbone`.
        CheckpointError: when the checkpoint is missing, or no tensor in it fits.
    """
    node, stock = cfg.T2IREID, cfg.MODEL.BACKBONE
    source = node.VIT_PRETRAINED or to_dict(node.VIT_CONFIG)
    others = {"branch": node.BRANCH, "projection_dropout": node.PROJECTION_DROPOUT}
    backbone = T2IReIDBackbone(source, lower(node.DISENTANGLE), **others)
    check_image_encoder(cfg, backbone.preprocess, backbone.visual_encoder.config, backbone.feature_dim)
    if stock.PRETRAIN:
        try:
            load_weights(stock.PRETRAIN_PATH, backbone)
        except CheckpointError as error:
            raise CheckpointError(f"MODEL.BACKBONE.PRETRAIN_PATH: {error}") from error
    return backbone
