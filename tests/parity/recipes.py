"""What comparisons with the authors' code share: our tiny CLIP as a recipe builds it, and steps under their names."""

import numpy as np
import parity.irra_weights as tiny
import torch
from transformers import CLIPTextConfig, CLIPVisionConfig

from t2ireid_plugin.config import to_dict
from t2ireid_plugin.modeling.encoders.tokenizer import learn_wordpiece
from t2ireid_plugin.modeling.foreign import from_openai
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel

_LAYERS = {"hidden_size": tiny.WIDTH, "num_hidden_layers": tiny.LAYERS, "num_attention_heads": 1}
_LAYERS |= {"intermediate_size": 4 * tiny.WIDTH, "projection_dim": tiny.WIDTH}


def build_clip(cfg, side):
    """The model of a recipe with a tiny CLIP for images of `side` pixels."""
    return T2IReIDModel(
        {
            "vit_pretrained": CLIPVisionConfig(image_size=side, patch_size=tiny.PATCH, **_LAYERS),
            "bert_base_path": CLIPTextConfig(vocab_size=tiny.VOCAB, max_position_embeddings=tiny.CONTEXT, **_LAYERS),
            "tokenizer": learn_wordpiece(["a man"], 40),
            "num_classes": tiny.CLASSES,
            "max_length": tiny.CONTEXT,
            "freeze_text": cfg.model.freeze_text,
            "projection": cfg.model.projection,
            **{name: to_dict(cfg.model[name]) for name in ("disentangle", "fusion", "token_selection")},
        }
    )


def values_of(model, losses):
    """Copies of all parameters and statistics, by the names that the optimizer uses."""
    states = *model.state_dict().items(), *((f"losses.{name}", x) for name, x in losses.state_dict().items())
    return {name: value.clone() for name, value in states}


def in_their_names(values, shapes):
    """The same values under the authors' names, each flat; 0 where the table of names has none of ours."""
    for name, shape in shapes.items():
        index = torch.arange(int(np.prod(shape))).double().reshape(shape)  # says where each of our parts comes from
        flat = torch.zeros(index.numel(), dtype=torch.float64)
        for own, places in from_openai({name: index}).items():
            if own in values and own != "scale":
                flat[places.flatten().long()] = values[own].flatten()
        yield name, flat


def summary(step):
    """The numbers of a parameter's step that the make scripts keep."""
    return [step.sum(), step.abs().sum(), *step[:2]]
