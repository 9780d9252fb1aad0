"""Embedding heads: from encoder width to the shared space of images and texts."""

from __future__ import annotations

from torch import nn


def projection_mlp(in_dim: int = 512, out_dim: int = 256, dropout: float = 0.2) -> nn.Sequential:
    """``[B, in_dim] -> [B, out_dim]``: BatchNorm, ReLU, Dropout, Linear, twice; the hidden width is ``out_dim``."""
    return nn.Sequential(
        nn.BatchNorm1d(in_dim),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(in_dim, out_dim),
        nn.BatchNorm1d(out_dim),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(out_dim, out_dim),
    )
