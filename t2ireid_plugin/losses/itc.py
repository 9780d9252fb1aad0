"""`n_itc`, `n_itc_view`, `r_itc` and `c_itc`: the image-text terms of TBPS-CLIP.

Cao et al., "An Empirical Study of CLIP for Text-based Person Search", AAAI 2024, with the values of the authors' code.
"""

import math

import torch
from torch import Tensor, nn

from t2ireid_plugin.losses.arguments import number, positive
from t2ireid_plugin.losses.base import LossInputs, LossTerm, read
from t2ireid_plugin.losses.matching import cosine_matrix, row_normalised, same_identity
from t2ireid_plugin.losses.sdm import distribution_matching

_MAX_SCALE = 100.0


class LogitScaled(LossTerm):
    """A term on cosines times a learned scale; `LossTerms` gives one parameter, the first term's, to all of them.

    `scale` is where it starts. The parameter is its logarithm, as in CLIP (Radford et al. 2021, section 2.5).
    """

    def __init__(self, scale: float = 14.285714, logit_scale: nn.Parameter | None = None) -> None:
        super().__init__()
        start = math.log(positive("scale", scale))
        self.logit_scale = nn.Parameter(torch.tensor(start)) if logit_scale is None else logit_scale

    def scale(self) -> Tensor:
        """The scale, at most 100, a scalar; the limit passes gradients, as the authors' assignment to `.data` does."""
        scale = self.logit_scale.exp()
        return scale + (scale.clamp(max=_MAX_SCALE) - scale).detach()


def soft_matching(logits: Tensor, pids: Tensor, soft: float) -> Tensor:
    """Cross-entropy of softmax(logits) with (1 - soft) · (uniform over equal `pids`) + soft · (itself, fixed).

    `[B, B], [B] -> scalar`, the mean over the rows.
    """
    log_p = logits.log_softmax(dim=1)
    targets = (1 - soft) * row_normalised(same_identity(pids), log_p.dtype) + soft * log_p.detach().exp()
    return -(targets * log_p).sum(dim=1).mean()


class NITC(LogitScaled):
    """N-ITC: the mean of `soft_matching` from image to text and from text to image, both `[B, D]`.

    The share of the model's own answer in the targets grows from 0 to `soft` in the first epoch. The authors encode the
    texts once more for it, with other dropout; here it is the answer of the same pass.
    """

    needs = ("image_embeds", "id_text_embeds")

    def __init__(self, soft: float = 0.5, scale: float = 14.285714, logit_scale: nn.Parameter | None = None) -> None:
        super().__init__(scale, logit_scale)
        self.soft = number("soft", soft, low=0.0, high=1.0)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean of both directions, a scalar."""
        image, text = read(inputs, *self.needs)
        logits, soft = self.scale() * cosine_matrix(image, text), self.soft * min(1.0, inputs.epoch)
        to_text, to_image = (soft_matching(side, inputs.pids, soft) for side in (logits, logits.T))
        return 0.5 * (to_text + to_image)


class NITCView(NITC):
    """`NITC` of a second view of the image, under random changes of its own: the authors' multi-view supervision.

    They take the mean of both, which is a weight of 0.5 each.
    """

    needs = ("view_embeds", "id_text_embeds")


class RITC(LogitScaled):
    """R-ITC: the mean of `distribution_matching` in both directions; the KL divergence opposite to that of N-ITC."""

    needs = ("image_embeds", "id_text_embeds")

    def __init__(self, eps: float = 0.01, scale: float = 14.285714, logit_scale: nn.Parameter | None = None) -> None:
        super().__init__(scale, logit_scale)
        self.eps = positive("eps", eps)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean of both directions, a scalar."""
        image, text = read(inputs, *self.needs)
        tau = 1 / self.scale()
        to_text, to_image = (
            distribution_matching(*sides, inputs.pids, tau, self.eps) for sides in ((image, text), (text, image))
        )
        return 0.5 * (to_text + to_image)


class CITC(LossTerm):
    """C-ITC: within · mean (II - TT)² + across · mean (IT - TI)², of the cosines of images I and texts T, `[B, D]`.

    Cyclic consistency of CyCLIP (Goel et al., NeurIPS 2022, eqs. 3 and 4).
    """

    needs = ("image_embeds", "id_text_embeds")

    def __init__(self, within: float = 0.25, across: float = 0.25) -> None:
        super().__init__()
        self.within, self.across = number("within", within, low=0.0), number("across", across, low=0.0)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean over all pairs of the batch, a scalar."""
        image, text = read(inputs, *self.needs)
        within = cosine_matrix(image, image) - cosine_matrix(text, text)  # [B, B]
        across = cosine_matrix(image, text) - cosine_matrix(text, image)
        return self.within * within.square().mean() + self.across * across.square().mean()
