"""`decouple`: independence of the identity and the clothing features of a batch."""

import torch.nn.functional as F
from torch import Tensor, nn

from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.losses.arguments import flag
from t2ireid_plugin.losses.base import LossInputs, LossTerm, read
from t2ireid_plugin.losses.lineage import uncentred_dependence


def hsic(a: Tensor, b: Tensor) -> Tensor:
    """Biased HSIC of `a` `[B, D]` and `b` `[B, E]` under cosine kernels: trace(K H L H) / (B - 1)^2.

    The empirical HSIC of Gretton et al. 2005, "Measuring Statistical Dependence with Hilbert-Schmidt Norms" (H centres
    the Gram matrices K and L). For a kernel that is an inner product it equals the squared Frobenius norm of the
    cross-covariance of the normalised rows, which rounding cannot turn negative.

    The estimate is biased upwards, by about 1/B where the features spread over many more than B directions: there even
    independent features score almost as high as equal ones. Compare values only at the same batch size, and expect
    little of the term in small batches.
    """
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    a, b = a - a.mean(dim=0), b - b.mean(dim=0)
    # Centred rows of a batch of one are 0, so any divisor but 0 gives the right answer.
    cross_covariance = a.T @ b / max(len(a) - 1, 1)  # [D, E]
    return cross_covariance.square().sum()


class Decouple(LossTerm):
    """HSIC between `id_embeds` and `cloth_embeds`, both `[B, 768]`; see `hsic`.

    It reads the features themselves, not the projections of `bio` and `cloth`: a projection could become independent
    while the features stay entangled. `centred: false` is the lineage's `uncentred_dependence` of these projections.
    """

    needs = ("id_embeds", "cloth_embeds")

    def __init__(
        self, centred: bool = True, id_projection: nn.Linear | None = None, cloth_projection: nn.Linear | None = None
    ) -> None:
        super().__init__()
        self.projections: tuple[nn.Linear, nn.Linear] | None = None
        if not flag("centred", centred):
            if id_projection is None or cloth_projection is None:
                raise ConfigError(
                    "centred: false compares the projections of bio and cloth; give both a weight above 0"
                )
            self.projections = (id_projection, cloth_projection)  # a tuple hides them: bio and cloth register them

    def forward(self, inputs: LossInputs) -> Tensor:
        """Dependence within the batch, a scalar; at least 0 when centred."""
        identity, clothing = read(inputs, *self.needs)
        if self.projections is None:
            return hsic(identity, clothing)
        id_projection, cloth_projection = self.projections
        return uncentred_dependence(id_projection(identity), cloth_projection(clothing))
