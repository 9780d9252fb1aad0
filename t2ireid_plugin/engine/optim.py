"""AdamW with parameter groups, a warm-up and cosine schedule in fractions of an epoch, and averaged weights."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from t2ireid_plugin.modeling.encoders.families import layer_numbers

ENCODERS = ("visual_encoder.", "text_encoder.")
_WARMUP_START = 0.1  # share of the learning rate at the first step


def build_adamw(
    model: nn.Module,
    losses: nn.Module,
    *,
    lr: float,
    encoder_lr: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    bias_lr_mult: float = 1.0,
    layer_decay: float = 1.0,
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of the model and of the losses, some of which have projections.

    Weight decay applies to matrices only, and not to those marked ``_no_weight_decay`` (Mamba's ``A_log`` and ``D``).

    Args:
        model: `T2IReIDModel`, or another module with the encoders in `ENCODERS`.
        losses: the training terms.
        lr: learning rate of everything but the encoders.
        encoder_lr: learning rate of the encoders.
        weight_decay: of matrices.
        betas: of AdamW.
        bias_lr_mult: factor on the learning rate of every bias; IRRA and RDE train with 2.
        layer_decay: factor from each encoder block to the one before it, as in BEiT (Bao et al., ICLR 2022) and MAE
            (He et al., CVPR 2022). With ``depth`` blocks, layer ``i`` learns at
            ``encoder_lr * layer_decay ** (depth + 1 - i)``: the embeddings are layer 0, the blocks 1 … depth, the norm
            after them depth + 1. 1 is off.

    Raises:
        EncoderError: when ``layer_decay`` is on and an encoder is not a stack of blocks.
    """
    shares = _layer_shares(model, layer_decay) if layer_decay < 1 else {}
    groups: dict[tuple[str, bool, float], list[nn.Parameter]] = defaultdict(list)
    for prefix, module in (("", model), ("losses.", losses)):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                kind = "encoders" if (prefix + name).startswith(ENCODERS) else "new layers"
                decayed = parameter.ndim > 1 and not getattr(parameter, "_no_weight_decay", False)
                rate = encoder_lr if kind == "encoders" else lr
                rate *= shares.get(prefix + name, 1.0) * (bias_lr_mult if name.endswith("bias") else 1.0)
                groups[kind, decayed, rate].append(parameter)
    # torchreid prints the rate of the last group; sorting makes it the new layers' matrices.
    return torch.optim.AdamW(
        [
            {
                "name": f"{kind}, {'decayed' if decayed else 'not decayed'}",
                "params": parameters,
                "lr": rate,
                "weight_decay": weight_decay if decayed else 0.0,
            }
            for (kind, decayed, rate), parameters in sorted(groups.items(), key=lambda item: item[0])
        ],
        lr=lr,
        betas=betas,
        fused=True,  # about 3 times as fast on the CPU
    )


def _layer_shares(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """The factor on ``encoder_lr`` for each parameter of the encoders, by its name in the model."""
    shares: dict[str, float] = {}
    for prefix in ENCODERS:
        encoder: Any = model.get_submodule(prefix.removesuffix("."))
        top = encoder.config.num_hidden_layers + 1
        numbers = layer_numbers(encoder).items()
        shares.update({prefix + name: layer_decay ** (top - number) for name, number in numbers})
    return shares


def build_ema(model: nn.Module, decay: float) -> AveragedModel:
    """Copies ``model``; ``update_parameters(model)`` moves the copy by ``1 - decay`` towards ``model``.

    ``average = decay * average + (1 - decay) * weights`` from the second update on; the first one copies (Polyak and
    Juditsky 1992; decay as in Tarvainen and Valpola 2017). Buffers, the statistics of batch normalisation, are copied
    each time. The copy is in eval mode and has no gradients.

    Args:
        model: on its device.
        decay: in [0, 1); with 0 the average equals the latest weights. The last ``ln 2 / (1 - decay)`` steps make up
            half of the average.
    """
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    return average.requires_grad_(False).eval()


class WarmupCosine:
    """Linear warm-up, then a cosine down to ``final_mult`` of each group's learning rate.

    It is a function of the time in epochs, not in steps, as the length of torchreid's identity sampler is unknown until
    it has run.

    Args:
        optimizer: the current rates of its groups are the peaks.
        max_epoch: end of the cosine.
        warmup_epochs: length of the warm-up, may be a fraction.
        final_mult: final rate as a share of the peak.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, max_epoch: int, warmup_epochs: float, final_mult: float
    ) -> None:
        self.optimizer = optimizer
        self.max_epoch = max_epoch
        self.warmup_epochs = warmup_epochs
        self.final_mult = final_mult
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]  # PyTorch's name for the peaks
        self.step(0.0)

    def factor(self, epoch: float) -> float:
        """The share of the peak rate at a time in epochs."""
        if epoch < self.warmup_epochs:
            return _WARMUP_START + (1 - _WARMUP_START) * epoch / self.warmup_epochs
        done = (epoch - self.warmup_epochs) / max(self.max_epoch - self.warmup_epochs, 1e-9)
        return self.final_mult + (1 - self.final_mult) * (1 + math.cos(math.pi * min(done, 1.0))) / 2

    def step(self, epoch: float) -> None:
        """Sets the rates for a time in epochs, such as 2.5."""
        self.epoch = epoch
        for group, peak in zip(self.optimizer.param_groups, self.base_lrs):
            group["lr"] = peak * self.factor(epoch)

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"epoch": self.epoch, "peaks": self.base_lrs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        self.base_lrs = list(state["peaks"])
        self.step(state["epoch"])
