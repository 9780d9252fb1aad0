"""What lets a batch be larger than the memory: the encoders in parts, their activations computed twice, half precision.

The losses compare all pairs of a batch, so it cannot be divided as one that is only averaged over. GradCache (Gao et
al. 2021, arXiv 2101.06983) encodes in parts without keeping activations, takes the loss of the whole, and encodes each
part again when its gradient has come. Here the parts are those of the two encoders, where nearly all of the memory
goes; what follows them, batch normalisation among it, sees the whole batch. So the result is that of the undivided one.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutput

from t2ireid_plugin.errors import ConfigError

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def encode_in_parts(encoder: nn.Module, rows: int) -> None:
    """From now on ``encoder`` takes ``rows`` inputs at a time and, in training, keeps no activations.

    Each part is computed again in the backward pass, with the same dropout.
    """
    whole = encoder.forward

    @functools.wraps(whole)
    def forward(*inputs: Tensor, **named: Any) -> BaseModelOutput:
        def part(start: int) -> Tensor:
            chosen = [value[start : start + rows] for value in inputs]
            options = {
                name: value[start : start + rows] if isinstance(value, Tensor) else value
                for name, value in named.items()
            }
            if not torch.is_grad_enabled():
                return whole(*chosen, **options).last_hidden_state
            return checkpoint(lambda: whole(*chosen, **options).last_hidden_state, use_reentrant=False)

        size = len(inputs[0] if inputs else next(value for value in named.values() if isinstance(value, Tensor)))
        tokens = torch.cat([part(start) for start in range(0, size, rows)])
        return BaseModelOutput(last_hidden_state=tokens)

    encoder.forward = forward


def keep_block_inputs_only(encoder: Any) -> None:
    """From now on ``encoder`` keeps, in training, only what goes into each block, and computes the rest again.

    Raises:
        ConfigError: for an encoder that transformers cannot do that with.
    """
    if not getattr(encoder, "supports_gradient_checkpointing", False):
        raise ConfigError(f"train.checkpoint_encoders: {encoder.config.model_type} has no gradient checkpointing")
    encoder.gradient_checkpointing_enable({"use_reentrant": False})


class Precision:
    """Half precision where it does no harm: weights, losses and gradients' sums stay in fp32.

    Args:
        name: of `PRECISIONS`. With fp16 the loss is scaled up so that small gradients do not vanish; where that makes
            them infinite the step is left out and the scale halved.
        device: ``cuda`` or ``cpu``.
    """

    def __init__(self, name: str = "fp32", device: str = "cpu") -> None:
        self.dtype, self.device = PRECISIONS[name], device
        self.scaler = torch.amp.GradScaler(device, enabled=name == "fp16")

    def autocast(self) -> torch.autocast:
        """Within, layers that bear it compute in half precision."""
        return torch.autocast(self.device, dtype=self.dtype, enabled=self.dtype is not None)

    def scales_down(self, loss: float) -> bool:
        """Whether infinite gradients may be the scale's doing, which is then halved."""
        if not self.scaler.is_enabled() or not math.isfinite(loss):
            return False
        doubtful = self.scaler.get_scale() > 1
        self.scaler.update(None if doubtful else 1.0)  # which it also needs before it unscales again
        return doubtful
