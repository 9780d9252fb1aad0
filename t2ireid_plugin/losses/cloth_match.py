"""`cloth_match`: the clothing embedding of an image and the clothing text find each other."""

import torch
from torch import Tensor

from t2ireid_plugin.losses.arguments import choice, number, positive
from t2ireid_plugin.losses.base import LossTerm
from t2ireid_plugin.losses.inputs import LossInputs, read
from t2ireid_plugin.losses.matching import TARGETS, labels, symmetric_identity_matching


class ClothMatch(LossTerm):
    """Symmetric cross-entropy of cos(cloth_image_embeds, cloth_text_embeds) / tau, both `[B, D]`.

    Targets are spread over all pairs of equal `pids`: in the text-to-image benchmarks a person wears one
    outfit throughout. Every text in the batch must describe its own image; a caption drawn at random is
    no positive, and the term has no flag to mark one. In the lineage half of the texts were just that, called
    positives: `wrong_share: 0.5` gives so many rows the text of another row, `targets: diagonal` its targets.
    """

    needs = ("cloth_image_embeds", "cloth_text_embeds")

    def __init__(self, tau: float = 0.1, targets: str = "identity", wrong_share: float = 0.0) -> None:
        super().__init__()
        self.tau = positive("tau", tau)
        self.targets = choice("targets", targets, TARGETS)
        self.wrong_share = number("wrong_share", wrong_share, low=0.0, high=1.0)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean of both directions, a scalar."""
        image, text = read(inputs, *self.needs)
        if self.wrong_share > 0:
            wrong = torch.rand(len(text), device=text.device) < self.wrong_share
            drawn = torch.randint(len(text), (len(text),), device=text.device)
            text = torch.where(wrong[:, None], text[drawn], text)
        return symmetric_identity_matching(image, text, labels(inputs, self.targets), self.tau)
