"""Optimizers with parameter groups, learning rate schedules with warm-up, and averaged weights."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchreid import optim as torchreid_optim

from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.modeling.encoders.families import layer_numbers

ENCODERS = ("visual_encoder.", "text_encoder.")


def build_optimizer(
    model: nn.Module,
    losses: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    optim: str = "adamw",
    base_lr_mult: float = 1.0,
    new_layers: Sequence[str] | None = None,
    bias_lr_mult: float = 1.0,
    lr_factors: Mapping[str, float] | None = None,
    decay_vectors: bool = False,
    layer_decay: float = 1.0,
    eps: float = 1e-8,
    adam_beta1: float = 0.9,
    adam_beta2: float = 0.999,
    **options: Any,
) -> torch.optim.Optimizer:
    """An optimizer over the trainable parameters of the model and of the losses, some of which have projections.

    AdamW is PyTorch's, all others are those of torchreid's ``build_optimizer``. Weight decay applies to matrices only,
    and not to those marked ``_no_weight_decay`` (Mamba's ``A_log`` and ``D``), unless ``decay_vectors`` is set.

    Args:
        model: `T2IReIDModel`, or another module with the encoders in `ENCODERS`.
        losses: the training terms.
        lr: learning rate of the new layers and of the losses.
        weight_decay: of matrices.
        lr_factors: by a part of a parameter's name, the factor on ``lr`` in place of all others; where several match,
            the last one counts.
        decay_vectors: weight decay for all parameters but biases.
        optim: ``adamw``, or a name of torchreid's.
        base_lr_mult: factor on the learning rate of the base layers, which are all others.
        new_layers: see `choose_layers`.
        bias_lr_mult: factor on the learning rate of every bias; IRRA and RDE train with 2.
        layer_decay: factor from each encoder block to the one before it, as in BEiT (Bao et al., ICLR 2022) and MAE
            (He et al., CVPR 2022). With ``depth`` blocks, the rate of layer ``i`` is multiplied by
            ``layer_decay ** (depth + 1 - i)``: the embeddings are layer 0, the blocks 1 … depth, the norm
            after them depth + 1. 1 is off.
        eps: of AdamW and the kinds of Adam.
        adam_beta1, adam_beta2: of AdamW and the kinds of Adam.
        **options: others of torchreid's ``build_optimizer``.

    Raises:
        EncoderError: when ``layer_decay`` is on and an encoder is not a stack of blocks.
        ConfigError: for a new layer that the model does not have.
    """
    shares = _layer_shares(model, layer_decay) if layer_decay < 1 else {}
    new = {"losses", *choose_layers(model, new_layers, "train.new_layers")}
    split: dict[tuple[str, bool, float], list[nn.Parameter]] = defaultdict(list)
    for prefix, module in (("", model), ("losses.", losses)):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                kind = "new layers" if (prefix + name).split(".")[0] in new else "base layers"
                decayed = parameter.ndim > 1 and not getattr(parameter, "_no_weight_decay", False)
                rate = lr if kind == "new layers" else lr * base_lr_mult
                rate *= shares.get(prefix + name, 1.0) * (bias_lr_mult if name.endswith("bias") else 1.0)
                named = [factor for part, factor in (lr_factors or {}).items() if part in name]
                rate = lr * named[-1] if named else rate
                decayed = not name.endswith("bias") if decay_vectors else decayed
                split[kind, decayed, rate].append(parameter)
    # torchreid prints the rate of the last group; sorting makes it the new layers' matrices.
    groups = [
        {
            "name": f"{kind}, {'decayed' if decayed else 'not decayed'}",
            "params": parameters,
            "lr": rate,
            "weight_decay": weight_decay if decayed else 0.0,
            **({} if optim in ("sgd", "rmsprop") else {"eps": eps}),  # torchreid's builder has no argument for it
        }
        for (kind, decayed, rate), parameters in sorted(split.items(), key=lambda item: item[0])
    ]
    if optim == "adamw":  # fused is about 3 times as fast on the CPU
        return torch.optim.AdamW(groups, lr=lr, betas=(adam_beta1, adam_beta2), fused=True)
    betas = {"adam_beta1": adam_beta1, "adam_beta2": adam_beta2}
    return torchreid_optim.build_optimizer(_Groups(groups), optim, lr, weight_decay, **betas, **options)


class _Groups(nn.Module):
    """Parameter groups as a module; torchreid's ``build_optimizer`` passes ``model.parameters()`` to the optimizer."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__()
        self.groups = groups

    def parameters(self, recurse: bool = True) -> Any:
        return self.groups


def choose_layers(model: nn.Module, layers: Sequence[str] | None, setting: str) -> list[str]:
    """The layers of a model, its direct children and parameters, that a setting names; None is all but the encoders.

    Raises:
        ConfigError: for a layer that the model does not have.
    """
    valid = list(dict.fromkeys(name.split(".")[0] for name, _ in model.named_parameters()))
    if layers is None:
        return [layer for layer in valid if f"{layer}." not in ENCODERS]
    for layer in layers:
        if layer not in valid:
            raise ConfigError(f"{setting}: no layer '{layer}'; valid: {', '.join(valid)}")
    return list(layers)


def _layer_shares(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """The factor on the rate of each parameter of the encoders, by its name in the model."""
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


def build_scheduler(
    optimizer: torch.optim.Optimizer,
    name: str,
    *,
    max_epoch: int,
    warmup_epochs: float,
    warmup_start: float = 0.1,
    final_lr_mult: float,
    power: float,
    stepsize: Sequence[int],
    gamma: float,
) -> Any:
    """`WarmupCosine`, or a schedule of torchreid or PyTorch that is stepped after each epoch.

    The warm-up is linear. ``single_step`` and ``multi_step`` count epochs from the
    start of training, as FastReID does; the others begin after the warm-up and end at ``max_epoch``.

    Args:
        optimizer: the current rates of its groups are the peaks.
        name: a name in `SCHEDULERS`.
        max_epoch: length of the training.
        warmup_epochs: whole epochs, except for ``warmup_cosine``.
        warmup_start: first rate of the warm-up as a share of the peak.
        final_lr_mult: last rate of ``warmup_cosine`` and ``linear`` as a share of the peak.
        power: of ``poly``.
        stepsize, gamma: of torchreid's ``single_step`` and ``multi_step``.
    """
    if name == "warmup_cosine":
        return WarmupCosine(optimizer, max_epoch, warmup_epochs, final_lr_mult, warmup_start)
    warmup = int(warmup_epochs)
    rest = max(1, max_epoch - warmup)
    if name == "poly":
        schedule: Any = lr_scheduler.PolynomialLR(optimizer, rest, power)
    elif name == "linear":
        schedule = lr_scheduler.LinearLR(optimizer, 1.0, final_lr_mult, rest)
    else:
        schedule = torchreid_optim.build_lr_scheduler(optimizer, name, list(stepsize), gamma, rest)
    if not warmup:
        return schedule
    linear = lr_scheduler.LinearLR(optimizer, warmup_start, total_iters=warmup)
    if name in ("single_step", "multi_step"):
        return lr_scheduler.ChainedScheduler([linear, schedule])
    return lr_scheduler.SequentialLR(optimizer, [linear, schedule], milestones=[warmup])


class WarmupCosine:
    """Linear warm-up, then a cosine down to ``final_mult`` of each group's learning rate.

    It is a function of the time in epochs, not in steps, as the length of torchreid's identity sampler is unknown until
    it has run.

    Args:
        optimizer: the current rates of its groups are the peaks.
        max_epoch: end of the cosine.
        warmup_epochs: length of the warm-up, may be a fraction.
        final_mult: final rate as a share of the peak.
        warmup_start: first rate as a share of the peak.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        max_epoch: int,
        warmup_epochs: float,
        final_mult: float,
        warmup_start: float = 0.1,
    ) -> None:
        self.optimizer = optimizer
        self.max_epoch = max_epoch
        self.warmup_epochs = warmup_epochs
        self.final_mult = final_mult
        self.warmup_start = warmup_start
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]  # PyTorch's name for the peaks
        self.step(0.0)

    def factor(self, epoch: float) -> float:
        """The share of the peak rate at a time in epochs."""
        if epoch < self.warmup_epochs:
            return self.warmup_start + (1 - self.warmup_start) * epoch / self.warmup_epochs
        done = (epoch - self.warmup_epochs) / max(self.max_epoch - self.warmup_epochs, 1e-9)
        return self.final_mult + (1 - self.final_mult) * (1 + math.cos(math.pi * min(done, 1.0))) / 2

    def step(self, epoch: float | None = None) -> None:
        """Sets the rates for a time in epochs, such as 2.5; torchreid's engine gives none at the end of an epoch."""
        if epoch is not None:  # else the last batch has set the end of the epoch
            self.epoch = epoch
        for group, peak in zip(self.optimizer.param_groups, self.base_lrs):
            group["lr"] = peak * self.factor(self.epoch)

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"epoch": self.epoch, "peaks": self.base_lrs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        self.base_lrs = list(state["peaks"])
        self.step(state["epoch"])
