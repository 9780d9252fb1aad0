"""Checks that the parts that a configuration names exist and fit each other, and that they read all its settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastreid.config import CfgNode, get_cfg
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY

from t2ireid_plugin.errors import ConfigError, check_choice, short_repr
from t2ireid_plugin.integrations.fastreid.config import add_t2ireid_config

TEXT_IMAGE = "T2IReIDBaseline"  # the meta-architecture
LOSS_HEAD = "T2IReIDHead"  # its head
HEAD = "DisentangleHead"
IMAGE_BRANCH, ENCODER = OWN_BACKBONES = ("build_t2ireid_backbone", "build_t2ireid_encoder")
_REGISTRIES = {
    "META_ARCHITECTURE": META_ARCH_REGISTRY,
    "BACKBONE.NAME": BACKBONE_REGISTRY,
    "HEADS.NAME": REID_HEADS_REGISTRY,
}


def check_parts(cfg: CfgNode) -> None:
    """Checks the names of meta-architecture, backbone and head, their combination, and that no setting is ignored.

    Raises:
        ConfigError: naming the key, its value and what is valid.
    """
    arch, backbone, head = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.BACKBONE.NAME, cfg.MODEL.HEADS.NAME
    for (key, registry), name in zip(_REGISTRIES.items(), (arch, backbone, head)):
        check_choice(f"MODEL.{key}", name, vars(registry)["_obj_map"])  # FastReID has no public list
    if head == LOSS_HEAD and arch != TEXT_IMAGE:
        raise ConfigError(f"MODEL.HEADS.NAME: {head} needs MODEL.META_ARCHITECTURE {TEXT_IMAGE}, not {arch}")
    if arch != TEXT_IMAGE and head == HEAD and backbone == IMAGE_BRANCH:
        raise ConfigError(f"MODEL.HEADS.NAME: {backbone} contains the {HEAD}; take EmbeddingHead, or {ENCODER}")
    if arch != TEXT_IMAGE and (head == HEAD or backbone == IMAGE_BRANCH):
        check_pool_layer(cfg, feature_map=False)
    if backbone != ENCODER and head == HEAD and cfg.T2IREID.DISENTANGLE.TOKENS == "cls":
        raise ConfigError(f"T2IREID.DISENTANGLE.TOKENS: 'cls' needs a class token, which {backbone} does not return")
    _check_used(cfg)


def check_pool_layer(cfg: CfgNode, feature_map: bool) -> None:
    """Checks that FastReID's pooling reads a ``feature_map``, and nothing that is pooled already.

    Raises:
        ConfigError: naming the key.
    """
    layer, vectors = cfg.MODEL.HEADS.POOL_LAYER, ("Identity", "Flatten")
    if feature_map and layer in vectors:
        raise ConfigError(f"MODEL.HEADS.POOL_LAYER: {layer} leaves a feature map; set it to GlobalAvgPool, for example")
    if not feature_map and layer != "Identity":
        parts = f"{cfg.MODEL.BACKBONE.NAME} with {cfg.MODEL.HEADS.NAME}"
        raise ConfigError(f"MODEL.HEADS.POOL_LAYER: {layer} has no map to pool in {parts}; set it to Identity")


def _check_used(cfg: CfgNode) -> None:
    """Checks that the parts read every setting of the model that differs from its default."""
    arch, backbone, head = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.BACKBONE.NAME, cfg.MODEL.HEADS.NAME
    text, own = arch == TEXT_IMAGE, backbone in OWN_BACKBONES
    disentangles = text or head == HEAD or backbone == IMAGE_BRANCH
    is_read = {  # the first that begins the key
        "MODEL.BACKBONE.NAME": True,
        "MODEL.BACKBONE.FEAT_DIM": True,
        "MODEL.BACKBONE.PRETRAIN": not (own and text),
        "MODEL.BACKBONE.": not own,
        "MODEL.HEADS.NAME": True,
        "MODEL.HEADS.NUM_CLASSES": True,
        "MODEL.HEADS.": not text,
        "MODEL.LOSSES.": not text,
        "T2IREID.VIT_": own,
        "T2IREID.ENCODER_LR_FACTOR": own or text,
        "T2IREID.BRANCH": disentangles and not text,
        "T2IREID.DISENTANGLE.": disentangles,
        "T2IREID.PROJECTION": disentangles,
        "T2IREID.FUSION.": text or (disentangles and cfg.T2IREID.BRANCH == "fused"),
        "T2IREID.": text,
    }
    defaults = get_cfg()
    add_t2ireid_config(defaults)
    for key, value in _changed(cfg, defaults):
        if not next((read for start, read in is_read.items() if key.startswith(start)), True):
            raise ConfigError(f"{key}: {short_repr(value)} has no effect with {arch}, {backbone} and {head}; remove it")


def _changed(node: CfgNode, default: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values where they differ from the default."""
    for key, value in node.items():
        old = default.get(key)
        if isinstance(value, CfgNode) and isinstance(old, CfgNode):
            yield from _changed(value, old, f"{prefix}{key}.")
        elif value != old:
            yield f"{prefix}{key}", value
