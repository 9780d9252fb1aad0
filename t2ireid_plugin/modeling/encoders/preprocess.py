"""Image preprocessing of an encoder from its folder: size, mean and standard deviation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from t2ireid_plugin.errors import EncoderError, short_repr
from t2ireid_plugin.modeling.encoders.backbones import image_reader
from t2ireid_plugin.modeling.encoders.openai import archive_path
from t2ireid_plugin.modeling.encoders.sources import library_model

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from t2ireid_plugin.modeling.encoders.loading import Source

# Normalisation without a preprocessor file: beginnings of model_type and names of transformers' constants.
_NORMALISATION = {
    "clip": "OPENAI_CLIP",
    **dict.fromkeys(("dinov", "deit", "swin", "convnext", "resnet"), "IMAGENET_DEFAULT"),
    "": "IMAGENET_STANDARD",  # ViT, SigLIP, BEiT
}
_MAX_SIDE = 4096  # pixels, of resized images


class Preprocess(NamedTuple):
    """How pixels reach the image encoder: ``(value / 255 - mean) / std`` at ``height`` x ``width``."""

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def checked_preprocess(height: Any, width: Any, mean: Any, std: Any, where: str) -> Preprocess:
    """Checks settings from a file, which may be of any type, and returns them.

    Raises:
        EncoderError: for unusable settings; the message begins with ``where``.
    """
    sizes = all(type(size) is int and 0 < size <= _MAX_SIDE for size in (height, width))
    values = all(
        isinstance(triple, list | tuple)
        and len(triple) == 3
        and all(isinstance(value, int | float) and math.isfinite(value) for value in triple)
        for triple in (mean, std)
    )
    if not sizes or not values or not min(std) > 0:
        raise EncoderError(
            f"{where} must have a size up to {_MAX_SIDE}, three means and three standard deviations above 0, not "
            f"{short_repr(height)} x {short_repr(width)}, {short_repr(mean)} and {short_repr(std)}"
        )
    return Preprocess(height, width, tuple(mean), tuple(std))


def image_preprocess(source: Source, config: PretrainedConfig) -> Preprocess:
    """Size, mean and std from the encoder's preprocessor file, else the encoder's size and its family's mean and std.

    The file comes first because positions may be for larger images than the encoder is used with: DINOv2 has positions
    for 518 pixels and reads images of 224.

    Args:
        source: as for `build_image_encoder`.
        config: configuration of the encoder that was built.

    Raises:
        EncoderError: when the file is not valid JSON or has unusable settings.
    """
    from transformers import image_utils

    from t2ireid_plugin.modeling.encoders.loading import IMAGE_KEY

    settings = _preprocessor_settings(source)
    height, width = image_reader(config).own_size
    if height == width:  # positions for a tall image fit no other size
        height, width = _preprocessor_size(settings) or (height, width)
    name = next(name for start, name in _NORMALISATION.items() if config.model_type.startswith(start))
    mean, std = (
        settings.get(f"image_{key}", getattr(config, f"image_{key}", getattr(image_utils, f"{name}_{key.upper()}")))
        for key in ("mean", "std")
    )
    return checked_preprocess(height, width, mean, std, f"{IMAGE_KEY}: the preprocessor file of '{source}'")


def _preprocessor_settings(source: Source) -> dict[str, Any]:
    """Content of the encoder's preprocessor file; empty if there is none."""
    # On use: a search without PyTorch needs `Preprocess` alone.
    from t2ireid_plugin.modeling.encoders.loading import IMAGE_KEY, find_file, read_json

    if not isinstance(source, str) or library_model(source) or archive_path(source):
        return {}
    # transformers 5 writes the second, which has the tokenizer's settings too.
    for name in ("preprocessor_config.json", "processor_config.json"):
        if file := find_file(source, name, download=True):
            settings = read_json(file, IMAGE_KEY)
            return settings.get("image_processor", settings)
    return {}


def _preprocessor_size(settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """Output height and width of an image processor, in any of the formats that transformers has used."""
    crop = settings.get("crop_size") if settings.get("do_center_crop", True) else None
    size = crop or settings.get("size")
    if isinstance(size, Mapping):
        edge = size.get("shortest_edge")
        height, width = size.get("height", edge), size.get("width", edge)
        return (height, width) if height and width else None
    return (size, size) if isinstance(size, int) else None
