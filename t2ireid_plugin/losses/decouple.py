"""`decouple`: identity and clothing features of a batch should not predict each other."""

import torch.nn.functional as F
from torch import Tensor

from t2ireid_plugin.losses.base import LossTerm
from t2ireid_plugin.losses.inputs import LossInputs, read


def hsic(a: Tensor, b: Tensor) -> Tensor:
    """Biased HSIC of `a` `[B, D]` and `b` `[B, E]` under cosine kernels: trace(K H L H) / (B - 1)^2.

    The empirical HSIC of Gretton et al. 2005, "Measuring Statistical Dependence with Hilbert-Schmidt
    Norms" (H centres the Gram matrices K and L). For a kernel that is an inner product it equals the
    squared Frobenius norm of the cross-covariance of the normalised rows, which rounding cannot turn
    negative.

    The estimate is biased upwards, by about 1/B where the features spread over many more than B
    directions: there even independent features score almost as high as equal ones. Compare values only at
    the same batch size, and expect little of the term in small batches.
    """
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    a, b = a - a.mean(dim=0), b - b.mean(dim=0)
    # Centred rows of a batch of one are 0, so any divisor but 0 gives the right answer.
    cross_covariance = a.T @ b / max(len(a) - 1, 1)  # [D, E]
    return cross_covariance.square().sum()


class Decouple(LossTerm):
    """HSIC between `id_embeds` and `cloth_embeds`, both `[B, 768]`.

    It reads the features themselves, not the projections of `bio` and `cloth`: a projection could become
    independent while the features stay entangled.
    """

    needs = ("id_embeds", "cloth_embeds")

    def __init__(self) -> None:  # spelt out because LossTerms reads the valid arguments off the signature
        super().__init__()

    def forward(self, inputs: LossInputs) -> Tensor:
        """Dependence within the batch, a scalar of at least 0."""
        return hsic(*read(inputs, *self.needs))
