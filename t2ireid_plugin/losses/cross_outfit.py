"""`cross_outfit`: photos of a person in different outfits belong together."""

from torch import Tensor

from t2ireid_plugin.losses.arguments import positive
from t2ireid_plugin.losses.base import LossInputs, LossTerm, read
from t2ireid_plugin.losses.matching import cosine_matrix, other_outfit, query_loss, same_identity


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
        positives = other_outfit(inputs.pids, outfits)
        logits = cosine_matrix(images, images) / self.tau
        return query_loss(logits, positives, left_out=same_identity(inputs.pids) & ~positives)
