"""`TrainingStep`: a batch through model and losses, with all processes' rows in the losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from t2ireid_plugin.data.sampling import seed_all
from t2ireid_plugin.engine.forward import forward_for
from t2ireid_plugin.engine.memory import Precision
from t2ireid_plugin.losses import LossInputs, LossTerms
from t2ireid_plugin.modeling.masking import NOT_HIDDEN
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel
from t2ireid_plugin.utils.distributed import all_reduce_max, convert_sync_batchnorm, gather_rows, world_size

# Fields as long as a process's longest text, and what they are filled up with.
_AS_LONG_AS_TEXTS = {"word_tokens": 0.0, "word_mask": 0, "hidden_words": NOT_HIDDEN}


class TrainingStep(nn.Module):
    """Model and losses as one module: what `DistributedDataParallel` wants to wrap.

    Each process encodes its own rows. What the losses read is gathered with its gradients, so that each process has the
    loss of the whole batch, as if it were alone.
    """

    def __init__(self, model: T2IReIDModel, losses: LossTerms, precision: Precision) -> None:
        super().__init__()
        self.model, self.losses, self.precision = model, losses, precision

    def forward(
        self,
        images: Tensor,
        id_texts: list[str],
        cloth_texts: list[str],
        labels: tuple[Tensor, Tensor],
        epoch: float,
        seed: int,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss, a scalar, and each term's unweighted value.

        Args:
            images: ``[B, 3, H, W]`` of this process.
            id_texts, cloth_texts: ``B`` each.
            labels: pids and photo numbers ``[B]``.
            epoch: epochs done, for ramps.
            seed: of what the losses draw, the same in each process.
        """
        with self.precision.autocast():
            fields = forward_for(self.losses, self.model, images, id_texts, cloth_texts)
        if world_size() > 1:
            fields = {name: _from_all(name, value) for name, value in fields.items()}
            labels = gather_rows(labels[0]), gather_rows(labels[1])
        seed_all(seed)
        pids, photos = labels
        return self.losses(LossInputs(pids=pids, photos=photos, scale=self.model.scale, epoch=epoch, **fields))


def _from_all(name: str, value: Tensor | None) -> Tensor | None:
    """A field's rows ``[B, …]`` of all processes; texts of one width."""
    if value is None:
        return None
    if name in _AS_LONG_AS_TEXTS:
        missing = all_reduce_max(value.shape[1], value.device) - value.shape[1]
        value = F.pad(value, (0, 0) * (value.dim() - 2) + (0, missing), value=_AS_LONG_AS_TEXTS[name])
    return gather_rows(value)


def build_step(model: T2IReIDModel, losses: LossTerms, precision: Precision) -> nn.Module:
    """`TrainingStep`, which under torchrun averages gradients over the processes and shares batch statistics."""
    step = TrainingStep(model, losses, precision)
    if world_size() == 1:
        return step
    convert_sync_batchnorm(step)
    devices = [torch.cuda.current_device()] if model.device.type == "cuda" else None
    # Some layers reach no loss, and layers are closed and opened again: which ones is found out in each step.
    return DistributedDataParallel(step, device_ids=devices, broadcast_buffers=False, find_unused_parameters=True)
