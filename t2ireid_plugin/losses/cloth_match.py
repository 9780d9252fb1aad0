"""`cloth_match`: the clothing embedding of an image and the clothing text find each other."""

from torch import Tensor

from t2ireid_plugin.losses.arguments import positive
from t2ireid_plugin.losses.base import LossTerm
from t2ireid_plugin.losses.inputs import LossInputs, read
from t2ireid_plugin.losses.matching import symmetric_identity_matching


class ClothMatch(LossTerm):
    """Symmetric cross-entropy of cos(cloth_image_embeds, cloth_text_embeds) / tau, both `[B, D]`.

    Targets are spread over all pairs of equal `pids`: in the text-to-image benchmarks a person wears one
    outfit throughout. Every text in the batch must describe its own image; a caption drawn at random is
    no positive, and the term has no flag to mark one.
    """

    needs = ("cloth_image_embeds", "cloth_text_embeds")

    def __init__(self, tau: float = 0.1) -> None:
        super().__init__()
        self.tau = positive("tau", tau)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean of both directions, a scalar."""
        image, text = read(inputs, *self.needs)
        return symmetric_identity_matching(image, text, inputs.pids, self.tau)
