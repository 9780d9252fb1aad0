"""`cloth_leak`: identity features should not tell what the clothing text says."""

from torch import Tensor

from t2ireid_plugin.losses.base import LossTerm
from t2ireid_plugin.losses.decouple import hsic
from t2ireid_plugin.losses.inputs import LossInputs, read


class ClothingLeak(LossTerm):
    """HSIC between `id_embeds` `[B, 768]` and `cloth_text_embeds` `[B, 256]`, without gradient for the text.

    `decouple` keeps two features of the photo apart, and these may be independent while both show the clothing. Here
    the clothing's own description is what the identity features must be independent of. Detached, the text goes on
    describing the clothing, instead of forgetting it.
    """

    needs = ("id_embeds", "cloth_text_embeds")
    detached = ("cloth_text_embeds",)

    def __init__(self) -> None:  # spelt out because LossTerms reads the valid arguments off the signature
        super().__init__()

    def forward(self, inputs: LossInputs) -> Tensor:
        """At least 0, a scalar; see `hsic` for its bias in small batches."""
        identity, clothing = read(inputs, *self.needs)
        return hsic(identity, clothing.detach())
