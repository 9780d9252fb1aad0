"""`leak`: each branch loses what a linear reader finds in it of the other branch's text."""

import torch
from torch import Tensor

from t2ireid_plugin.losses.arguments import number
from t2ireid_plugin.losses.base import LossInputs, LossTerm, read
from t2ireid_plugin.losses.matching import standardised

MEMORY = 2048  # rows of earlier batches beside the batch
RIDGE = 0.05  # on the covariance of features with variance 1


class WordLeak(LossTerm):
    """identity · R²(id_embeds → clothing words) + clothing · R²(cloth_embeds → identity words), from `start` on.

    R² is the share of the variance of the words `[N, V]` that ridge regression reads off the standardised features
    `[N, D]`, both centred, of the batch and of the last 2,048 rows before it. Its solution is in closed form, so the
    gradient in the batch includes how the reader adapts, unlike that of an adversary which is trained in turns. Against
    linear readers only; ours.

    Args:
        feature_dim, num_words: `D`, `V`.
        identity, clothing: weights of the two shares.
        start: share of the training before the term acts; the memory is filled from the beginning.
    """

    needs = ("id_embeds", "cloth_embeds", "id_words", "cloth_words", "progress")
    memory: Tensor
    filled: Tensor

    def __init__(
        self,
        feature_dim: int = 768,
        num_words: int = 300,
        identity: float = 1.0,
        clothing: float = 0.3,
        start: float = 0.1,
    ) -> None:
        super().__init__()
        self.identity, self.clothing = number("identity", identity, low=0.0), number("clothing", clothing, low=0.0)
        self.start = number("start", start, low=0.0, high=1.0)
        self.widths = [feature_dim, feature_dim, num_words, num_words]
        self.register_buffer("memory", torch.zeros(MEMORY, sum(self.widths)))  # the newest rows at the end
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    def forward(self, inputs: LossInputs) -> Tensor:
        """Weighted sum of the two shares, a scalar; remembers the batch in training mode."""
        batch = torch.cat([part.to(self.memory.dtype) for part in read(inputs, *self.needs[:4])], dim=1)
        rows = torch.cat([self.memory[MEMORY - int(self.filled) :], batch])
        if self.training:
            newest = rows.detach()[-MEMORY:]
            self.memory[MEMORY - len(newest) :] = newest
            self.filled.fill_(len(newest))
        identity, clothing, id_words, cloth_words = rows.split(self.widths, dim=1)
        leak = self.identity * explained_share(identity, cloth_words)
        leak = leak + self.clothing * explained_share(clothing, id_words)
        return leak * float(inputs.progress >= self.start)


def explained_share(features: Tensor, words: Tensor) -> Tensor:
    """R² of ridge regression with an intercept, `[N, D], [N, V] -> scalar`; 0 where the words do not vary."""
    x, y = standardised(features), words - words.mean(dim=0)
    covariance = x.T @ x / len(x) + RIDGE * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    rest = y - x @ torch.linalg.solve(covariance, x.T @ y / len(x))
    variance = y.square().sum()
    return (variance - rest.square().sum()) / variance.clamp(min=torch.finfo(y.dtype).eps)
