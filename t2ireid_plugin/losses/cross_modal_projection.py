"""`cmpm` and `cmpc`: Zhang and Lu, "Deep Cross-Modal Projection Learning for Image-Text Matching", ECCV 2018.

The authors' code: YingZhangDUT/Cross-Modal-Projection-Learning, modules.py. Both read image and text features `[B, D]`
that are not normalised, with `model.projection: encoder` CLIP's own vectors.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from t2ireid_plugin.losses.arguments import positive
from t2ireid_plugin.losses.base import LossInputs, LossTerm, read
from t2ireid_plugin.losses.sdm import target_divergence


class ProjectionMatching(LossTerm):
    """CMPM: as `sdm`, with lengths of projections in place of cosines: x . z / |z| for each x and z.

    The target is uniform over the rows of a person, as in the authors' code; IRRA's copy gives each 1 over the root of
    their number.
    """

    needs = ("id_embeds", "id_text_features")

    def __init__(self, eps: float = 1e-8) -> None:
        super().__init__()
        self.eps = positive("eps", eps)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Sum of both directions, a scalar."""
        image, text = read(inputs, *self.needs)
        image_to_text = target_divergence(image @ F.normalize(text, dim=1).T, inputs.pids, self.eps)
        text_to_image = target_divergence(text @ F.normalize(image, dim=1).T, inputs.pids, self.eps)
        return image_to_text + text_to_image


class ProjectionClassification(LossTerm):
    """CMPC: cross-entropy of each feature's projection on its pair, by a classifier of unit columns."""

    needs = ("id_embeds", "id_text_features")

    def __init__(self, num_classes: int = 8000, feature_dim: int = 512) -> None:
        super().__init__()
        self.classifier = nn.Linear(feature_dim, num_classes, bias=False)
        nn.init.xavier_uniform_(self.classifier.weight)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Sum of both directions, a scalar."""
        image, text = read(inputs, *self.needs)
        return self._of(image, text, inputs.pids) + self._of(text, image, inputs.pids)

    def _of(self, features: Tensor, others: Tensor, pids: Tensor) -> Tensor:
        """`[B, D], [B, D], [B] -> scalar`."""
        onto = F.normalize(others, dim=1)
        projected = (features * onto).sum(dim=1, keepdim=True) * onto  # [B, D]
        return F.cross_entropy(F.linear(projected, F.normalize(self.classifier.weight, dim=1)), pids)
