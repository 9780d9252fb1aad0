"""Deterministic kernels."""

from __future__ import annotations

import os

import torch


def set_deterministic(enabled: bool) -> None:
    """Switches PyTorch's deterministic kernels on or off; with them, an operation that has none raises.

    Also stops cuDNN from picking the fastest kernel by trial, whose choice varies from run to run, and sets
    ``CUBLAS_WORKSPACE_CONFIG``, which cuBLAS reads at its first use.
    """
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(enabled)
