"""`supcon`: supervised contrastive learning over images and texts together."""

import torch
from torch import Tensor

from t2ireid_plugin.losses.arguments import positive
from t2ireid_plugin.losses.base import LossInputs, LossTerm, read
from t2ireid_plugin.losses.matching import cosine_matrix, query_loss, same_identity


class SupCon(LossTerm):
    """-mean_i mean_p log softmax_a(cos(z_i, z_a) / tau) over the `2B` images and texts, a over all but i.

    Khosla et al. 2020, "Supervised Contrastive Learning", eq. 2 (the sum outside the logarithm); the two views are
    `image_embeds` and `id_text_embeds`, `[B, D]`. It matches image with image and text with text as well.
    """

    needs = ("image_embeds", "id_text_embeds")

    def __init__(self, tau: float = 0.1) -> None:
        super().__init__()
        self.tau = positive("tau", tau)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean over the images and texts, a scalar."""
        both = torch.cat(read(inputs, *self.needs))  # [2B, D]
        logits = cosine_matrix(both, both) / self.tau
        itself = torch.eye(len(both), dtype=torch.bool, device=both.device)
        positives = same_identity(inputs.pids.repeat(2)) & ~itself  # never empty: the other view of the row
        return query_loss(logits, positives, left_out=itself)
