"""`tal` and `tal_selected`: triplet alignment with soft positives and all negatives (RDE)."""

import torch
from torch import Tensor

from t2ireid_plugin.errors import check_choice
from t2ireid_plugin.losses.arguments import number, positive
from t2ireid_plugin.losses.base import SELECTED, LossInputs, LossTerm, read
from t2ireid_plugin.losses.matching import cosine_matrix, same_identity


def triplet_alignment(scores: Tensor, pids: Tensor, margin: float, tau: float) -> Tensor:
    """[margin - S_i+ + tau log sum_j- exp(scores_ij / tau)]_+ of each row i: `[B, B], [B] -> [B]`.

    S_i+ is the mean of the row's positives under softmax(scores / tau) among them, the softmax without gradient; j-
    runs over all negatives, of which the largest dominates at a small tau. Qin et al., "Noisy-Correspondence Learning
    for Text-to-Image Person Re-identification", CVPR 2024 (TAL). Their code bounds the inner sum by 1e36, which no sum
    reaches at their tau, and which the logarithm of the sum does not need.
    """
    positives = same_identity(pids)
    # Not -inf: a row without a negative, or a logsumexp of nothing, would have NaN for a gradient.
    lowest = torch.finfo(scores.dtype).min
    weights = (scores / tau).masked_fill(~positives, lowest).softmax(dim=1).detach()
    alike = (weights * scores).sum(dim=1)
    unlike = tau * (scores / tau).masked_fill(positives, lowest).logsumexp(dim=1)
    return (margin - alike + unlike).clamp(min=0)


class TAL(LossTerm):
    """`triplet_alignment` from image to text plus from text to image, over cosines.

    `image_embeds` and `id_text_embeds` are `[B, D]`. A row whose positives lead by the margin costs nothing, and a
    wrong caption, which never leads, cannot dominate as it does under a logarithm. 0 for a batch of one person. Pairs
    that `LossInputs.clean` takes for noise cost nothing, and stay negatives of the others.

    Args:
        margin: the lead of the positives.
        tau: temperature of both sums.
        reduction: `mean` over the pairs that count, whose weight does not depend on the batch, or `sum` as in the
            authors' code.
    """

    needs = ("image_embeds", "id_text_embeds")

    def __init__(self, margin: float = 0.1, tau: float = 0.015, reduction: str = "mean") -> None:
        super().__init__()
        self.margin = number("margin", margin, low=0.0)
        self.tau = positive("tau", tau)
        check_choice("reduction", reduction, ("mean", "sum"))
        self.reduction = reduction

    def per_pair(self, inputs: LossInputs) -> Tensor:
        """Sum of both directions for each pair, `[B]` of at least 0."""
        image, text = read(inputs, *self.needs)
        scores = cosine_matrix(image, text)  # [B, B]
        image_to_text = triplet_alignment(scores, inputs.pids, self.margin, self.tau)
        return image_to_text + triplet_alignment(scores.T, inputs.pids, self.margin, self.tau)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Sum or mean over the pairs, a scalar of at least 0."""
        losses = self.per_pair(inputs)
        clean = torch.ones_like(losses) if inputs.clean is None else inputs.clean.to(losses)
        total = (clean * losses).sum()
        return total if self.reduction == "sum" else total / clean.sum().clamp(min=1)


class SelectedTAL(TAL):
    """`TAL` of the embeddings of the selected tokens, `[B, E]` each, which need `model.token_selection`."""

    needs = SELECTED
