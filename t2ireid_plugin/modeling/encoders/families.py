"""Differences between families of encoders: CLIP, SigLIP, SigLIP 2, DINOv2, DINOv3, ViT, convolutions and BERT.

A two-tower model (CLIP, SigLIP) has an image and a text encoder in one folder; here each is built separately. PyTorch
is imported on use, because sizes are checked before it is imported.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from t2ireid_plugin.errors import ConfigError, EncoderError, InputError, short_repr

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel

# CLIP normalises only the class token, in its pooler, and returns the other tokens without normalisation.
_NORM_IN_POOLER = ("clip_vision_model",)
# Reads flattened patches instead of pixels.
_READS_PATCHES = ("siglip2_vision_model",)
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


def patch_size(config: PretrainedConfig) -> tuple[int, int]:
    """Height and width of a patch in pixels."""
    return _height_and_width(config.patch_size)


def patch_grid(config: PretrainedConfig, images: Tensor) -> tuple[int, int]:
    """Rows and columns of the patches of images ``[B, 3, H, W]``."""
    height, width = patch_size(config)
    return images.shape[2] // height, images.shape[3] // width


def own_size(config: PretrainedConfig) -> tuple[int, int]:
    """Height and width in pixels for which an image encoder has position embeddings."""
    if not hasattr(config, "image_size"):  # SigLIP 2 has the number of patches of a square
        return _height_and_width(int(config.num_patches**0.5) * config.patch_size)
    return _height_and_width(config.image_size)


def _height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def num_prefix_tokens(encoder: PreTrainedModel) -> int:
    """Number of tokens in front of the patches: the class token, if there is one, and registers."""
    names = ("cls_token", "class_embedding", "distillation_token")
    single = sum(name.rpartition(".")[2] in names for name, _ in encoder.named_parameters())
    return single + int(getattr(encoder.config, "num_register_tokens", 0))


def attends_padding(config: PretrainedConfig) -> bool:
    """True for a text encoder that was trained on texts of one length and attends to their padding.

    SigLIP (Zhai et al., ICCV 2023) pads to 64 tokens without a mask, and pools the last position.
    """
    return config.model_type in _ATTENDS_PADDING


_COUNTS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("vocab_size", "max_position_embeddings", "patch_size", "image_size", "channels"),
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


def check_size(config: PretrainedConfig, height: int, width: int) -> None:
    """Checks that patches cover images of this size, so that no edge is lost.

    Raises:
        InputError: unless height and width are the encoder's own or multiples of its patch size.
    """
    rows, columns = patch_size(config)
    divides = height % rows == width % columns == 0
    if not divides and ((height, width) != own_size(config) or height < rows or width < columns):
        near = f"{max(1, round(height / rows)) * rows} x {max(1, round(width / columns)) * columns}"
        raise InputError(
            f"images of {height} x {width} pixels (height x width) do not divide into the {rows} x {columns} patches "
            f"of {config.model_type}; the nearest size is {near}"
        )


def image_tokens(encoder: PreTrainedModel, images: Tensor) -> Tensor:
    """Images ``[B, 3, H, W]`` to normalised tokens ``[B, L, D]``: prefix tokens, then patches row by row.

    For another size than the encoder's own, transformers interpolates the position embeddings; DINOv3 has rotary
    positions and does not need that.

    Raises:
        InputError: for a size that the patches do not divide, or to which the positions cannot be interpolated.
    """
    config = encoder.config
    height, width = images.shape[-2:]
    check_size(config, height, width)
    if config.model_type in _READS_PATCHES:
        return encoder(**_as_patches(images, patch_size(config)[0])).last_hidden_state
    tokens = encoder(images, **_interpolation(encoder, height, width)).last_hidden_state
    if config.model_type in _NORM_IN_POOLER:  # as the CLIP of IRRA (CVPR 2023) and RDE (CVPR 2024) does
        tokens = getattr(encoder, "vision_model", encoder).post_layernorm(tokens)
    return tokens


_interpolates_on_request: dict[type, bool] = {}


def interpolates_on_request(encoder: PreTrainedModel) -> bool:
    """True if the encoder's forward has an argument to interpolate positions.

    The answer is cached per class before compilation, because a compiler cannot trace `inspect.signature`.
    """
    kind = type(encoder)
    if kind not in _interpolates_on_request:
        parameters = inspect.signature(kind.forward).parameters
        _interpolates_on_request[kind] = "interpolate_pos_encoding" in parameters
    return _interpolates_on_request[kind]


def _interpolation(encoder: PreTrainedModel, height: int, width: int) -> dict[str, bool]:
    """Arguments that make the encoder interpolate its positions, if that is needed."""
    own = own_size(encoder.config)
    on_request = interpolates_on_request(encoder)
    always = encoder.config.model_type.startswith("dinov2")
    needed = (height, width) != own
    if own[0] != own[1] and (always or (on_request and needed)):
        raise InputError(
            f"{encoder.config.model_type} with positions for {own[0]} x {own[1]} pixels cannot read images of "
            f"{height} x {width}: transformers interpolates from squares only"
        )
    return {"interpolate_pos_encoding": True} if on_request and needed else {}


def _as_patches(images: Tensor, patch: int) -> dict[str, Tensor]:
    """Images ``[B, 3, H, W]`` as SigLIP 2 reads them: flattened patches, each pixel with its three channels."""
    import torch

    batch, channels, height, width = images.shape
    rows, columns = height // patch, width // patch
    patches = images[:, :, : rows * patch, : columns * patch].reshape(batch, channels, rows, patch, columns, patch)
    pixels = patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)  # [B, h * w, patch * patch * 3]
    return {
        "pixel_values": pixels,
        "pixel_attention_mask": torch.ones(pixels.shape[:2], dtype=torch.long, device=images.device),
        "spatial_shapes": torch.tensor([[rows, columns]] * batch, device=images.device),
    }


def layer_numbers(encoder: PreTrainedModel) -> dict[str, int]:
    """The layer number of each parameter by name: 0 before the blocks, 1 … depth in them, depth + 1 after them.

    As in BEiT's and MAE's fine-tuning.

    Raises:
        EncoderError: when the encoder has no stack of as many blocks as its configuration says.
    """
    from torch import nn

    depth = encoder.config.num_hidden_layers
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
