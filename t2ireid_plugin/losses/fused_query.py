"""`fused_query`: retrieval of a person's other photos by an image together with its text."""

import torch
from torch import Tensor

from t2ireid_plugin.losses.arguments import number, positive
from t2ireid_plugin.losses.base import LossInputs, LossTerm, read
from t2ireid_plugin.losses.matching import cosine_matrix, query_loss, same_identity


class FusedQuery(LossTerm):
    """Cross-entropy of scale * cos(fused_embeds, image_embeds) / tau with the person's other photos.

    Ours. It trains the fusion and `scale` `[1]` as they are used in retrieval with image and text as the query and
    images as the gallery. `fused_embeds` and `image_embeds` are `[B, D]`; fused embeddings of both branches `[B, 2 D]`
    are compared with `image_embeds` and `cloth_image_embeds` side by side. A fused embedding has seen its own image, so
    that image under any of its captions is left out: a query could answer with itself and learn nothing from its text.
    The images keep their gradient. A batch needs several photos per person (an identity sampler); a photo drawn with
    several captions counts once for each.

    `any_share` of the loss asks for any of the photos, -log sum p, and the rest for all of them, -mean log p.

    `scale` may become negative; the loss punishes the reversed ranking, and the gradient leads back.
    """

    needs = ("fused_embeds", "image_embeds", "scale", "photos")
    several_photos = True

    def __init__(self, tau: float = 0.1, any_share: float = 0.0) -> None:
        super().__init__()
        self.tau, self.any_share = positive("tau", tau), number("any_share", any_share, low=0.0, high=1.0)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean over the queries that have an answer, a scalar; 0, connected to the graph, when none has."""
        fused, gallery, scale = read(inputs, "fused_embeds", "image_embeds", "scale")
        if fused.shape[1] != gallery.shape[1]:
            gallery = both_branches(inputs)
        own_photo = inputs.photos[:, None] == inputs.photos[None, :]  # [B, B], not a candidate
        positives = same_identity(inputs.pids) & ~own_photo
        return query_loss(scale * cosine_matrix(fused, gallery) / self.tau, positives, own_photo, self.any_share)


def both_branches(inputs: LossInputs) -> Tensor:
    """The images by both branches with equal weights, `[B, 2 D]`."""
    return torch.cat(read(inputs, "image_embeds", "cloth_image_embeds"), dim=1)
