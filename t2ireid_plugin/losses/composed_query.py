"""`composed_query`: retrieval of a person in another outfit by a photo together with words for that outfit."""

from torch import Tensor

from t2ireid_plugin.losses.arguments import positive
from t2ireid_plugin.losses.base import LossInputs, LossTerm, read
from t2ireid_plugin.losses.fused_query import both_branches
from t2ireid_plugin.losses.matching import cosine_matrix, query_loss, same_identity


class ComposedQuery(LossTerm):
    """Cross-entropy of scale * cos(composed_embeds, both image embeddings) / tau with the photos of the described look.

    `composed_embeds` `[B, 2 D]` fuse each photo with the clothing text of a row of the same person in another outfit,
    `composed_outfits` `[B]`; rows with -1 there have none and are no query. Matches are the person's photos in that
    outfit. The query's own photo is left out; other photos of the person are wrong answers, as in the protocol.
    """

    needs = (
        "composed_embeds", "composed_outfits", "image_embeds", "cloth_image_embeds", "scale", "outfits", "photos"
    )  # fmt: skip
    several_photos = True

    def __init__(self, tau: float = 0.02) -> None:
        super().__init__()
        self.tau = positive("tau", tau)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean over the queries, a scalar; 0, connected to the graph, without any."""
        composed, described, scale, outfits = read(inputs, "composed_embeds", "composed_outfits", "scale", "outfits")
        own_photo = inputs.photos[:, None] == inputs.photos
        in_outfit = (described[:, None] == outfits) & (described[:, None] >= 0)
        matches = in_outfit & same_identity(inputs.pids) & ~own_photo
        return query_loss(scale * cosine_matrix(composed, both_branches(inputs)) / self.tau, matches, own_photo)
