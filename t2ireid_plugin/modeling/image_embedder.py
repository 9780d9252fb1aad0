"""`ImageEmbedder`: an image encoder and a `DisentangleHead`, for frameworks that train on images only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from t2ireid_plugin.errors import ConfigError, InputError
from t2ireid_plugin.modeling.encoders.backbones import image_reader, num_prefix_tokens
from t2ireid_plugin.modeling.encoders.loading import IMAGE_KEY, Source, build_image_encoder, encoder_config
from t2ireid_plugin.modeling.encoders.preprocess import image_preprocess
from t2ireid_plugin.modeling.head import HeadLayers, HeadOutput

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ImageEmbedder(HeadLayers):
    """Image encoder and the layers of `DisentangleHead`, under the names that they have in `T2IReIDModel`.

    Weights load in both directions. It lacks the text encoder and ``scale``, which would get no gradient.

    Args:
        source: the image encoder, see `build_image_encoder`.
        disentangle, branch, projection, projection_dropout, fusion, num_classes: as for `DisentangleHead`.
        pretrained: if False, the encoder has random weights and only the configuration of a folder or hub id is read.

    Raises:
        ConfigError: for an unknown branch, or a setting that cannot work.
        EncoderError: when the encoder's files are missing.
    """

    def __init__(
        self,
        source: Source,
        disentangle: Mapping[str, Any],
        branch: str = "identity",
        pretrained: bool = True,
        projection_dropout: float = 0.2,
        projection: str = "mlp",
        fusion: Mapping[str, Any] | None = None,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.visual_encoder = build_image_encoder(source if pretrained else encoder_config(source, IMAGE_KEY))
        self.preprocess = image_preprocess(source, self.visual_encoder.config)
        self.reader = image_reader(self.visual_encoder.config)
        check_class_token(disentangle, self.visual_encoder)
        self.build_head(
            self.reader.width,
            num_classes,
            branch,
            disentangle,
            projection,
            projection_dropout,
            fusion or {},
            self.reader.feature_map,
        )

    def embed(self, images: Tensor) -> HeadOutput:
        """Images ``[B, 3, H, W]`` to embeddings, and to logits in training.

        Raises:
            InputError: for a training batch of one, or a size that the encoder cannot read.
        """
        return self.apply_head(*self.reader.read(self.visual_encoder, images), classify=self.training)


def check_class_token(disentangle: Mapping[str, Any], encoder: PreTrainedModel) -> None:
    """Refuses ``tokens: cls`` for an encoder without a class token.

    Raises:
        ConfigError: naming the encoder's family.
    """
    if disentangle.get("tokens") == "cls" and not num_prefix_tokens(encoder):
        kind = encoder.config.model_type
        raise ConfigError(f"disentangle.tokens: 'cls' needs a class token, which {kind} does not have")


def check_pixels(images: object) -> None:
    """Checks that images are a tensor of normalised pixels.

    Raises:
        InputError: for files, PIL images and arrays, and for whole numbers, which are pixels that are not normalised.
    """
    reader = "`read_images` of an exported model (T2IReIDForRetrieval) reads and normalises image files"
    if not isinstance(images, Tensor):
        raise InputError(f"images: {type(images).__name__} is not a tensor [B, 3, H, W] of normalised pixels; {reader}")
    if not images.is_floating_point():
        raise InputError(f"images: {images.dtype} pixels are not normalised, (value / 255 - mean) / std; {reader}")
