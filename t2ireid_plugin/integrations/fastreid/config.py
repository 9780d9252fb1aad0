"""Our keys in FastReID's configuration: all under ``T2IREID``."""

from __future__ import annotations

import inspect
from typing import Any

from fastreid.config import CfgNode

from t2ireid_plugin.config import to_dict
from t2ireid_plugin.losses.terms import LOSSES, SUPPLIED, arguments_of
from t2ireid_plugin.modeling.t2ireid import DEFAULT_FUSION


def add_t2ireid_config(cfg: CfgNode) -> None:
    """Adds our keys and their defaults to a configuration of FastReID, before files are merged into it.

    FastReID refuses keys that it does not know, and so does ``T2IREID``; only ``VIT_CONFIG`` and ``BERT_CONFIG``
    take the keys of Hugging Face's configurations, and those from files alone.
    """
    node = cfg.T2IREID = CfgNode()
    # Encoders: a folder or a hub id; with "" the encoder is built with random weights from its *_CONFIG.
    node.VIT_PRETRAINED = ""
    node.VIT_CONFIG = CfgNode(new_allowed=True)
    node.BERT_BASE_PATH = ""
    # vocab_size in it is the size of the vocabulary learned from the training captions.
    node.BERT_CONFIG = CfgNode(new_allowed=True)
    node.FREEZE_TEXT = True
    node.MAX_LENGTH = 64
    node.DISENTANGLE = CfgNode({"TOKENS": "all", "WINDOW": 5})
    node.FUSION = CfgNode({key.upper(): value for key, value in DEFAULT_FUSION.items()})
    # What the backbone for images alone gives: identity, clothing or both.
    node.BRANCH = "identity"
    # Which text of an item the model reads as which: caption, identity or clothing.
    node.ID_INSTRUCTION = "caption"
    node.CLOTH_INSTRUCTION = "clothing"
    # Of the training identities, held out where a set has no val split and its name with _val is in DATASETS.TESTS.
    node.VAL_SHARE = 0.05
    node.VAL_SEED = 0
    # Factor on SOLVER.BASE_LR for the image and the text encoder.
    node.ENCODER_LR_FACTOR = 1.0
    # The training terms by name; each with its weight, 0 leaves it out, and its arguments.
    node.LOSSES = CfgNode({name: _loss_defaults(name) for name in LOSSES})


def _loss_defaults(name: str) -> dict[str, Any]:
    parameters = inspect.signature(LOSSES[name]).parameters
    own = [argument for argument in arguments_of(LOSSES[name]) if argument not in SUPPLIED]
    return {"weight": 0.0, **{argument: parameters[argument].default for argument in own}}


def lower(node: CfgNode) -> dict[str, Any]:
    """A table of ours as the model's builders take it."""
    return {key.lower(): value for key, value in to_dict(node).items()}
