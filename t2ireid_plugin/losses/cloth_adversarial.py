"""`cloth_adv`: keeps clothing features away from the clothing texts of other people."""

from torch import Tensor, nn

from t2ireid_plugin.losses.arguments import choice, number, positive
from t2ireid_plugin.losses.base import LossTerm
from t2ireid_plugin.losses.inputs import LossInputs, read
from t2ireid_plugin.losses.matching import TARGETS, cosine_matrix, labels, same_identity


def flattening(features: Tensor, texts: Tensor, pids: Tensor, tau: float) -> Tensor:
    """mean_ij [-log_softmax_j z], z = cos(features, texts) / tau with 0 where `pids` are equal.

    `[B, D], [B, D], [B] -> scalar`, at least log B. It is the cross-entropy with the uniform distribution.
    """
    logits = cosine_matrix(features, texts) / tau  # [B, B]
    logits = logits.masked_fill(same_identity(pids), 0.0)
    return -logits.log_softmax(dim=1).mean()


class ClothFlattening(LossTerm):
    """w(epoch) * flattening(P_cl cloth_embeds, cloth_text_embeds), w = min(1, start + per_epoch * epoch).

    The name `cloth_adv` is kept for configurations, but nothing is adversarial here: there is no opponent
    and no reversed gradient. It is a regulariser whose minimum, log B, is reached when every clothing
    feature is orthogonal to the clothing texts of all other people. Positives get the constant 0: they
    stay in the softmax, where they pin the level that the others are drawn to, and get no gradient, so
    the term does not undo what `cloth` teaches. All pairs of equal `pids` are positives, because `cloth`
    treats them so; a batch of one person gives log B without gradient. Two people in like clothes are
    pushed apart nevertheless, which is a reason for a small weight. With `targets: diagonal`, the lineage's, only a
    row's own text is set to 0, and the other photos' texts of the person are flattened with the rest.

    `cloth_projection` is the projection of `cloth`, shared: a projection of its own could reach the
    minimum alone and leave the features as they are, while the shared one is held by `cloth`. Without it
    (the term is used without `cloth`) one is made here.
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
        self.tau = positive("tau", tau)
        self.targets = choice("targets", targets, TARGETS)
        self.ramp_start = number("ramp_start", ramp_start, low=0.0, high=1.0)
        self.ramp_per_epoch = number("ramp_per_epoch", ramp_per_epoch, low=0.0)
        if cloth_projection is None:
            cloth_projection = nn.Linear(feature_dim, embed_dim)
        self.projection = cloth_projection

    def ramp(self, epoch: float) -> float:
        """Factor after `epoch` epochs, at most 1."""
        return min(1.0, self.ramp_start + self.ramp_per_epoch * epoch)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Ramped flattening of the batch, a scalar."""
        features, texts = read(inputs, "cloth_embeds", "cloth_text_embeds")
        loss = flattening(self.projection(features), texts, labels(inputs, self.targets), self.tau)
        return self.ramp(inputs.epoch) * loss
