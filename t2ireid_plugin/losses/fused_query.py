"""`fused_query`: retrieval of a person's other photos by an image together with its text."""

import torch
from torch import Tensor

from t2ireid_plugin.losses.arguments import positive
from t2ireid_plugin.losses.base import LossInputs, LossTerm, read
from t2ireid_plugin.losses.matching import cosine_matrix, row_normalised, same_identity


class FusedQuery(LossTerm):
    """Cross-entropy of scale * cos(fused_embeds, image_embeds) / tau with the person's other photos.

    Ours. It trains the fusion and `scale` `[1]` as they are used in retrieval with image and text as the query and
    images as the gallery. `fused_embeds` and `image_embeds` are `[B, D]`. A fused embedding has seen its own image, so
    that image under any of its captions is left out: a query could answer with itself and learn nothing from its text.
    The images keep their gradient. A batch needs several photos per person (an identity sampler); a photo drawn with
    several captions counts once for each.

    `scale` may become negative; the loss punishes the reversed ranking, and the gradient leads back.
    """

    needs = ("fused_embeds", "image_embeds", "scale", "photos")
    several_photos = True

    def __init__(self, tau: float = 0.1) -> None:
        super().__init__()
        self.tau = positive("tau", tau)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean over the queries that have an answer, a scalar; 0, connected to the graph, when none has."""
        fused, image, scale = read(inputs, "fused_embeds", "image_embeds", "scale")
        logits = scale * cosine_matrix(fused, image) / self.tau  # [B, B]
        own_photo = inputs.photos[:, None] == inputs.photos[None, :]  # [B, B], not a candidate
        positives = same_identity(inputs.pids) & ~own_photo
        # Not -inf: a row that is all own photo would be NaN, and so would a target of 0 times -inf.
        log_p = logits.masked_fill(own_photo, torch.finfo(logits.dtype).min).log_softmax(dim=1)
        per_query = -(row_normalised(positives, log_p.dtype) * log_p).sum(dim=1)
        return per_query.sum() / positives.any(dim=1).sum().clamp(min=1)
