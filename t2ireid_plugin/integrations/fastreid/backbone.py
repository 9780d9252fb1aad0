"""Image backbones between FastReID and this package, in both directions.

``build_t2ireid_backbone`` and ``build_t2ireid_encoder`` are ours for FastReID's meta-architectures; `image_source` is
the image encoder of `T2IReIDBaseline`, which may be any of FastReID's.
"""

from __future__ import annotations

from typing import Any

from fastreid.config import CfgNode
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from fastreid.utils import comm
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from t2ireid_plugin.config import to_dict
from t2ireid_plugin.errors import CheckpointError
from t2ireid_plugin.integrations.fastreid.checks import check_image_encoder
from t2ireid_plugin.integrations.fastreid.config import lower
from t2ireid_plugin.integrations.fastreid.parts import (
    HEAD,
    OWN_BACKBONES,
    check_parts,
    check_pool_layer,
)
from t2ireid_plugin.modeling.checkpoint import load_weights
from t2ireid_plugin.modeling.encoders.backbones import ImageTokens, image_reader, pooled_token
from t2ireid_plugin.modeling.encoders.libraries import LibraryConfig, LibraryModel
from t2ireid_plugin.modeling.encoders.loading import Source, build_image_encoder
from t2ireid_plugin.modeling.encoders.preprocess import image_preprocess
from t2ireid_plugin.modeling.image_embedder import ImageEmbedder, check_class_token, check_pixels


