"""What every loss of this package is."""

from typing import ClassVar

from torch import Tensor, nn

from t2ireid_plugin.losses.inputs import LossInputs


class LossTerm(nn.Module):
    """A module with plain arguments that maps a batch to a scalar, without its weight."""

    needs: ClassVar[tuple[str, ...]]  # the fields of LossInputs that it reads, besides `pids`
    detached: ClassVar[tuple[str, ...]] = ()  # those of them that get no gradient

    several_photos: ClassVar[bool] = False  # whether it acts only on batches with several photos of a person

    def forward(self, inputs: LossInputs) -> Tensor:
        """Scalar loss of the batch."""
        raise NotImplementedError
