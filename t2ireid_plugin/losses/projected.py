"""`bio` and `cloth`: contrastive matching of the disentangled features, projected to the text space, with texts."""

from torch import Tensor, nn

from t2ireid_plugin.losses.arguments import flag
from t2ireid_plugin.losses.base import LossInputs, read
from t2ireid_plugin.losses.contrastive import InfoNCE
from t2ireid_plugin.losses.lineage import target_labels
from t2ireid_plugin.losses.matching import identity_matching


class ProjectedMatching(InfoNCE):
    """CE(cos(projection(features), texts) / tau, T), T the row-normalised matrix of equal `pids`.

    From the lineage (see `lineage.py`). Features `[B, feature_dim]`, texts `[B, embed_dim]`; one direction only, from
    features to texts. A subclass names the features, then the texts, in `needs`. The projection belongs to the term,
    so the optimizer and the checkpoint must be given the losses as well as the model.

    The lineage had `targets: diagonal` and `trained: false`: its projections were in no optimizer and stayed random.
    """

    def __init__(
        self,
        feature_dim: int = 768,
        embed_dim: int = 256,
        tau: float = 0.1,
        targets: str = "identity",
        trained: bool = True,
    ) -> None:
        super().__init__(tau, targets)
        self.projection = nn.Linear(feature_dim, embed_dim).requires_grad_(flag("trained", trained))

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean over the features of the batch, a scalar."""
        features, texts = read(inputs, *self.needs)
        labels = target_labels(inputs.pids, self.targets)
        return identity_matching(self.projection(features), texts, labels, self.tau)


class IdentityMatching(ProjectedMatching):
    """`bio`: identity features against identity texts."""

    needs = ("id_embeds", "id_text_embeds")


class ClothingMatching(ProjectedMatching):
    """`cloth`: clothing features against clothing texts.

    Equal `pids` count as equal clothes, which holds in the text-to-image benchmarks (a person wears one outfit
    throughout); a dataset in which people change clothes needs a clothing label instead.
    """

    needs = ("cloth_embeds", "cloth_text_embeds")
