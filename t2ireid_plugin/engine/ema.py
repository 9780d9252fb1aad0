"""Exponential moving average of a model's weights."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


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
