"""`orthogonality`: identity features orthogonal to the clothing features of the same photo."""

import torch.nn.functional as F
from torch import Tensor

from t2ireid_plugin.losses.base import LossInputs, LossTerm, read


class Orthogonality(LossTerm):
    """mean_i cos(id_embeds_i, cloth_embeds_i)^2, both `[B, 768]`, without gradient for the clothing features.

    A penalty used in clothes-changing person re-identification. The clothing features are detached so that they keep
    describing the clothing while the identity features turn away; otherwise both could stop describing anything.
    """

    needs = ("id_embeds", "cloth_embeds")

    def forward(self, inputs: LossInputs) -> Tensor:
        """Between 0 and 1, a scalar."""
        identity, clothing = read(inputs, *self.needs)
        return F.cosine_similarity(identity, clothing.detach(), dim=-1).square().mean()
