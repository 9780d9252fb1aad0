"""`cross_outfit`: photos of a person in different outfits belong together."""

import torch
from torch import Tensor

from t2ireid_plugin.losses.arguments import positive
from t2ireid_plugin.losses.base import LossInputs, LossTerm, read
from t2ireid_plugin.losses.matching import cosine_matrix, row_normalised, same_identity


class CrossOutfit(LossTerm):
    """-mean_i mean_p log softmax_a(cos(z_i, z_a) / tau) over `image_embeds` `[B, D]`.

    p are the rows of the same person in another outfit, a these and the rows of all other people; a photo of the person
    in the same outfit, or in one that the annotation does not number, is neither. i are the rows that have a p.
    Khosla et al. 2020, eq. 2, where the clothing is no help; cloth-changing ReID trains on such pairs.
    """

    needs = ("image_embeds", "outfits")
    several_photos = True

    def __init__(self, tau: float = 0.1) -> None:
        super().__init__()
        self.tau = positive("tau", tau)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean over the rows with another outfit in the batch, a scalar; 0 without any."""
        images, outfits = read(inputs, *self.needs)
        known, same = outfits >= 0, same_identity(inputs.pids)
        positives = same & (outfits[:, None] != outfits) & known[:, None] & known
        logits = cosine_matrix(images, images) / self.tau
        log_p = logits.masked_fill(same & ~positives, torch.finfo(logits.dtype).min).log_softmax(dim=1)
        total = (row_normalised(positives, log_p.dtype) * log_p.masked_fill(~positives, 0.0)).sum()
        return -total / positives.any(dim=1).sum().clamp(min=1)
