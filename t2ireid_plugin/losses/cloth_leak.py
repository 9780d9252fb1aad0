"""`cloth_leak`: independence of the identity features from the clothing text."""

from torch import Tensor

from t2ireid_plugin.losses.base import LossInputs, LossTerm, read
from t2ireid_plugin.losses.decouple import hsic


class ClothingLeak(LossTerm):
    """HSIC between `id_embeds` `[B, 768]` and `cloth_text_embeds` `[B, 256]`, without gradient for the text.

    `decouple` keeps two features of the photo apart, but these may be independent while both encode the clothing. Here
    the identity features must be independent of the clothing's own description. The text is detached so that it keeps
    describing the clothing. Ours; for HSIC see `hsic`.
    """

    needs = ("id_embeds", "cloth_text_embeds")

    def forward(self, inputs: LossInputs) -> Tensor:
        """At least 0, a scalar; see `hsic` for its bias in small batches."""
        identity, clothing = read(inputs, *self.needs)
        return hsic(identity, clothing.detach())
