"""`id` and `id_features`: identity classification of images and texts by one classifier."""

import torch.nn.functional as F
from torch import Tensor, nn

from t2ireid_plugin.losses.arguments import number, positive
from t2ireid_plugin.losses.base import LossInputs, LossTerm, read


class SharedIdentity(LossTerm):
    """Mean of the cross-entropies of classifier(scale * image_embeds) and classifier(scale * id_text_embeds), `[B, D]`.

    The ID loss of IRRA (Jiang and Ye, CVPR 2023). It classifies the embeddings that retrieval compares, both sides with
    the same weights, so an image and a text of one person are drawn to the same place; `cls` classifies the image's
    features before their projection. IRRA's embeddings are CLIP's, whose norm is about 10; ours have norm 1, and
    `scale` makes up for it. `label_smoothing` is that of `cls`.
    """

    needs = ("image_embeds", "id_text_embeds")

    def __init__(
        self, num_classes: int = 8000, embed_dim: int = 256, scale: float = 10.0, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.scale = positive("scale", scale)
        self.label_smoothing = number("label_smoothing", label_smoothing, low=0.0, high=1.0)
        self.classifier = nn.Linear(embed_dim, num_classes)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean over the batch and both sides, a scalar."""
        image, text = (
            F.cross_entropy(self.classifier(self.scale * side), inputs.pids, label_smoothing=self.label_smoothing)
            for side in read(inputs, *self.needs)
        )
        return 0.5 * (image + text)


class FeatureIdentity(LossTerm):
    """As `SharedIdentity`, of image and text features `[B, D]` before projection and normalisation.

    With `model.projection: encoder` these are CLIP's vectors, and the term is IRRA's.
    """

    needs = ("id_embeds", "id_text_features")

    def __init__(self, num_classes: int = 8000, feature_dim: int = 512, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = number("label_smoothing", label_smoothing, low=0.0, high=1.0)
        self.classifier = nn.Linear(feature_dim, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.001)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean over the batch and both sides, a scalar."""
        image, text = (
            F.cross_entropy(self.classifier(side), inputs.pids, label_smoothing=self.label_smoothing)
            for side in read(inputs, *self.needs)
        )
        return 0.5 * (image + text)
