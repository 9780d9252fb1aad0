"""`simclr`: self-supervision by two strongly changed views of each image (SimCLR)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ireid_plugin.errors import ConfigError, short_repr
from t2ireid_plugin.losses.arguments import positive
from t2ireid_plugin.losses.base import LossInputs, LossTerm, read


class SimCLR(LossTerm):
    """Cross-entropy of each view's twin among all other views of the batch, after an MLP that only training uses.

    NT-Xent of Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", eq. 1, as in
    TBPS-CLIP's code. `simclr_features` are `[B, 2, D]`; `hidden` is the inner width of the MLP.
    """

    needs = ("simclr_features",)

    def __init__(self, feature_dim: int = 512, hidden: int = 128, tau: float = 0.1) -> None:
        super().__init__()
        if type(hidden) is not int or hidden < 1:
            raise ConfigError(f"hidden must be a whole number above 0, got {short_repr(hidden)}")
        self.tau = positive("tau", tau)
        self.mlp = nn.Sequential(nn.Linear(feature_dim, hidden), nn.ReLU(), nn.Linear(hidden, feature_dim))

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean over all views, a scalar; 0 for a batch of one."""
        (features,) = read(inputs, *self.needs)
        views = F.normalize(self.mlp(features), dim=-1).transpose(0, 1).flatten(0, 1)  # [2B, D]: first, then second
        count, batch = len(views), len(features)
        itself = torch.eye(count, dtype=torch.bool, device=views.device)
        logits = (views @ views.T / self.tau).masked_fill(itself, -torch.inf)  # [2B, 2B]
        twins = (torch.arange(count, device=views.device) + batch) % count
        return F.cross_entropy(logits, twins)
