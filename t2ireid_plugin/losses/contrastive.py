"""`info_nce`: contrastive matching of images with identity texts."""

from torch import Tensor

from t2ireid_plugin.errors import check_choice
from t2ireid_plugin.losses.arguments import positive
from t2ireid_plugin.losses.base import LossInputs, LossTerm, read
from t2ireid_plugin.losses.lineage import TARGETS, target_labels
from t2ireid_plugin.losses.matching import identity_matching


class InfoNCE(LossTerm):
    """1/2 [CE(S, T) + CE(S transposed, T)], S = cos(image_embeds, id_text_embeds) / tau, both `[B, D]`.

    As in CLIP (Radford et al. 2021, fig. 3), except that T is the row-normalised matrix of equal `pids`, not the
    diagonal: another photo of the same person is a positive. `targets: diagonal` is CLIP's and the lineage's (see
    `lineage.py`).
    """

    needs = ("image_embeds", "id_text_embeds")

    def __init__(self, tau: float = 0.1, targets: str = "identity") -> None:
        super().__init__()
        check_choice("targets", targets, TARGETS)
        self.targets = targets
        self.tau = positive("tau", tau)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean of both directions, a scalar."""
        image, text = read(inputs, *self.needs)
        labels = target_labels(inputs.pids, self.targets)
        to_text, to_image = (identity_matching(*sides, labels, self.tau) for sides in ((image, text), (text, image)))
        return 0.5 * (to_text + to_image)
