"""A tiny TBPS-CLIP: settings, weights, a batch and a checkpoint, the same wherever they are made."""

import sys
import types

import numpy as np
import torch
from parity import irra_weights as clip

SIDE, HIDDEN = clip.GRID * clip.PATCH, 16  # square images of 3 x 3 patches
EPOCH, SOFT = 0.6, 0.3  # the share of the model's own answer in the targets of N-ITC at this time
SCALE = np.log(100) + 0.05  # above its limit
STEPS_PER_EPOCH = 20
IMAGES = ("image", "aug1", "aug_ss_1", "aug_ss_2")  # the authors' names of the views


def shapes(tokens=clip.VOCAB):
    """Names and shapes of the authors' model but for its scale."""
    names = clip.shapes()[0] | {"token_embedding.weight": (tokens, clip.WIDTH)}
    named = {name if name.startswith("visual.") else f"encode_text.{name}": shape for name, shape in names.items()}
    for place, out, into in ((0, HIDDEN, clip.WIDTH), (2, clip.WIDTH, HIDDEN)):
        named |= {f"simclr_mlp.{place}.weight": (out, into), f"simclr_mlp.{place}.bias": (out,)}
    return named


def weights(tokens=clip.VOCAB):
    """Arrays by name."""
    return clip.weights(shapes(tokens)) | {"logit_scale": np.array(SCALE)}


def batch():
    """Images by the authors' names, and captions as tokens."""
    _, tokens, _ = clip.batch()
    return {name: clip.random(name, (len(tokens), 3, SIDE, SIDE)) for name in IMAGES}, tokens


def write_best(file, tokens):
    """Writes a checkpoint of the authors' training, whose settings are an EasyDict; returns its weights."""
    module = types.ModuleType("easydict")

    class EasyDict(dict):
        """As the package's: entries are attributes as well."""

        def __init__(self, **entries):
            super().__init__(entries)
            vars(self).update(entries)

    EasyDict.__module__, EasyDict.__qualname__ = "easydict", "EasyDict"
    module.EasyDict = EasyDict
    state = {name: torch.tensor(array, dtype=torch.float32) for name, array in weights(tokens).items()}
    config = EasyDict(device="cuda:0", model=EasyDict(embed_dim=512, checkpoint="ViT-B-16.pt"))
    sys.modules["easydict"] = module
    try:
        torch.save({"model": state, "optimizer": {"state": {}, "param_groups": []}, "config": config}, file)
    finally:
        del sys.modules["easydict"]
    return state
