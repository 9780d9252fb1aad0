"""The image side of `T2IReIDModel` alone, for frameworks that train and search with images only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from t2ireid_plugin.errors import ConfigError, check_choice
from t2ireid_plugin.modeling.disentangle import build_disentangle
from t2ireid_plugin.modeling.encoders.families import image_tokens, num_prefix_tokens, patch_size
from t2ireid_plugin.modeling.encoders.loading import IMAGE_KEY, Source, build_image_encoder, encoder_config
from t2ireid_plugin.modeling.encoders.preprocess import image_preprocess
from t2ireid_plugin.modeling.heads import projection_mlp
from t2ireid_plugin.modeling.t2ireid import EMBED_DIM, NUM_HEADS, SHARED_DIM

BRANCHES = ("identity", "clothing", "both")


class ImageEmbedder(nn.Module):
    """Image encoder, disentangling and projections, under the names that they have in `T2IReIDModel`.

    No text encoder, no fusion and no ``scale``: parameters that never get a gradient would only cost memory. Weights go
    both ways.

    Args:
        source: the image encoder, see `build_image_encoder`.
        disentangle: ``{tokens, window}``, see `DisentangleModule`.
        branch: ``identity``, ``clothing``, or ``both`` one after the other.
        pretrained: without it the encoder has random weights, and of a folder or hub id only the configuration is read.

    Raises:
        ConfigError: for an unknown branch, or a setting that cannot work.
        EncoderError: when the encoder's files are missing.
    """

    def __init__(
        self, source: Source, disentangle: Mapping[str, Any], branch: str = "identity", pretrained: bool = True
    ) -> None:
        super().__init__()
        check_choice("branch", branch, BRANCHES)
        self.branch = branch
        self.visual_encoder = build_image_encoder(source if pretrained else encoder_config(source, IMAGE_KEY))
        self.preprocess = image_preprocess(source, self.visual_encoder.config)
        if disentangle.get("tokens") == "cls" and not num_prefix_tokens(self.visual_encoder):
            kind = self.visual_encoder.config.model_type
            raise ConfigError(f"disentangle.tokens: 'cls' needs a class token, which {kind} does not have")
        width: int = self.visual_encoder.config.hidden_size
        self.disentangle = build_disentangle(disentangle, width, NUM_HEADS)
        self.shared_mlp = nn.Linear(width, SHARED_DIM)
        self.image_mlp = projection_mlp(SHARED_DIM, EMBED_DIM)
        self.feature_dim = EMBED_DIM * (2 if branch == "both" else 1)

    def embed(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images ``[B, 3, H, W]`` to each chosen branch's embedding ``[B, 256]``, not yet of unit norm."""
        rows, columns = patch_size(self.visual_encoder.config)
        grid = images.shape[2] // rows, images.shape[3] // columns
        identity, clothing, _ = self.disentangle(image_tokens(self.visual_encoder, images), grid)
        chosen = {"identity": [identity], "clothing": [clothing], "both": [identity, clothing]}[self.branch]
        # One batch, for the sake of its statistics, as in `T2IReIDModel`.
        return self.image_mlp(self.shared_mlp(torch.cat(chosen))).split(len(images))
