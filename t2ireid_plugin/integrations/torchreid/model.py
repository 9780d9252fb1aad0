"""An image backbone with our head as a torchreid model, for torchreid's image engines and tools.

Its ``classifier`` has torchreid's usual name and reads the embedding that is evaluated. `T2IReIDModel.id_classifier`
reads the wider features before the projection, which would then stay untrained in torchreid's softmax engine: the
classifier's is its only loss.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from t2ireid_plugin.errors import InputError, check_choice
from t2ireid_plugin.integrations.torchreid.registration import HEADS, LOSSES
from t2ireid_plugin.modeling.checkpoint import Checkpoint, LoadReport, copy_state_dict
from t2ireid_plugin.modeling.encoders.loading import IMAGE_KEY
from t2ireid_plugin.modeling.image_embedder import ImageEmbedder, check_pixels
from t2ireid_plugin.modeling.ranking import BOTH, Ranking
from t2ireid_plugin.modeling.stored import read_stored
from t2ireid_plugin.modeling.t2ireid import DEFAULTS

logger = logging.getLogger(__name__)


class T2IReIDImageModel(ImageEmbedder):
    """Embeds images by the identity branch, the clothing branch, both concatenated, or both fused by Mamba.

    In eval mode ``forward`` returns embeddings ``[B, 256]`` (``[B, 512]`` for both) with unit norm, by one branch or by
    both those of `T2IReIDModel`. In training it returns logits ``[B, num_classes]`` with ``loss="softmax"``, and logits
    and embeddings with ``loss="triplet"``.

    Args:
        num_classes: number of training identities.
        loss: ``softmax`` or ``triplet``.
        pretrained: load the image encoder's weights; False for random weights, for which at most the ``config.json``
            of ``vit_pretrained`` is read.
        vit_pretrained: the backbone: a folder, a hub id, ``torchreid:NAME``, ``timm:NAME``, or a mapping that
            configures an encoder with random weights, as for `T2IReIDModel`.
        head: a name in `HEADS`.
        branch: ``identity``, ``clothing``, ``both`` or ``fused``.
        disentangle, projection_dropout, fusion: as for `DisentangleHead`.

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
        head: str = "disentangle",
        disentangle: Mapping[str, Any] = DEFAULTS["disentangle"],
        projection_dropout: float = DEFAULTS["projection_dropout"],
        fusion: Mapping[str, Any] | None = None,
    ) -> None:
        check_choice("loss", loss, LOSSES)
        check_choice("head", head, HEADS)
        # The default is ViT-B/16, the same as transformers' default configuration: no file is needed for its shape.
        source = {} if vit_pretrained == DEFAULTS[IMAGE_KEY] and not pretrained else vit_pretrained
        kind, projection = HEADS[head]
        super().__init__(
            source,
            {**disentangle, "type": kind},
            branch,
            pretrained,
            projection_dropout,
            projection,
            fusion,
            num_classes,
        )
        self.loss = loss
        self.load_report: LoadReport | None = None

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images ``[B, 3, H, W]`` to embeddings, logits or both, see the class.

        Raises:
            InputError: for anything but a tensor of normalised pixels, another shape, a size that the encoder cannot
                read, or a training batch of 1.
        """
        check_pixels(images)
        if images.dim() != 4 or images.shape[1] != 3:
            raise InputError(f"images must be [B, 3, H, W], not {list(images.shape)}")
        output = self.embed(images)
        if not self.training:
            return output.embeds
        assert output.logits is not None
        return output.logits if self.loss == "softmax" else (output.logits, output.embeds)

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
