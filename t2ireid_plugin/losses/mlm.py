"""`mlm`: masked language modelling, hidden words predicted from the rest of the text and from the image."""

import torch.nn.functional as F
from torch import Tensor, nn

from t2ireid_plugin.errors import ConfigError, short_repr
from t2ireid_plugin.losses.arguments import number
from t2ireid_plugin.losses.base import MLM_INPUTS, LossInputs, LossTerm, read
from t2ireid_plugin.modeling.fusion import SequenceScan


class MaskedLanguage(LossTerm):
    """Cross-entropy of the hidden words, predicted from image tokens `[B, L, D]` and word tokens `[B, W, D]`.

    Implicit relation reasoning (IRRA, Jiang and Ye, CVPR 2023), with Mamba in both directions over one sequence
    (`SequenceScan`) in place of cross-attention. To predict "[MASK] trousers" the model must look at the photo, and so
    the encoders learn which words belong to which part of it. The scan belongs to the term and is used in training
    only, whatever fusion the model has.

    Args:
        feature_dim: `D`.
        vocab_size: number of words of the text encoder.
        share: share of the words that the model hides.
        dim, num_layers: width and layers of the scan.
    """

    needs = MLM_INPUTS

    def __init__(
        self, feature_dim: int = 768, vocab_size: int = 30522, share: float = 0.15, dim: int = 256, num_layers: int = 1
    ) -> None:
        super().__init__()
        self.share = number("share", share, low=0.0, high=1.0)
        for name, value in (("dim", dim), ("num_layers", num_layers)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be a whole number above 0, got {short_repr(value)}")
        self.scan = SequenceScan(dim, num_layers=num_layers, width=feature_dim)
        self.classifier = nn.Linear(dim, vocab_size)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean over all hidden words of the batch, a scalar; 0 when none is hidden."""
        image, words, mask, hidden = read(inputs, *self.needs)
        is_hidden = hidden >= 0  # [B, W]
        _, scanned = self.scan.scan(image, words, mask)
        logits = self.classifier(scanned[is_hidden])  # [hidden words, vocab_size]
        return F.cross_entropy(logits, hidden[is_hidden], reduction="sum") / is_hidden.sum().clamp(min=1)
