"""Contrastive matching with several positives: the maths shared by the image-text terms."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of every row of `a` with every row of `b`: `[N, D], [M, D] -> [N, M]`."""
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T


def standardised(x: Tensor) -> Tensor:
    """Columns of `[N, D]` with mean 0 and variance 1 (0 where they do not vary), as batch normalisation gives them."""
    return (x - x.mean(dim=0)) / (x.var(dim=0, unbiased=False) + 1e-5).sqrt()


def same_identity(pids: Tensor) -> Tensor:
    """`[B] -> [B, B]` bool, true where two rows show the same person (so always on the diagonal)."""
    return pids[:, None] == pids[None, :]


def other_outfit(pids: Tensor, outfits: Tensor) -> Tensor:
    """`[B], [B] -> [B, B]` bool, true where two rows show the same person in two outfits; -1 is an unknown outfit."""
    known = outfits >= 0
    return same_identity(pids) & (outfits[:, None] != outfits) & known[:, None] & known


def row_normalised(positives: Tensor, dtype: torch.dtype) -> Tensor:
    """`[N, M]` bool to one distribution per row, uniform over its positives; a row without positives stays 0."""
    return positives.to(dtype) / positives.sum(dim=1, keepdim=True).clamp(min=1)


def query_loss(logits: Tensor, positives: Tensor, left_out: Tensor, any_share: float = 0.0) -> Tensor:
    """-mean_q mean_p log softmax_a(logits), over the queries q with a positive p, a over all that is not left out.

    `[N, M]` each, queries by candidates; 0, connected to the graph, when no query has a positive. It is the sum outside
    the logarithm of Khosla et al. 2020, eq. 2. `any_share` of it is -mean_q log sum_p softmax_a instead, which asks for
    any positive and not for all.
    """
    # Not -inf: a row that is all left out would be NaN, and so would a target of 0 times -inf.
    lowest = torch.finfo(logits.dtype).min
    log_p = logits.masked_fill(left_out, lowest).log_softmax(dim=1)
    per_query = -(row_normalised(positives, log_p.dtype) * log_p).sum(dim=1)
    if any_share:
        any_match = -log_p.masked_fill(~positives, lowest).logsumexp(dim=1).masked_fill(~positives.any(dim=1), 0.0)
        per_query = torch.lerp(per_query, any_match, any_share)
    return per_query.sum() / positives.any(dim=1).sum().clamp(min=1)


def identity_matching(queries: Tensor, candidates: Tensor, pids: Tensor, tau: float) -> Tensor:
    """Cross-entropy of softmax(cos / tau) with a target spread evenly over all rows of equal `pids`.

    `[B, D], [B, D], [B] -> scalar`. With one row per identity it is InfoNCE with the diagonal as target (van den Oord
    et al. 2018, "Representation Learning with Contrastive Predictive Coding", eq. 4); with several positives it is the
    sum outside the logarithm of "Supervised Contrastive Learning" (Khosla et al. 2020, eq. 2) between two modalities.

    The minimum is the entropy of the target, mean_i log n_i with n_i the number of positives of row i, not 0.
    """
    logits = cosine_matrix(queries, candidates) / tau  # [B, B]
    targets = row_normalised(same_identity(pids), logits.dtype)
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
