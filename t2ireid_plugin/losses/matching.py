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


def row_normalised(positives: Tensor, dtype: torch.dtype) -> Tensor:
    """`[N, M]` bool to one distribution per row, uniform over its positives; a row without positives stays 0."""
    return positives.to(dtype) / positives.sum(dim=1, keepdim=True).clamp(min=1)


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
