"""Variants that only the replica of the lineage's losses needs.

The lineage is yyykkklll/Instruct-ReID and kelongyan/t2i_reid. Each variant is an argument of a term and off by default;
the row `lineage` of `configs/ablation/grid.yaml` turns all of them on.
"""

import torch
from torch import Tensor

from t2ireid_plugin.losses.matching import cosine_matrix

TARGETS = ("identity", "diagonal")


def target_labels(pids: Tensor, targets: str) -> Tensor:
    """`[B]`, equal where two rows are positives of each other: `pids` `[B]`, or `0..B-1` for `diagonal`.

    The lineage's `diagonal`, CLIP's target, counts another photo of the same person as a negative.
    """
    return pids if targets == "identity" else torch.arange(len(pids), device=pids.device)


def with_wrong_texts(texts: Tensor, share: float) -> Tensor:
    """`texts` `[B, D]` with a `share` of the rows replaced by random rows of the batch.

    The lineage drew half of its clothing captions at random, and took them for positives.
    """
    replaced = torch.rand(len(texts), device=texts.device) < share
    drawn = torch.randint(len(texts), (len(texts),), device=texts.device)
    return torch.where(replaced[:, None], texts[drawn], texts)


def uncentred_dependence(a: Tensor, b: Tensor) -> Tensor:
    """mean_ij(K_a * K_b) / (B - 1), K the cosine Gram matrices of `a` `[B, D]` and `b` `[B, E]` with diagonal 0.

    Without HSIC's centring it measures how similar the rows of the batch are rather than dependence, and can be
    negative.
    """
    off_diagonal = ~torch.eye(len(a), dtype=torch.bool, device=a.device)
    return (cosine_matrix(a, a) * cosine_matrix(b, b) * off_diagonal).mean() / max(len(a) - 1, 1)
