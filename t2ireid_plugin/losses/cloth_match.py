"""`cloth_match`: contrastive matching of an image's clothing embedding with its clothing text."""

from torch import Tensor

from t2ireid_plugin.losses.arguments import number
from t2ireid_plugin.losses.base import LossInputs, read
from t2ireid_plugin.losses.contrastive import InfoNCE
from t2ireid_plugin.losses.lineage import with_wrong_texts


class ClothMatch(InfoNCE):
    """`InfoNCE` of `cloth_image_embeds` and `cloth_text_embeds`, both `[B, D]`.

    From the lineage (see `lineage.py`). The targets are spread over all pairs of equal `pids`: in the text-to-image
    benchmarks a person wears one outfit throughout. Every text in the batch must describe its own image; a caption
    drawn at random is not a positive, except for the lineage's `wrong_share: 0.5`.
    """

    needs = ("cloth_image_embeds", "cloth_text_embeds")

    def __init__(self, tau: float = 0.1, targets: str = "identity", wrong_share: float = 0.0) -> None:
        super().__init__(tau, targets)
        self.wrong_share = number("wrong_share", wrong_share, low=0.0, high=1.0)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean of both directions, a scalar."""
        if self.wrong_share > 0:
            (text,) = read(inputs, "cloth_text_embeds")
            inputs = inputs._replace(cloth_text_embeds=with_wrong_texts(text, self.wrong_share))
        return super().forward(inputs)