class T2IReIDBackbone(ImageEmbedder):
    """Embeddings of `T2IReIDModel` before normalisation; arguments and errors as for `ImageEmbedder`."""

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` to ``[B, feature_dim, 1, 1]``."""
        check_pixels(images)
        return connected(self.embed(images).features[..., None, None], self)


class EncoderBackbone(nn.Module):
    """An image encoder of Hugging Face, torchreid or timm alone.

    Args:
        source: see `build_image_encoder`.
        all_tokens: return all tokens, as `DisentangleHead` reads them.
    """

    def __init__(self, source: Source, all_tokens: bool) -> None:
        super().__init__()
        self.visual_encoder = build_image_encoder(source)
        self.preprocess = image_preprocess(source, self.visual_encoder.config)
        self.reader, self.all_tokens = image_reader(self.visual_encoder.config), all_tokens

    def forward(self, images: Tensor) -> Tensor | ImageTokens:
        """Images ``[B, 3, H, W]`` to a map ``[B, D, h, w]``, or ``[B, D, 1, 1]`` of an encoder with patches.

        The latter is the class token, or the mean where there is none. With ``all_tokens`` it is the tokens.
        """
        tokens, grid = self.reader.read(self.visual_encoder, images)
        if self.all_tokens:
            return ImageTokens(tokens, grid)
        if self.reader.feature_map:
            return tokens.transpose(1, 2).unflatten(2, grid)  # [B, L, D] to [B, D, h, w]
        return pooled_token(tokens, grid)[..., None, None]


@BACKBONE_REGISTRY.register()
def build_t2ireid_backbone(cfg: CfgNode) -> T2IReIDBackbone:
    """Builds the backbone from ``T2IREID``; ``MODEL.BACKBONE.PRETRAIN`` loads the checkpoint ``PRETRAIN_PATH``.

    Raises:
        ConfigError: when ``FEAT_DIM`` or ``INPUT`` do not fit, or as `T2IReIDBackbone` and `check_parts`.
        CheckpointError: when the checkpoint is missing, or no tensor in it fits.
    """
    check_parts(cfg)
    backbone = T2IReIDBackbone(_own_source(cfg), **head_options(cfg))
    check_image_encoder(cfg, backbone.preprocess, backbone.visual_encoder.config, backbone.feature_dim)
    return _pretrained(cfg, backbone)


@BACKBONE_REGISTRY.register()
def build_t2ireid_encoder(cfg: CfgNode) -> EncoderBackbone:
    """Builds the encoder of ``T2IREID.VIT_PRETRAINED`` or ``VIT_CONFIG``; ``PRETRAIN`` as `build_t2ireid_backbone`.

    Raises:
        ConfigError, CheckpointError: as `build_t2ireid_backbone`.
        EncoderError: as `build_image_encoder`.
    """
    check_parts(cfg)
    backbone = EncoderBackbone(_own_source(cfg), all_tokens=cfg.MODEL.HEADS.NAME == HEAD)
    check_image_encoder(cfg, backbone.preprocess, backbone.visual_encoder.config, backbone.reader.width)
    if backbone.all_tokens:
        check_class_token(lower(cfg.T2IREID.DISENTANGLE), backbone.visual_encoder)
    else:
        check_pool_layer(cfg, backbone.reader.feature_map)
    return _pretrained(cfg, backbone)


def head_options(cfg: CfgNode) -> dict[str, Any]:
    """Arguments that `DisentangleHead` and `ImageEmbedder` share, from ``T2IREID``."""
    node = cfg.T2IREID
    return {
        "branch": node.BRANCH,
        "disentangle": lower(node.DISENTANGLE),
        "projection": node.PROJECTION,
        "projection_dropout": node.PROJECTION_DROPOUT,
        "fusion": lower(node.FUSION),
    }


def image_source(cfg: CfgNode) -> Source:
    """The image encoder that ``MODEL.BACKBONE.NAME`` names, for `T2IReIDModel`."""
    if cfg.MODEL.BACKBONE.NAME in OWN_BACKBONES:
        return _own_source(cfg)
    mean, std = (tuple(value / 255 for value in cfg.MODEL[key]) for key in ("PIXEL_MEAN", "PIXEL_STD"))
    return FastReIDConfig(
        architecture=cfg.MODEL.BACKBONE.NAME,
        image_size=tuple(cfg.INPUT.SIZE_TRAIN),
        image_mean=mean,
        image_std=std,
        settings=to_dict(cfg),
    )


class FastReIDConfig(LibraryConfig):
    """A backbone of FastReID's; ``settings`` is FastReID's whole configuration."""

    model_type = "fastreid"
    __init__ = LibraryConfig.__init__  # transformers 5 would make one of its own


class FastReIDModel(LibraryModel):
    """The features of a backbone in FastReID's registry, ``[B, D, h, w]``."""

    config_class = FastReIDConfig

    def create(self, architecture: str, pretrained: bool) -> nn.Module:
        """FastReID's backbone, with pretrained weights if its own ``MODEL.BACKBONE.PRETRAIN`` is set."""
        network: nn.Module = BACKBONE_REGISTRY.get(architecture)(CfgNode(self.config.settings))
        return network

    def features(self, images: Tensor) -> Tensor:
        """The map ``[B, D, h, w]``."""
        feature_map: Tensor = self.network(images)
        return feature_map

    def describe(self) -> None:
        """The width, from an image of the size in the configuration, since FastReID's ViT reads no other."""
        self.config.hidden_size = self._probe(*self.config.image_size)[1]


AutoConfig.register(FastReIDConfig.model_type, FastReIDConfig)
AutoModel.register(FastReIDConfig, FastReIDModel)


def connected(value: Tensor, module: nn.Module) -> Tensor:
    """The value, in training on several GPUs with a gradient of 0 for parameters that it does not depend on.

    FastReID's DistributedDataParallel waits for the gradient of every parameter.
    """
    if not module.training or comm.get_world_size() == 1:
        return value
    return value + 0.0 * sum(parameter.sum() for parameter in module.parameters() if parameter.requires_grad)


def _own_source(cfg: CfgNode) -> Source:
    return cfg.T2IREID.VIT_PRETRAINED or to_dict(cfg.T2IREID.VIT_CONFIG)


def _pretrained(cfg: CfgNode, backbone: Any) -> Any:
    """The backbone, with the weights of ``PRETRAIN_PATH`` if ``PRETRAIN`` is set."""
    if cfg.MODEL.BACKBONE.PRETRAIN:
        try:
            load_weights(cfg.MODEL.BACKBONE.PRETRAIN_PATH, backbone)
        except CheckpointError as error:
            raise CheckpointError(f"MODEL.BACKBONE.PRETRAIN_PATH: {error}") from error
    return backbone
