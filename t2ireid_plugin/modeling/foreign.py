"""Weights of CLIP by OpenAI and of models built on it, as IRRA's and RDE's ``best.pth``, under our names.

TBPS-CLIP's checkpoint is such a model with its text encoder below ``encode_text.``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

_IMAGE, _TEXT, _IRR, _TSE = "visual_encoder.", "text_encoder.", "losses.terms.irr.", "token_selection."
# Names without blocks, of parameters or of modules with a weight and a bias.
_NAMES = {
    "visual.conv1": f"{_IMAGE}embeddings.patch_embedding",
    "visual.class_embedding": f"{_IMAGE}embeddings.class_embedding",
    "visual.positional_embedding": f"{_IMAGE}embeddings.position_embedding.weight",
    "visual.ln_pre": f"{_IMAGE}pre_layrnorm",
    "visual.ln_post": f"{_IMAGE}post_layernorm",
    "visual.proj": "image_adapter.weight",  # transposed
    "text_projection": "text_adapter.weight",  # transposed
    "token_embedding": f"{_TEXT}embeddings.token_embedding",
    "positional_embedding": f"{_TEXT}embeddings.position_embedding.weight",
    "ln_final": f"{_TEXT}final_layer_norm",
    # IRRA's heads
    "classifier": "losses.terms.id_features.classifier",
    **{name: f"{_IRR}{name}" for name in ("ln_pre_t", "ln_pre_i", "ln_post", "cross_attn.out_proj")},
    **{f"cross_attn.in_proj_{part}": f"{_IRR}cross_attn.in_proj_{part}" for part in ("weight", "bias")},
    **{f"mlm_head.{name}": f"{_IRR}mlm_head.{place}" for name, place in (("dense", 0), ("ln", 2), ("fc", 3))},
    # RDE's second embedding; its `visul_emb_layer.linear` and `mlp.bns.1` are not used by its code either
    "visul_emb_layer.fc": f"{_TSE}image.linear",
    "texual_emb_layer.linear": f"{_TSE}text.linear",
    **{
        f"{theirs}.mlp.{name}": f"{_TSE}{side}.mlp.{place}"
        for theirs, side in (("visul_emb_layer", "image"), ("texual_emb_layer", "text"))
        for name, place in (("layers.0", 0), ("bns.0", 1), ("layers.1", 3))
    },
}
# TBPS-CLIP's heads, the scale under each name that the one parameter has, see `losses.itc`
_NAMES |= {f"simclr_mlp.{i}": f"losses.terms.simclr.mlp.{i}" for i in (0, 2)}
_SCALED = ("n_itc", "n_itc_view", "r_itc")
_TRANSPOSED = ("visual.proj", "text_projection")
_BLOCK = re.compile(r"(visual\.transformer|transformer|cross_modal_transformer)\.resblocks\.(\d+)\.(.+)")
_PARTS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_CROSS_PARTS = {  # of `nn.TransformerEncoderLayer`
    "ln_1": "norm1",
    "ln_2": "norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "linear1",
    "mlp.c_proj": "linear2",
}


def is_openai(state: Mapping[str, Tensor]) -> bool:
    """True for the names of OpenAI's CLIP, as they are or below ``base_model.``, as IRRA, RDE and ITSELF have them."""
    return any(f"{prefix}visual.conv1.weight" in state for prefix in ("", "base_model."))


def from_openai(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under our names, and in float32 for float16; a tensor without such a name keeps its own.

    Names of heads begin with ``losses.``, see `LossTerms`.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        renamed.update(_renamed(name.removeprefix("base_model.").removeprefix("encode_text."), tensor))
    renamed["scale"] = torch.ones(1)  # of a fusion, which these models do not have
    return renamed


def _renamed(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Our name, or names, of a tensor with its part of the values."""
    tensor = tensor.float() if tensor.dtype == torch.float16 else tensor
    module, _, parameter = name.rpartition(".")
    if name in _NAMES:
        yield _NAMES[name], tensor.T if name in _TRANSPOSED else tensor
    elif module in _NAMES:
        yield f"{_NAMES[module]}.{parameter}", tensor
    elif name == "logit_scale":
        yield from ((f"losses.terms.{term}.logit_scale", tensor) for term in _SCALED)
    elif block := _BLOCK.fullmatch(name):
        yield from _of_block(block[1], block[2], block[3], tensor)
    else:
        yield name, tensor


def _of_block(tower: str, number: str, rest: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    cross = tower == "cross_modal_transformer"
    prefix = _IRR + tower if cross else f"{_IMAGE if 'visual' in tower else _TEXT}encoder.layers"
    module, _, parameter = rest.rpartition(".")
    if module in _PARTS:
        yield f"{prefix}.{number}.{(_CROSS_PARTS if cross else _PARTS)[module]}.{parameter}", tensor
    elif rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
        if cross:
            yield f"{prefix}.{number}.self_{rest}", tensor
        else:
            for own, part in zip("qkv", tensor.chunk(3)):
                yield f"{prefix}.{number}.self_attn.{own}_proj.{rest.rpartition('_')[2]}", part
    else:
        yield f"{tower}.resblocks.{number}.{rest}", tensor
