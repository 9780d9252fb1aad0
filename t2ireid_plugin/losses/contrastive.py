"""`info_nce`: an image and the identity text of the same person find each other in the batch."""

from torch import Tensor

from t2ireid_plugin.losses.arguments import choice, positive
from t2ireid_plugin.losses.base import LossTerm
from t2ireid_plugin.losses.inputs import LossInputs, read
from t2ireid_plugin.losses.matching import TARGETS, labels, symmetric_identity_matching


class InfoNCE(LossTerm):
    """Symmetric cross-entropy of cos(image, text) / tau with targets over all pairs of equal `pids`.

    1/2 [CE(S, T) + CE(S transposed, T)], S = cos(image_embeds, id_text_embeds) / tau as in CLIP (Radford
    et al. 2021, fig. 3). T is the row-normalised matrix of equal identities, not the diagonal: another
    photo of the same person is a positive here. `targets: diagonal` is the lineage's, for comparison.
    """

    needs = ("image_embeds", "id_text_embeds")

    def __init__(self, tau: float = 0.1, targets: str = "identity") -> None:
        super().__init__()
        self.tau = positive("tau", tau)
        self.targets = choice("targets", targets, TARGETS)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean of both directions, a scalar."""
        image, text = read(inputs, *self.needs)  # [B, D] each
        return symmetric_identity_matching(image, text, labels(inputs, self.targets), self.tau)
