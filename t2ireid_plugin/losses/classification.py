"""`cls`: identity classification of the disentangled identity features."""

import torch.nn.functional as F
from torch import Tensor

from t2ireid_plugin.losses.arguments import number
from t2ireid_plugin.losses.base import LossInputs, LossTerm, read


class IdentityClassification(LossTerm):
    """Cross-entropy of `id_logits` `[B, num_classes]` with `pids`.

    From the lineage (see `lineage.py`). `label_smoothing` e mixes the one-hot target with the uniform one,
    (1 - e) onehot + e / num_classes (Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7).
    """

    needs = ("id_logits",)

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = number("label_smoothing", label_smoothing, low=0.0, high=1.0)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean cross-entropy over the batch, a scalar."""
        (logits,) = read(inputs, *self.needs)
        return F.cross_entropy(logits, inputs.pids, label_smoothing=self.label_smoothing)
