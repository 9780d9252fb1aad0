"""`words`: each branch predicts the words of its own text."""

import torch.nn.functional as F
from torch import Tensor, nn

from t2ireid_plugin.losses.base import LossInputs, LossTerm, read
from t2ireid_plugin.losses.matching import standardised


class BranchWords(LossTerm):
    """½ [BCE(identity words, W_id z(id_embeds)) + BCE(clothing words, W_cloth z(cloth_embeds))], W with a bias.

    Features `[B, D]` and words `[B, V]`; z is a batch normalisation without weights of its own, as a linear layer
    follows. A supervision that does not depend on the other rows of the batch; ours.
    """

    needs = ("id_embeds", "cloth_embeds", "id_words", "cloth_words")

    def __init__(self, feature_dim: int = 768, num_words: int = 300) -> None:
        super().__init__()
        self.identity = nn.Linear(feature_dim, num_words)
        self.clothing = nn.Linear(feature_dim, num_words)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean over the batch, the words and both branches, a scalar."""
        identity, clothing, id_words, cloth_words = read(inputs, *self.needs)
        sides = (self.identity, identity, id_words), (self.clothing, clothing, cloth_words)
        both = [F.binary_cross_entropy_with_logits(head(standardised(x)), words.to(x)) for head, x, words in sides]
        return 0.5 * (both[0] + both[1])
