"""The image part of `T2IReIDModel`: what both share, and `ImageEmbedder` for frameworks that train on images only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from t2ireid_plugin.errors import ConfigError, InputError, check_choice
from t2ireid_plugin.modeling.disentangle import DisentangleModule
from t2ireid_plugin.modeling.encoders.families import image_tokens, num_prefix_tokens, patch_grid
from t2ireid_plugin.modeling.encoders.loading import IMAGE_KEY, Source, build_image_encoder, encoder_config
from t2ireid_plugin.modeling.encoders.preprocess import image_preprocess
from t2ireid_plugin.modeling.settings import EMBED_DIM, NUM_HEADS, check_disentangle

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHARED_DIM = 512
BRANCHES = ("identity", "clothing", "both")


class ImageEmbedder(nn.Module):
    """Image encoder, disentangling and projections, under the names that they have in `T2IReIDModel`.

    Weights load in both directions. It lacks the text encoder, the fusion and ``scale``, which would get no gradient.

    Args:
        source: the image encoder, see `build_image_encoder`.
        disentangle: arguments of `DisentangleModule`.
        branch: ``identity``, ``clothing``, or ``both`` one after the other.
        pretrained: if False, the encoder has random weights and only the configuration of a folder or hub id is read.
        projection_dropout: probability, see `projection_mlp`.

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
    ) -> None:
        super().__init__()
        check_choice("branch", branch, BRANCHES)
        self.branch = branch
        self.visual_encoder = build_image_encoder(source if pretrained else encoder_config(source, IMAGE_KEY))
        self.preprocess = image_preprocess(source, self.visual_encoder.config)
        self.disentangle = build_disentangle(disentangle, self.visual_encoder)
        self.shared_mlp = nn.Linear(self.visual_encoder.config.hidden_size, SHARED_DIM)
        self.image_mlp = projection_mlp(SHARED_DIM, EMBED_DIM, projection_dropout)
        self.feature_dim = EMBED_DIM * (2 if branch == "both" else 1)

    def embed(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images ``[B, 3, H, W]`` to the embedding of each chosen branch ``[B, 256]``, before normalisation.

        Raises:
            InputError: for a training batch of one, or a size that the encoder cannot read.
        """
        grid = patch_grid(self.visual_encoder.config, images)
        identity, clothing, _ = self.disentangle(image_tokens(self.visual_encoder, images), grid)
        features = {"identity": [identity], "clothing": [clothing], "both": [identity, clothing]}[self.branch]
        return project(self.shared_mlp, self.image_mlp, features)


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


def build_disentangle(config: Mapping[str, Any], encoder: PreTrainedModel) -> DisentangleModule:
    """Builds the `DisentangleModule` behind an image encoder.

    Raises:
        ConfigError: as `check_disentangle`, for ``tokens: cls`` with an encoder without a class token, and for a width
            that the attentions' heads do not divide.
    """
    check_disentangle(config)
    width = encoder.config.hidden_size
    if width % NUM_HEADS:
        raise ConfigError(f"{IMAGE_KEY}: hidden_size {width} must be a multiple of {NUM_HEADS}, the model's own heads")
    if config.get("tokens") == "cls" and not num_prefix_tokens(encoder):
        kind = encoder.config.model_type
        raise ConfigError(f"disentangle.tokens: 'cls' needs a class token, which {kind} does not have")
    return DisentangleModule(width, NUM_HEADS, **config)


def projection_mlp(in_dim: int = SHARED_DIM, out_dim: int = EMBED_DIM, dropout: float = 0.2) -> nn.Sequential:
    """``[B, in_dim] -> [B, out_dim]``: BatchNorm, ReLU, Dropout, Linear, twice; the hidden width is ``out_dim``.

    Raises:
        ConfigError: unless ``dropout`` is from 0 to below 1.
    """
    if not 0 <= dropout < 1:
        raise ConfigError(f"projection_dropout: {dropout} must be from 0 to below 1")
    return nn.Sequential(
        nn.BatchNorm1d(in_dim),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(in_dim, out_dim),
        nn.BatchNorm1d(out_dim),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(out_dim, out_dim),
    )


def project(shared: nn.Module, mlp: nn.Module, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Each of ``features [n, D]`` to ``[n, 256]``, as one batch so that they share batch statistics.

    Raises:
        InputError: for a training batch of one.
    """
    sizes = [part.shape[0] for part in features]  # `len` would fix the batch of an exported graph
    if mlp.training and min(sizes) < 2:
        raise InputError("a training batch of 1: batch normalisation needs at least 2 samples; raise train.batch_size")
    return mlp(shared(torch.cat(list(features)))).split(sizes)
