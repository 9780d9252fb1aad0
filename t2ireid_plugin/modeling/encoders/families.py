"""Differences between families of encoders in their classes, parts and layers; `backbones` reads images.

A two-tower model (CLIP, SigLIP) has an image and a text encoder in one folder; here each is built separately. PyTorch
is imported on use, because configurations are checked before it is imported.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from t2ireid_plugin.errors import ConfigError, EncoderError, short_repr

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

# Pools with an attention head that can be left out.
_HAS_HEAD = ("siglip_vision_model", "siglip2_vision_model")
# Trained on texts padded to full length without a mask: padding counts like any other token.
_ATTENDS_PADDING = ("siglip_text_model", "siglip2_text_model")


def tower_class(config: PretrainedConfig) -> type[PreTrainedModel] | None:
    """The class of the encoder that ``config`` describes; None if there is none."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    if type(config) in MODEL_MAPPING:
        return MODEL_MAPPING[type(config)]
    # The library's table lacks SigLIP's text towers.
    return getattr(transformers, type(config).__name__.replace("Config", "Model"), None)


def without_pooler(model_class: type[PreTrainedModel], config: PretrainedConfig) -> dict[str, bool]:
    """Arguments that build ``model_class`` without its pooler, whose output the specification never reads."""
    if config.model_type in _HAS_HEAD:
        config.vision_use_head = False
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(model_class).parameters else {}


def drop_head(encoder: PreTrainedModel) -> PreTrainedModel:
    """Removes the linear head of SigLIP's text tower, which nothing would train."""
    from torch import nn

    if attends_padding(encoder.config):
        tower: nn.Module = getattr(encoder, "text_model", encoder)  # transformers 4 has it one level deeper
        tower.head = nn.Identity()
    return encoder


def set_attention_dropout(encoder: PreTrainedModel, share: float) -> None:
    """Sets the dropout of the attention weights of an encoder such as CLIP's.

    Raises:
        ConfigError: for a family that has it elsewhere.
    """
    config: Any = encoder.config
    if not hasattr(config, "attention_dropout"):
        raise ConfigError(f"model.text_dropout: {share} needs an encoder such as CLIP's, not {config.model_type}")
    config.attention_dropout = share
    for module in encoder.modules():
        if hasattr(module, "num_heads"):
            module.dropout = share


def attends_padding(config: PretrainedConfig) -> bool:
    """True for a text encoder that was trained on texts of one length and attends to their padding.

    SigLIP (Zhai et al., ICCV 2023) pads to 64 tokens without a mask, and pools the last position.
    """
    return config.model_type in _ATTENDS_PADDING


_COUNTS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("vocab_size", "max_position_embeddings", "patch_size", "image_size", "channels"),
    *("hidden_sizes", "depths", "embed_dim"),
)
_MAX_LAYERS = 1000  # the deepest encoders have about 50; a slip such as 1212 would fill the memory


def check_shape(config: Any, key: str) -> None:
    """Checks the numbers that an encoder's configuration, or a part of one, has; ``key`` is named in messages.

    Raises:
        ConfigError: naming the setting and its value.
    """
    for name in _COUNTS:
        value = getattr(config, name, None)
        numbers = value if isinstance(value, list | tuple) else [value]  # a number per stage, or height and width
        lowest = int(name != "num_hidden_layers")  # without layers, an encoder is its embeddings
        if value is not None and not all(type(number) is int and number >= lowest for number in numbers):
            raise ConfigError(f"{key}: {name} {short_repr(value)} must be a whole number of at least {lowest}")
    layers = getattr(config, "num_hidden_layers", 1)
    if isinstance(layers, int) and layers > _MAX_LAYERS:
        raise ConfigError(f"{key}: num_hidden_layers {layers} must be at most {_MAX_LAYERS}")
    if getattr(config, "num_channels", 3) != 3:
        raise ConfigError(f"{key}: num_channels {config.num_channels} must be 3, as images are RGB")


def layer_numbers(encoder: PreTrainedModel) -> dict[str, int]:
    """The layer number of each parameter by name: 0 before the blocks, 1 … depth in them, depth + 1 after them.

    As in BEiT's and MAE's fine-tuning.

    Raises:
        EncoderError: when the encoder has no stack of as many blocks as its configuration says.
    """
    from torch import nn

    depth = getattr(encoder.config, "num_hidden_layers", None)
    if depth is None:
        raise EncoderError(f"{encoder.config.model_type} is no stack of equal blocks, which layer-wise decay needs")
    stacks = (m for m in encoder.modules() if isinstance(m, nn.ModuleList) and len(m) == depth)
    blocks: Any = next(stacks, None)
    if blocks is None:
        raise EncoderError(f"{encoder.config.model_type} has no stack of {depth} blocks, which layer-wise decay needs")
    number = {id(p): i for i, block in enumerate(blocks, start=1) for p in block.parameters()}
    numbers, outside = {}, 0
    for name, parameter in encoder.named_parameters():  # in construction order, which is the order of use
        if id(parameter) in number:
            outside = depth + 1
        numbers[name] = number.get(id(parameter), outside)
    return numbers
