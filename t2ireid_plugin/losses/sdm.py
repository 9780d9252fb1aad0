"""`sdm`: similarity distribution matching (IRRA)."""

from torch import Tensor

from t2ireid_plugin.losses.arguments import positive
from t2ireid_plugin.losses.base import LossInputs, LossTerm, read
from t2ireid_plugin.losses.matching import cosine_matrix, row_normalised, same_identity


def distribution_matching(queries: Tensor, candidates: Tensor, pids: Tensor, tau: float | Tensor, eps: float) -> Tensor:
    """`target_divergence` of cos / tau, `[B, D], [B, D], [B] -> scalar`.

    Jiang and Ye, "Cross-Modal Implicit Relation Reasoning and Aligning for Text-to-Image Person Retrieval", CVPR 2023
    (the SDM loss).
    """
    return target_divergence(cosine_matrix(queries, candidates) / tau, pids, eps)


def target_divergence(logits: Tensor, pids: Tensor, eps: float) -> Tensor:
    """mean_i KL(p_i || q_i): p_i = softmax_j(logits), q_i uniform over equal `pids`, log(q + eps).

    `[B, B], [B] -> scalar`.
    """
    log_p = logits.log_softmax(dim=1)
    q = row_normalised(same_identity(pids), log_p.dtype)
    return (log_p.exp() * (log_p - (q + eps).log())).sum(dim=1).mean()


class SDM(LossTerm):
    """Distribution matching from image to text plus from text to image (a sum, not a mean, as in the paper).

    `image_embeds` and `id_text_embeds` are `[B, D]`. `eps` inside the logarithm of the target bounds the price of a
    wrong match at log(1 / eps); it also lets the value fall below 0 by about `eps`.
    """

    needs = ("image_embeds", "id_text_embeds")

    def __init__(self, tau: float = 0.02, eps: float = 1e-8) -> None:
        super().__init__()
        self.tau = positive("tau", tau)
        self.eps = positive("eps", eps)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Sum of both directions, a scalar."""
        image, text = read(inputs, *self.needs)
        image_to_text = distribution_matching(image, text, inputs.pids, self.tau, self.eps)
        text_to_image = distribution_matching(text, image, inputs.pids, self.tau, self.eps)
        return image_to_text + text_to_image
