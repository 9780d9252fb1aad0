"""`cloth_match`: contrastive matching of an image's clothing embedding with its clothing text."""

from torch import Tensor

from t2ireid_plugin.errors import check_choice
from t2ireid_plugin.losses.arguments import number, positive
from t2ireid_plugin.losses.base import LossInputs, LossTerm, read
from t2ireid_plugin.losses.lineage import TARGETS, target_labels, with_wrong_texts
from t2ireid_plugin.losses.matching import symmetric_identity_matching


class ClothMatch(LossTerm):
    """1/2 [CE(S, T) + CE(S transposed, T)], S = cos(cloth_image_embeds, cloth_text_embeds) / tau, both `[B, D]`.

    From the lineage (see `lineage.py`). T is spread over all pairs of equal `pids`: in the text-to-image benchmarks a
    person wears one outfit throughout. Every text in the batch must describe its own image; a caption drawn at random
    is not a positive. `targets: diagonal` and `wrong_share: 0.5` restore the lineage's targets and wrong texts.
    """

    needs = ("cloth_image_embeds", "cloth_text_embeds")

    def __init__(self, tau: float = 0.1, targets: str = "identity", wrong_share: float = 0.0) -> None:
        super().__init__()
        check_choice("targets", targets, TARGETS)
        self.targets = targets
        self.tau = positive("tau", tau)
        self.wrong_share = number("wrong_share", wrong_share, low=0.0, high=1.0)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean of both directions, a scalar."""
        image, text = read(inputs, *self.needs)
        if self.wrong_share > 0:
            text = with_wrong_texts(text, self.wrong_share)
        return symmetric_identity_matching(image, text, target_labels(inputs.pids, self.targets), self.tau)
