"""Training in less memory: encoding in parts, half precision.

The losses compare all pairs of a batch, so gradients cannot be accumulated over smaller batches. GradCache (Gao et al.
2021, arXiv 2101.06983) encodes in parts without storing activations, computes the loss of the whole batch, and encodes
each part again for its gradient. Here only the two encoders, which take nearly all of the memory, run in parts; all
layers after them, including batch normalisation, see the whole batch. So the gradients are those of the whole batch.
"""

from __future__ import annotations

import ctypes
import functools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutput

from t2ireid_plugin.engine.checks import PRECISIONS


def encode_in_parts(encoder: nn.Module, rows: int) -> None:
    """Makes ``encoder`` process ``rows`` inputs at a time, without storing activations in training.

    Each part is computed again in the backward pass, with the same dropout.
    """
    whole = encoder.forward

    @functools.wraps(whole)
    def forward(*inputs: Tensor, **named: Any) -> BaseModelOutput:
        def part(start: int) -> Tensor:
            rows_of = slice(start, start + rows)
            chosen = [value[rows_of] for value in inputs]
            options = {name: value[rows_of] if isinstance(value, Tensor) else value for name, value in named.items()}
            run = functools.partial(whole, *chosen, **options)
            return checkpoint(run, use_reentrant=False).last_hidden_state

        size = len(next(value for value in (*inputs, *named.values()) if isinstance(value, Tensor)))
        tokens = torch.cat([part(start) for start in range(0, size, rows)])
        return BaseModelOutput(last_hidden_state=tokens)

    encoder.forward = forward


def keep_freed_memory() -> None:
    """Makes the C library keep freed memory for the next step, where it can (glibc's mallopt).

    Every step on the CPU allocates the same large tensors; returned to the system, each page of them is mapped anew.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD: bytes from which an allocation is returned alone
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: free bytes from which the heap's end is returned


class Precision:
    """Mixed precision: the forward pass in half precision; weights, losses and gradients in fp32.

    Args:
        name: of `PRECISIONS`. With fp16 the loss is scaled up to keep small gradients from vanishing; when the
            gradients become infinite the step is skipped and the scale halved.
        device: ``cuda`` or ``cpu``.
    """

    def __init__(self, name: str = "fp32", device: str = "cpu") -> None:
        dtype = PRECISIONS[name]
        self.dtype: torch.dtype | None = None if dtype is None else getattr(torch, dtype)
        self.device = device
        self.scaler = torch.amp.GradScaler(device, enabled=name == "fp16")

    def autocast(self) -> torch.autocast:
        """Context in which layers that tolerate it compute in half precision."""
        return torch.autocast(self.device, dtype=self.dtype, enabled=self.dtype is not None)

    def scales_down(self, loss: float) -> bool:
        """After gradients that are not finite: halves the scale and returns True if the scale may have caused them."""
        if not self.scaler.is_enabled():
            return False
        scale = self.scaler.get_scale()
        large = math.isfinite(loss) and scale > 1
        self.scaler.update(None if large else max(scale, 1.0))  # required before the next `unscale_`, too
        return large
