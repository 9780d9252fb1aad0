"""Kernels that give the same bits each time."""

from __future__ import annotations

import os

import torch


def set_deterministic(wanted: bool) -> None:
    """Asks PyTorch for deterministic kernels, or takes that back.

    An operation that has none raises where it is used. cuDNN does not try its kernels out for the fastest, since on
    another day another one would win. cuBLAS needs ``CUBLAS_WORKSPACE_CONFIG``, which counts if it is set before the
    first use of CUDA.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(wanted)
