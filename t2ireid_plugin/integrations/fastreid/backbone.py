"""The image side of `T2IReIDModel` as a backbone of FastReID, for its own meta-architectures and heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from fastreid.config import CfgNode
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from torch import Tensor, nn

from t2ireid_plugin.config import choose, to_dict
from t2ireid_plugin.errors import CheckpointError, ConfigError
from t2ireid_plugin.integrations.fastreid.checks import check_pixels
from t2ireid_plugin.integrations.fastreid.config import lower
from t2ireid_plugin.modeling.checkpoint import copy_state_dict, read_state_dict
from t2ireid_plugin.modeling.disentangle import build_disentangle
from t2ireid_plugin.modeling.encoders import IMAGE_KEY, Source, build_image_encoder
from t2ireid_plugin.modeling.heads import projection_mlp
from t2ireid_plugin.modeling.preprocess import image_preprocess
from t2ireid_plugin.modeling.t2ireid import EMBED_DIM, NUM_HEADS, SHARED_DIM
from t2ireid_plugin.modeling.towers import image_tokens, patch_size

BRANCHES = ("identity", "clothing", "both")


class T2IReIDBackbone(nn.Module):
    """Images to what `T2IReIDModel` normalises to its embeddings; its names, so that its weights fit.

    Args:
        source: the image encoder, see `build_image_encoder`.
        disentangle: ``{tokens, window}``, see `DisentangleModule`.
        branch: ``identity``, ``clothing``, or ``both`` one after the other.

    Raises:
        ConfigError: for an unknown branch, or a setting that cannot work.
        EncoderError: when the encoder's files are missing.
    """

    def __init__(self, source: Source, disentangle: Mapping[str, Any], branch: str = "identity") -> None:
        super().__init__()
        choose("T2IREID.BRANCH", branch, BRANCHES)
        self.branch = branch
        self.visual_encoder = build_image_encoder(source)
        self.preprocess = image_preprocess(source, self.visual_encoder.config)
        width: int = self.visual_encoder.config.hidden_size
        self.disentangle = build_disentangle(disentangle, width, NUM_HEADS)
        self.shared_mlp = nn.Linear(width, SHARED_DIM)
        self.image_mlp = projection_mlp(SHARED_DIM, EMBED_DIM)
        self.feature_dim = EMBED_DIM * (2 if branch == "both" else 1)

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to ``[B, C, 1, 1]``, not normalised; ``C`` is `feature_dim`."""
        rows, columns = patch_size(self.visual_encoder.config)
        grid = images.shape[2] // rows, images.shape[3] // columns
        identity, clothing, _ = self.disentangle(image_tokens(self.visual_encoder, images), grid)
        chosen = {"identity": [identity], "clothing": [clothing], "both": [identity, clothing]}[self.branch]
        # One batch, for the sake of its statistics, as in `T2IReIDModel`.
        embeds = self.image_mlp(self.shared_mlp(torch.cat(chosen))).split(len(images))
        return torch.cat(embeds, dim=1)[..., None, None]


@BACKBONE_REGISTRY.register()
def build_t2ireid_backbone(cfg: CfgNode) -> T2IReIDBackbone:
    """From ``T2IREID``; with ``MODEL.BACKBONE.PRETRAIN``, filled from the checkpoint ``MODEL.BACKBONE.PRETRAIN_PATH``.

    Raises:
        ConfigError: when ``MODEL.BACKBONE.FEAT_DIM`` or ``INPUT`` do not fit, or as `T2IReIDBackbone`.
        CheckpointError: when the checkpoint is missing or fits nothing.
    """
    node, stock = cfg.T2IREID, cfg.MODEL.BACKBONE
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
            copy_state_dict(read_state_dict(stock.PRETRAIN_PATH), backbone)
        except CheckpointError as error:
            raise CheckpointError(f"MODEL.BACKBONE.PRETRAIN_PATH: {error}") from error
    return backbone
