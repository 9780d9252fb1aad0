"""Image branch of `T2IReIDModel` as a torchreid model, for torchreid's image engines and tools.

Its ``classifier`` has torchreid's usual name and reads the embedding that is evaluated. `T2IReIDModel.id_classifier`
reads the wider features before the projection, which would then stay untrained in torchreid's softmax engine: the
classifier's is its only loss.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ireid_plugin.errors import InputError, check_choice
from t2ireid_plugin.integrations.torchreid.registration import LOSSES
from t2ireid_plugin.modeling.checkpoint import Checkpoint, LoadReport, copy_state_dict
from t2ireid_plugin.modeling.encoders.loading import IMAGE_KEY
from t2ireid_plugin.modeling.image_embedder import ImageEmbedder, check_pixels
from t2ireid_plugin.modeling.ranking import BOTH, Ranking, join
from t2ireid_plugin.modeling.stored import read_stored
from t2ireid_plugin.modeling.t2ireid import DEFAULTS

logger = logging.getLogger(__name__)


class T2IReIDImageModel(ImageEmbedder):
    """Embeds images by the identity branch, the clothing branch, or both concatenated.

    In eval mode ``forward`` returns the embeddings of `T2IReIDModel`, ``[B, 256]`` (``[B, 512]`` for both) with unit
    norm. In training it returns logits ``[B, num_classes]`` with ``loss="softmax"``, and logits and embeddings with
    ``loss="triplet"``.

    Args:
        num_classes: number of training identities.
        loss: ``softmax`` or ``triplet``.
        pretrained: load the image encoder's weights; False for random weights, for which at most the ``config.json``
            of ``vit_pretrained`` is read.
        branch: ``identity``, ``clothing`` or ``both``.
        vit_pretrained: a folder, a hub id, or a mapping that configures an encoder with random weights, as for
            `T2IReIDModel`.
        disentangle: arguments of `DisentangleModule`.
        projection_dropout: of the MLP that ends in the embeddings.

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
        projection_dropout: float = DEFAULTS["projection_dropout"],
    ) -> None:
        check_choice("loss", loss, LOSSES)
        # The default is ViT-B/16, the same as transformers' default configuration: no file is needed for its shape.
        source = {} if vit_pretrained == DEFAULTS[IMAGE_KEY] and not pretrained else vit_pretrained
        super().__init__(source, disentangle, branch, pretrained, projection_dropout)
        self.loss = loss
        self.load_report: LoadReport | None = None
        self.identity_weight = 0.5  # of the identity branch, with both; a checkpoint brings the one of its ranking
        self.classifier = nn.Linear(self.feature_dim, num_classes)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images ``[B, 3, H, W]`` to embeddings, logits or both, see the class.

        Raises:
            InputError: for anything but a tensor of normalised pixels, another shape, a size that the encoder cannot
                read, or a training batch of 1.
        """
        check_pixels(images)
        if images.dim() != 4 or images.shape[1] != 3:
            raise InputError(f"images must be [B, 3, H, W], not {list(images.shape)}")
        projected = self.embed(images)  # [B, 256] each
        parts = [F.normalize(part, dim=-1) for part in projected]
        embeds = join(parts[0], parts[-1], self.identity_weight) if self.branch == "both" else parts[0]
        if not self.training:
            return embeds
        logits = self.classifier(torch.cat(projected, dim=-1))
        return logits if self.loss == "softmax" else (logits, embeds)

    def load_param(self, trained_path: str | Path) -> T2IReIDImageModel:
        """Loads a checkpoint of this model or the image branch of a `T2IReIDModel`; ``load_report`` lists the rest.

        Takes over the stored ``preprocess`` and, with both branches, their weights in the ranking. Unlike torchreid's
        ``load_pretrained_weights`` it handles names of other transformers versions.

        Raises:
            CheckpointError: when the file is missing, damaged or unsafe, or no tensor in it fits.
        """
        checkpoint = Checkpoint.read(trained_path)
        self.load_report = copy_state_dict(checkpoint.state, self, trained_path)
        stored = read_stored(checkpoint)
        self.preprocess = stored.preprocess or self.preprocess
        self.take_ranking(stored.ranking, trained_path)
        return self

    def take_ranking(self, ranking: Ranking | None, path: str | Path) -> None:
        """Weighs both branches as the model of a checkpoint does, or warns that it needs both."""
        if ranking is None or ranking.by != BOTH:
            return
        self.identity_weight = ranking.weight
        if self.branch != BOTH:
            name = f"t2ireid_vit_mamba_{BOTH}"
            logger.warning("'%s' ranks by both branches, this model by %s alone; use %s", path, self.branch, name)
