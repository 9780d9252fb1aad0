"""The image side of `T2IReIDModel` as a backbone of FastReID, for its own meta-architectures and heads."""

from __future__ import annotations

import torch
from fastreid.config import CfgNode
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from torch import Tensor

from t2ireid_plugin.config import to_dict
from t2ireid_plugin.errors import CheckpointError, ConfigError, check_choice
from t2ireid_plugin.integrations.fastreid.checks import check_pixels
from t2ireid_plugin.integrations.fastreid.config import lower
from t2ireid_plugin.modeling.checkpoint import load_weights
from t2ireid_plugin.modeling.encoders.loading import IMAGE_KEY
from t2ireid_plugin.modeling.image_embedder import BRANCHES, ImageEmbedder


class T2IReIDBackbone(ImageEmbedder):
    """Images to what `T2IReIDModel` normalises to its embeddings; arguments and errors are those of `ImageEmbedder`."""

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to ``[B, C, 1, 1]``, not normalised; ``C`` is `feature_dim`."""
        return torch.cat(self.embed(images), dim=1)[..., None, None]


@BACKBONE_REGISTRY.register()
def build_t2ireid_backbone(cfg: CfgNode) -> T2IReIDBackbone:
    """From ``T2IREID``; with ``MODEL.BACKBONE.PRETRAIN``, filled from the checkpoint ``MODEL.BACKBONE.PRETRAIN_PATH``.

    Raises:
        ConfigError: when ``MODEL.BACKBONE.FEAT_DIM`` or ``INPUT`` do not fit, or as `T2IReIDBackbone`.
        CheckpointError: when the checkpoint is missing or fits nothing.
    """
    node, stock = cfg.T2IREID, cfg.MODEL.BACKBONE
    check_choice("T2IREID.BRANCH", node.BRANCH, BRANCHES)
    backbone = T2IReIDBackbone(node.VIT_PRETRAINED or to_dict(node.VIT_CONFIG), lower(node.DISENTANGLE), node.BRANCH)
    if backbone.feature_dim != stock.FEAT_DIM:
        raise ConfigError(
            f"MODEL.BACKBONE.FEAT_DIM: {stock.FEAT_DIM} must be {backbone.feature_dim}, the width of T2IREID.BRANCH "
            f"{node.BRANCH}"
        )
    check_pixels(cfg, backbone.preprocess, backbone.visual_encoder.config)
    if stock.PRETRAIN:
        if not stock.PRETRAIN_PATH:
            raise ConfigError(
                "MODEL.BACKBONE.PRETRAIN needs MODEL.BACKBONE.PRETRAIN_PATH, a checkpoint of a run; the image "
                f"encoder's own weights are T2IREID.VIT_PRETRAINED ({IMAGE_KEY})"
            )
        try:
            load_weights(stock.PRETRAIN_PATH, backbone)
        except CheckpointError as error:
            raise CheckpointError(f"MODEL.BACKBONE.PRETRAIN_PATH: {error}") from error
    return backbone
