"""`triplet`: batch-hard triplet loss over images and texts."""

import torch
from torch import Tensor

from t2ireid_plugin.losses.arguments import number
from t2ireid_plugin.losses.base import LossInputs, LossTerm, read
from t2ireid_plugin.losses.matching import same_identity


class Triplet(LossTerm):
    """Mean over the `2B` images and texts of [margin + hardest positive distance - hardest negative distance]_+.

    Hermans et al. 2017, "In Defense of the Triplet Loss for Person Re-Identification", eq. 5 (batch hard), as
    ``torchreid.losses.TripletLoss`` with Euclidean distances, over `image_embeds` and `id_text_embeds`, `[B, D]`.
    Rows without a negative, of a batch of one person, are left out.
    """

    needs = ("image_embeds", "id_text_embeds")

    def __init__(self, margin: float = 0.3) -> None:
        super().__init__()
        self.margin = number("margin", margin, low=0.0)

    def forward(self, inputs: LossInputs) -> Tensor:
        """A scalar of at least 0."""
        both = torch.cat(read(inputs, *self.needs))  # [2B, D]
        squared = (both[:, None] - both[None, :]).square().sum(dim=-1)  # [2B, 2B], exact where rows are equal
        distances = squared.clamp(min=1e-12).sqrt()
        alike = same_identity(inputs.pids.repeat(2))
        hardest_positive = distances.masked_fill(~alike, 0.0).amax(dim=1)
        hardest_negative = distances.masked_fill(alike, torch.finfo(distances.dtype).max).amin(dim=1)
        return (self.margin + hardest_positive - hardest_negative).clamp(min=0).mean()
