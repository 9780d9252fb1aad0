"""`cloth_adv`: flattens the similarities of clothing features to the clothing texts of other people."""

from torch import Tensor, nn

from t2ireid_plugin.errors import check_choice
from t2ireid_plugin.losses.arguments import number, positive
from t2ireid_plugin.losses.base import LossInputs, LossTerm, read
from t2ireid_plugin.losses.lineage import TARGETS, target_labels
from t2ireid_plugin.losses.matching import cosine_matrix, same_identity


class ClothFlattening(LossTerm):
    """min(1, start + per_epoch * epoch) * mean_ij [-log_softmax_j z], with z 0 where `pids` are equal.

    z = cos(projection(cloth_embeds), cloth_text_embeds) / tau, of features `[B, feature_dim]` and texts
    `[B, embed_dim]`; the mean is the cross-entropy with the uniform distribution.

    The term and its name are the lineage's (see `lineage.py`), although it has neither an opponent nor a reversed
    gradient. It is a regulariser that reaches its minimum, log B, when every clothing feature is orthogonal to the
    clothing texts of all other people. Positives, all pairs of equal `pids`, get the constant 0: they stay in the
    softmax, where they set the level that the others are drawn to, and get no gradient, so the term does not undo what
    `cloth` teaches. Two people in similar clothes are still pushed apart, which is a reason for a small weight. With
    `targets: diagonal` only a row's own text is a positive.

    `cloth_projection` is the projection of `cloth`, shared: a projection of its own could reach the minimum alone and
    leave the features as they are. If `cloth` has no weight, the term makes its own.
    """

    needs = ("cloth_embeds", "cloth_text_embeds", "epoch")

    def __init__(
        self,
        feature_dim: int = 768,
        embed_dim: int = 256,
        tau: float = 0.1,
        ramp_start: float = 0.2,
        ramp_per_epoch: float = 0.05,
        targets: str = "identity",
        cloth_projection: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        check_choice("targets", targets, TARGETS)
        self.targets = targets
        self.tau = positive("tau", tau)
        self.ramp_start = number("ramp_start", ramp_start, low=0.0, high=1.0)
        self.ramp_per_epoch = number("ramp_per_epoch", ramp_per_epoch, low=0.0)
        self.projection = nn.Linear(feature_dim, embed_dim) if cloth_projection is None else cloth_projection

    def forward(self, inputs: LossInputs) -> Tensor:
        """Ramped flattening of the batch, a scalar."""
        features, texts = read(inputs, "cloth_embeds", "cloth_text_embeds")
        ramp = min(1.0, self.ramp_start + self.ramp_per_epoch * inputs.epoch)
        logits = cosine_matrix(self.projection(features), texts) / self.tau  # [B, B]
        logits = logits.masked_fill(same_identity(target_labels(inputs.pids, self.targets)), 0.0)
        return ramp * -logits.log_softmax(dim=1).mean()
