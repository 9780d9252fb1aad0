"""The image side of `T2IReIDModel` under torchreid's contract, for its image engines and tools.

The classifier is not that of `T2IReIDModel`, and is called what torchreid's users expect: ``classifier``. It reads the
embedding that is tested, not the wider features that `T2IReIDModel.id_classifier` reads: torchreid's softmax engine
knows no other loss, and would leave the projection to the embedding untrained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ireid_plugin.errors import ConfigError, InputError, check_choice
from t2ireid_plugin.modeling.checkpoint import LoadReport, load_weights
from t2ireid_plugin.modeling.disentangle import build_disentangle
from t2ireid_plugin.modeling.encoders.loading import IMAGE_KEY, encoder_config
from t2ireid_plugin.modeling.image_embedder import BRANCHES, ImageEmbedder
from t2ireid_plugin.modeling.t2ireid import DEFAULTS, NUM_HEADS

LOSSES = ("softmax", "triplet")
OPTIONS = ("branch", IMAGE_KEY, "disentangle")  # of a variant, all optional


class T2IReIDImageModel(ImageEmbedder):
    """Images to embeddings of the identity branch, the clothing branch, or both one after the other.

    In eval mode ``forward`` returns the embeddings ``[B, 256]`` (``[B, 512]`` for both) of unit norm, those of
    `T2IReIDModel`. In training it returns logits ``[B, num_classes]`` with ``loss="softmax"``, and logits and
    embeddings with ``loss="triplet"``.

    Args:
        num_classes: training identities.
        loss: ``softmax`` or ``triplet``.
        pretrained: load the image encoder's weights. Without it the encoder has random ones, and nothing is read but
            the ``config.json`` of a ``vit_pretrained`` other than the default.
        branch: ``identity``, ``clothing`` or ``both``.
        vit_pretrained: a folder, a hub id, or a mapping that configures an encoder with random weights, as for
            `T2IReIDModel`.
        disentangle: ``{tokens, window}``, see `DisentangleModule`.

    Raises:
        ConfigError: for an unknown choice or a value that cannot work.
        EncoderError: when the image encoder's files are missing.
    """

    def __init__(
        self,
        num_classes: int,
        loss: str = "softmax",
        pretrained: bool = True,
        *,
        branch: str = "identity",
        vit_pretrained: str | Mapping[str, Any] = DEFAULTS[IMAGE_KEY],
        disentangle: Mapping[str, Any] = DEFAULTS["disentangle"],
    ) -> None:
        check_choice("loss", loss, LOSSES)
        if num_classes < 1:
            raise ConfigError(f"num_classes: {num_classes} must be at least 1")
        # The default is ViT-B/16, which the library's own default configuration is: no file is needed for its shape.
        source = {} if vit_pretrained == DEFAULTS[IMAGE_KEY] and not pretrained else vit_pretrained
        super().__init__(source, disentangle, branch, pretrained)
        self.loss = loss
        self.load_report: LoadReport | None = None
        self.classifier = nn.Linear(self.feature_dim, num_classes)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images ``[B, 3, H, W]`` to embeddings, logits, or both, as the class says.

        Raises:
            InputError: for another shape, a size that the encoder cannot read, or a training batch of one.
        """
        if images.dim() != 4 or images.shape[1] != 3:
            raise InputError(f"images must be [B, 3, H, W], not {list(images.shape)}")
        if self.training and len(images) < 2:
            raise InputError("a training batch of 1: batch normalisation needs at least 2 samples")
        projected = self.embed(images)  # [B, 256] each
        embeds = torch.cat([F.normalize(part, dim=-1) for part in projected], dim=-1) / len(projected) ** 0.5
        if not self.training:
            return embeds
        logits = self.classifier(torch.cat(projected, dim=-1))
        return logits if self.loss == "softmax" else (logits, embeds)

    def load_param(self, trained_path: str | Path) -> T2IReIDImageModel:
        """Loads what a file has for this model, of a `T2IReIDModel` its image side; `load_report` says the rest.

        Unlike torchreid's ``load_pretrained_weights`` it knows the names of other transformers versions.

        Raises:
            CheckpointError: when the file is missing, damaged, unsafe, or nothing in it fits.
        """
        self.load_report = load_weights(trained_path, self)
        return self


def check_options(options: Mapping[str, Any]) -> None:
    """Refuses options of a variant that cannot work, before any model is built.

    Raises:
        ConfigError: naming the option, the value and what would be right.
    """
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise ConfigError(f"unknown option {', '.join(unknown)}; valid: {', '.join(OPTIONS)}")
    check_choice("branch", options.get("branch", "identity"), BRANCHES)
    source, disentangle = options.get(IMAGE_KEY, ""), options.get("disentangle", {})
    if not isinstance(source, (str, Mapping)):
        raise ConfigError(f"{IMAGE_KEY} must be a folder, a hub id or a mapping of settings, not {source!r}")
    if isinstance(source, Mapping):
        encoder_config(source, IMAGE_KEY)
    if not isinstance(disentangle, Mapping):
        raise ConfigError(f"disentangle must be a mapping such as {{'tokens': 'all'}}, not {disentangle!r}")
    build_disentangle(disentangle, NUM_HEADS, 1)
