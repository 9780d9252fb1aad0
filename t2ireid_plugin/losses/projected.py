"""`bio` and `cloth`: the disentangled features, projected to the text space, find their texts."""

from torch import Tensor, nn

from t2ireid_plugin.losses.arguments import choice, flag, positive
from t2ireid_plugin.losses.base import LossTerm
from t2ireid_plugin.losses.inputs import LossInputs, read
from t2ireid_plugin.losses.matching import TARGETS, identity_matching, labels


class ProjectedMatching(LossTerm):
    """CE(cos(projection(features), texts) / tau, T), T the row-normalised matrix of equal `pids`.

    Features `[B, feature_dim]`, texts `[B, embed_dim]`. One direction only, from features to texts. The
    projection belongs to the term, so that `parameters()` and `state_dict()` of the losses hold it: the
    optimizer and the checkpoint must be given the losses as well as the model. A subclass names the
    features, then the texts, in `needs`.

    The lineage's terms had `targets: diagonal` and `trained: false`: its projections were in no optimizer and stayed
    random.
    """

    def __init__(
        self,
        feature_dim: int = 768,
        embed_dim: int = 256,
        tau: float = 0.1,
        targets: str = "identity",
        trained: bool = True,
    ) -> None:
        super().__init__()
        self.tau = positive("tau", tau)
        self.targets = choice("targets", targets, TARGETS)
        self.projection = nn.Linear(feature_dim, embed_dim).requires_grad_(flag("trained", trained))

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean over the features of the batch, a scalar."""
        features, texts = read(inputs, *self.needs)
        return identity_matching(self.projection(features), texts, labels(inputs, self.targets), self.tau)


class IdentityMatching(ProjectedMatching):
    """`bio`: identity features against identity texts."""

    needs = ("id_embeds", "id_text_embeds")


class ClothingMatching(ProjectedMatching):
    """`cloth`: clothing features against clothing texts.

    Equal `pids` count as equal clothes, which holds in the text-to-image benchmarks (a person wears one
    outfit throughout); a set in which people change needs a clothing label instead.
    """

    needs = ("cloth_embeds", "cloth_text_embeds")
