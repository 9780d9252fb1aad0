"""`gate_regularization`: no channel of the gate may belong to one branch for the whole batch."""

from torch import Tensor

from t2ireid_plugin.losses.arguments import flag, number
from t2ireid_plugin.losses.base import LossTerm
from t2ireid_plugin.losses.inputs import LossInputs, read


class GateRegularization(LossTerm):
    """mean_d (mean_b gate[b, d] - target)^2 for `gate` `[B, D]`.

    The mean over the batch comes before the square. MSE(gate, 0.5), with the square first, equals this
    plus the variance within the batch, and so pulls every sample to the same constant; here a channel may
    open for one image and close for another as long as it is balanced on average. `of_each: true` takes the square
    first, as the lineage did.
    """

    needs = ("gate",)

    def __init__(self, target: float = 0.5, of_each: bool = False) -> None:
        super().__init__()
        self.target = number("target", target, low=0.0, high=1.0)
        self.of_each = flag("of_each", of_each)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean over the channels, a scalar."""
        (gate,) = read(inputs, *self.needs)
        if self.of_each:
            return (gate - self.target).square().mean()
        return (gate.mean(dim=0) - self.target).square().mean()
