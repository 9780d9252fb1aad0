"""Our keys in FastReID's configuration, all under ``T2IREID``."""

from __future__ import annotations

from typing import Any

from fastreid.config import CfgNode

from t2ireid_plugin.config import to_dict
from t2ireid_plugin.losses.terms import LOSSES, arguments_of
from t2ireid_plugin.modeling.settings import DEFAULT_DISENTANGLE, DEFAULT_FUSION


def add_t2ireid_config(cfg: CfgNode) -> None:
    """Adds our keys and their defaults to a configuration of FastReID, before files are merged into it.

    Unknown keys are errors, except in ``VIT_CONFIG`` and ``BERT_CONFIG``, which take the keys of Hugging Face's
    configurations; those can be set in files only, not on the command line.
    """
    node = cfg.T2IREID = CfgNode()
    # Encoders: a folder or a hub id, for images also torchreid:NAME or timm:NAME; with "" the encoder is built with
    # random weights from its *_CONFIG.
    node.VIT_PRETRAINED = ""
    node.VIT_CONFIG = CfgNode(new_allowed=True)
    node.BERT_BASE_PATH = ""
    # Its vocab_size is the size of the vocabulary that is learned from the training captions.
    node.BERT_CONFIG = CfgNode(new_allowed=True)
    node.FREEZE_TEXT = True
    node.FREEZE_IMAGE = False
    node.MAX_LENGTH = 64
    node.PROJECTION = "mlp"  # or none
    node.PROJECTION_DROPOUT = 0.2
    node.DISENTANGLE = CfgNode({key.upper(): value for key, value in DEFAULT_DISENTANGLE.items()})
    node.FUSION = CfgNode({key.upper(): value for key, value in DEFAULT_FUSION.items()})
    # Embedding of a model for images alone: identity, clothing, both, or fused (both, fused by FUSION).
    node.BRANCH = "identity"
    # Texts of the two branches: caption or identity, caption or clothing; images are ranked by them.
    node.ID_INSTRUCTION = "identity"
    node.CLOTH_INSTRUCTION = "clothing"
    # Share of the identity branch in the ranking by both branches, which ID_INSTRUCTION identity means.
    node.IDENTITY_WEIGHT = 0.5
    # Share of training identities held out for <dataset>_val in DATASETS.TESTS if the dataset has no val split.
    node.VAL_SHARE = 0.05
    node.VAL_SEED = 0
    # Factor on SOLVER.BASE_LR for the image and the text encoder.
    node.ENCODER_LR_FACTOR = 1.0
    # Loss terms by name, with their arguments; weight 0 switches a term off.
    node.LOSSES = CfgNode({name: {"weight": 0.0, **arguments_of(name)} for name in LOSSES})


def lower(node: CfgNode) -> dict[str, Any]:
    """A table of ours with the model's lower-case keys."""
    return {key.lower(): value for key, value in to_dict(node).items()}
