"""What an image encoder's folder says about its images: size, mean and standard deviation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from t2ireid_plugin.errors import EncoderError
from t2ireid_plugin.modeling.encoders import IMAGE_KEY, Source, find_folder, find_on_hub
from t2ireid_plugin.modeling.towers import own_size

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Normalisation by the beginning of model_type, where there is no preprocessor file: what the library's constants are
# called. ViT and SigLIP have 0.5.
_HALF = (0.5, 0.5, 0.5)
_NORMALISATION = {"clip": "OPENAI_CLIP", "dinov": "IMAGENET_DEFAULT"}


class Preprocess(NamedTuple):
    """How pixels reach the image encoder: ``(value / 255 - mean) / std`` at ``height`` x ``width``."""

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def image_preprocess(source: Source, config: PretrainedConfig) -> Preprocess:
    """Size, mean and std from the encoder's preprocessor file; without one its own size and its family's mean and std.

    The file counts for the size because an encoder may be made for more than it is used at: DINOv2's positions are
    for 518 pixels, its images have 224.

    Args:
        source: as for `build_image_encoder`.
        config: of the encoder that was built.

    Raises:
        EncoderError: when the file is no JSON.
    """
    settings = _preprocessor_settings(source)
    height, width = own_size(config)
    if height == width:  # positions for a tall image do not fit another
        height, width = _preprocessor_size(settings) or (height, width)
    mean, std = _usual_normalisation(config.model_type)
    mean, std = settings.get("image_mean", mean), settings.get("image_std", std)
    return Preprocess(height, width, tuple(mean), tuple(std))


def _usual_normalisation(model_type: str) -> tuple[Sequence[float], Sequence[float]]:
    from transformers import image_utils

    for start, name in _NORMALISATION.items():
        if model_type.startswith(start):
            return getattr(image_utils, f"{name}_MEAN"), getattr(image_utils, f"{name}_STD")
    return _HALF, _HALF


def _preprocessor_settings(source: Source) -> dict[str, Any]:
    """What is written beside the encoder about its images; empty when nothing is."""
    if not isinstance(source, str):
        return {}
    # transformers 5 writes the second, with the tokenizer's part beside the images'.
    for name in ("preprocessor_config.json", "processor_config.json"):
        folder = find_folder(source)
        file = folder / name if folder else find_on_hub(source, name)
        if file is None or not file.is_file():
            continue
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise EncoderError(f"{IMAGE_KEY}: '{file}' is not valid JSON: {error}") from error
        return settings.get("image_processor", settings)
    return {}


def _preprocessor_size(settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width of what an image processor puts out, from any of the forms that transformers has had."""
    crop = settings.get("crop_size") if settings.get("do_center_crop", True) else None
    size = crop or settings.get("size")
    if isinstance(size, Mapping):
        edge = size.get("shortest_edge")
        height, width = size.get("height", edge), size.get("width", edge)
        return (height, width) if height and width else None
    return (size, size) if isinstance(size, int) else None
