"""`gate_regularization`: balance of each channel of the gate between the two branches."""

from torch import Tensor

from t2ireid_plugin.losses.arguments import flag, number
from t2ireid_plugin.losses.base import LossInputs, LossTerm, read


class GateRegularization(LossTerm):
    """mean_d (mean_b gate[b, d] - target)^2 for `gate` `[B, D]`.

    The mean over the batch comes before the square. With the square first, MSE(gate, target), the term is larger by
    the variance within the batch and so pulls every sample to the same constant; here a channel may open for one image
    and close for another as long as it is balanced on average. `of_each: true` takes the square first, as in the
    lineage (see `lineage.py`), from which the term comes.
    """

    needs = ("gate",)

    def __init__(self, target: float = 0.5, of_each: bool = False) -> None:
        super().__init__()
        self.target = number("target", target, low=0.0, high=1.0)
        self.of_each = flag("of_each", of_each)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean over the channels, a scalar."""
        (gate,) = read(inputs, *self.needs)
        balance = gate if self.of_each else gate.mean(dim=0)
        return (balance - self.target).square().mean()
