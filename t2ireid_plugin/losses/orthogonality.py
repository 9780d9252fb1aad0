"""`orthogonality`: identity features at right angles to the clothing features of the same photo."""

import torch.nn.functional as F
from torch import Tensor

from t2ireid_plugin.losses.base import LossTerm
from t2ireid_plugin.losses.inputs import LossInputs, read


class Orthogonality(LossTerm):
    """mean_i cos(id_embeds_i, cloth_embeds_i)^2, both `[B, 768]`, without gradient for the clothing features.

    Detached, these stay what describes the clothing, and the identity features turn away from it. Left to move, both
    could turn away from what they should describe.
    """

    needs = ("id_embeds", "cloth_embeds")
    detached = ("cloth_embeds",)

    def __init__(self) -> None:  # spelt out because LossTerms reads the valid arguments off the signature
        super().__init__()

    def forward(self, inputs: LossInputs) -> Tensor:
        """Between 0 and 1, a scalar."""
        identity, clothing = read(inputs, *self.needs)
        return F.cosine_similarity(identity, clothing.detach(), dim=-1).square().mean()
