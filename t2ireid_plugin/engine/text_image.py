"""`TextImageEngine`: the training step of `T2IReIDModel` on images with texts, from a batch to the optimizer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from t2ireid_plugin.data.sampling import derive_seed, seed_all
from t2ireid_plugin.data.words import word_targets
from t2ireid_plugin.engine.checks import TEXT_FIELDS
from t2ireid_plugin.engine.division import ConsensusDivision
from t2ireid_plugin.engine.evaluation import RetrievalEvaluation
from t2ireid_plugin.engine.failures import NonFiniteGuard
from t2ireid_plugin.engine.memory import Precision
from t2ireid_plugin.engine.optim import WarmupCosine, choose_layers
from t2ireid_plugin.losses import LossInputs, LossTerms
from t2ireid_plugin.losses.base import MLM_INPUTS, SELECTED, VIEW_INPUTS
from t2ireid_plugin.losses.matching import other_outfit
from t2ireid_plugin.modeling.masking import NOT_HIDDEN
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel
from t2ireid_plugin.modeling.training_passes import forward_irr, forward_masked, forward_selected
from t2ireid_plugin.utils.distributed import (
    all_gather_list,
    all_reduce_max,
    convert_sync_batchnorm,
    gather_rows,
    is_main_process,
    world_size,
)

_LOSSES = 2  # distinguishes the seeds of the losses from other seeds, see `derive_seed`
# Outputs padded to the longest text of their process, with their padding values.
_PADDED_OUTPUTS = {"word_tokens": 0.0, "word_mask": 0, "hidden_words": NOT_HIDDEN}


class TextImageEngine(RetrievalEvaluation):
    """torchreid's engine for images with captions.

    torchreid's data manager and samplers run unchanged. Frozen parameters stay frozen.

    Args:
        *args: of `TrainingLoop`.
        id_instruction, cloth_instruction: the texts that the model reads, see `TEXT_FIELDS`.
        words: frequent words of the training texts, for the losses that read them.
        clip_grad: maximum norm of the gradients; 0 disables clipping.
        division: decides before each epoch which pairs it learns from; None for all.
        non_finite: handles steps without a finite loss or finite gradients.
        **kwargs: of `RetrievalEvaluation` and `TrainingLoop`.
    """

    def __init__(
        self,
        *args: Any,
        id_instruction: str,
        cloth_instruction: str,
        words: Sequence[str],
        clip_grad: float,
        division: ConsensusDivision | None = None,
        non_finite: NonFiniteGuard,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.id_field, self.cloth_field = TEXT_FIELDS[id_instruction], TEXT_FIELDS[cloth_instruction]
        self.words, self.clip_grad, self.non_finite = words, clip_grad, non_finite
        self.division = division
        self.training_step: nn.Module = TrainingStep(self.model, self.losses, self.precision)
        if world_size() > 1:
            convert_sync_batchnorm(self.training_step)
            devices = [torch.cuda.current_device()] if self.use_gpu else None
            # Some layers reach no loss, and which layers are trained changes with train.fixbase_epoch.
            self.training_step = DistributedDataParallel(
                self.training_step, device_ids=devices, broadcast_buffers=False, find_unused_parameters=True
            )
        self._trainable = {name for name, p in self.model.named_parameters() if p.requires_grad}

    def start_epoch(self) -> None:
        """Divides the training pairs, see `ConsensusDivision`."""
        if self.division is not None:
            self.division.update(self)

    def outputs_of(self, images: Tensor, id_texts: list[str], cloth_texts: list[str]) -> dict[str, Any]:
        """See `forward_for`."""
        return forward_for(self.losses, self.model, images, id_texts, cloth_texts)

    def _state(self) -> dict[str, Any]:
        return super()._state() | ({} if self.division is None else {"division": self.division.state_dict()})

    def _load(self, state: dict[str, Any], path: str | Path) -> None:
        super()._load(state, path)
        if self.division is not None and "division" in state:
            self.division.load_state_dict(state["division"])

    def parse_data_for_train(self, data: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor], list[str], list[str]]:
        """Converts a batch to images ``[B, 3, H, W]``, labels by field of `LossInputs`, identity and clothing texts."""
        photos = torch.tensor([_photo_id(path) for path in data["impath"]])
        images, id_texts, cloth_texts = data["img"], list(data[self.id_field]), list(data[self.cloth_field])
        labels = {"pids": data["pid"], "photos": photos, "outfits": data["outfit"]}
        if self.division is not None and self.division.epoch == self.epoch:  # not while it is being updated
            labels["clean"] = self.division.clean[data["index"]]
        if self.words:
            labels["id_words"] = word_targets(id_texts, self.words)
            labels["cloth_words"] = word_targets(cloth_texts, self.words)
        if self.use_gpu:  # from the loader's pinned memory, while the GPU still computes
            images = images.cuda(non_blocking=True)
            labels = {name: label.cuda(non_blocking=True) for name, label in labels.items()}
        return images, labels, id_texts, cloth_texts

    def train_batch(self, data: dict[str, Any]) -> dict[str, float]:
        """Trains one step; returns the total loss and each term's unweighted value.

        A step without a finite loss and finite gradients leaves everything as it was, see `NonFiniteGuard`.

        Raises:
            T2IReIDError: after too many of these in a row.
        """
        images, labels, id_texts, cloth_texts = self.parse_data_for_train(data)
        views = {field: data[entry] for field, entry in VIEW_INPUTS.items() if entry in data}
        tolerant = self.non_finite.patience > 1
        modules = (self.model, self.losses) if tolerant else ()
        buffers = [{name: value.clone() for name, value in module.named_buffers()} for module in modules]
        time_in_epochs = self.epoch + (self.batch_idx + 1) / self.num_batches
        seed = derive_seed(self.seed, self.epoch, self.batch_idx, _LOSSES)
        self.optimizer.zero_grad()  # before the forward pass, which needs the memory
        progress = time_in_epochs / max(1, self.max_epoch)
        time = {"epoch": time_in_epochs, "step": self.steps + 1, "progress": progress}
        total, values = self.training_step(images, id_texts, cloth_texts, labels, time, seed, views)
        norm = self._backward(total)
        # From the GPU at once, and after the backward pass: reading a value waits for all that computes it.
        *numbers, norm = torch.stack([value.detach().reshape(()) for value in (total, *values.values(), norm)]).tolist()
        summary = dict(zip(("loss", *values), numbers))
        if math.isfinite(summary["loss"]) and math.isfinite(norm):
            self.non_finite.in_a_row = 0
            self.precision.scaler.step(self.optimizer)
            self.precision.scaler.update()
            if self.ema is not None:
                self.ema.update_parameters(self.model)
        elif not self.precision.scales_down(summary["loss"]):
            for module, before in zip(modules, buffers):  # the batch has changed the batch statistics
                module.load_state_dict(before, strict=False)
            # Paths, texts and pids of all processes.
            columns = {"pid": data["pid"].tolist()} | {key: data[key] for key in data if isinstance(data[key], list)}
            batch = {name: all_gather_list(column) for name, column in columns.items()}
            folder = self._folder if is_main_process() else None
            self.non_finite.record((self.epoch + 1, self.batch_idx + 1), summary, norm, batch, folder)
        if isinstance(self.scheduler, WarmupCosine):  # the others are stepped after each epoch, by `update_lr`
            self.scheduler.step(time_in_epochs)
        return summary

    def _backward(self, total: Tensor) -> Tensor:
        """Computes the gradients, clips them if configured, and returns their norm before clipping, a scalar."""
        scaler = self.precision.scaler
        scaler.scale(total).backward()
        scaler.unscale_(self.optimizer)
        parameters = list(self.training_step.parameters())  # of model and losses
        if self.clip_grad > 0:
            return torch.nn.utils.clip_grad_norm_(parameters, self.clip_grad)
        return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

    def two_stepped_transfer_learning(
        self, epoch: int, fixbase_epoch: int, open_layers: list[str] | None, model: Any = None
    ) -> None:
        """Trains only ``open_layers`` for ``fixbase_epoch`` epochs, then all that was trainable at the start.

        None is everything but the encoders. torchreid's own would then also train the frozen encoders.

        Raises:
            ConfigError: for a layer that the model does not have.
        """
        only = None
        if epoch < fixbase_epoch:
            only = choose_layers(self.model, open_layers, "train.open_layers") or None
        super().two_stepped_transfer_learning(epoch, fixbase_epoch, only)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in self._trainable and (only is None or name.split(".")[0] in only))
        for encoder in self.model.frozen_encoders:
            encoder.eval()


class TrainingStep(nn.Module):
    """Model and losses as one module, which `DistributedDataParallel` can wrap.

    Each process encodes its own rows. The inputs of the losses are gathered with their gradients, so that each process
    computes the loss of the whole batch.
    """

    def __init__(self, model: T2IReIDModel, losses: LossTerms, precision: Precision) -> None:
        super().__init__()
        self.model, self.losses, self.precision = model, losses, precision

    def forward(
        self,
        images: Tensor,
        id_texts: list[str],
        cloth_texts: list[str],
        labels: dict[str, Any],
        time: dict[str, Any],
        seed: int,
        views: Mapping[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss, a scalar, and each term's unweighted value.

        Args:
            images: ``[B, 3, H, W]`` of this process.
            id_texts, cloth_texts: ``B`` each.
            labels: of each row ``[B, …]``, by field of `LossInputs`.
            time: its fields ``epoch``, ``step`` and ``progress``.
            seed: for random numbers in the losses; the same in each process.
            views: further views of the images ``[B, …, 3, H, W]``, by the field of `LossInputs` for which they are.
        """
        with self.precision.autocast():
            outputs = forward_for(self.losses, self.model, images, id_texts, cloth_texts, time["step"])
            for field in sorted(views.keys() & self.losses.needs_at(time["step"])):
                outputs[field] = encode_view(self.model, field, views[field])
        if world_size() > 1:
            outputs = {name: _gather_output(name, value) for name, value in outputs.items()}
            labels = {name: gather_rows(label) for name, label in labels.items()}
        seed_all(seed)
        if "composed_embeds" in self.losses.needs_at(time["step"]):  # among the rows of all processes
            with self.precision.autocast():
                outputs |= compose(self.model, outputs, labels)
        return self.losses(LossInputs(scale=self.model.scale, **labels, **time, **outputs))


def forward_for(
    losses: LossTerms,
    model: T2IReIDModel,
    images: Tensor,
    id_texts: list[str],
    cloth_texts: list[str],
    step: int = 0,
) -> dict[str, Any]:
    """The model's outputs for the batch of a step (0: for all losses), by field of `LossInputs`.

    Texts that no loss of the step needs are not encoded, and nothing is fused for none. `compose` adds its fields.
    """
    needs = losses.needs_at(step)
    fuse = not needs.isdisjoint(("fused_embeds", "gate_weights"))
    reads_clothing = needs & {"cloth_text_embeds", "composed_embeds"} or (fuse and model.fuses_branches)
    clothing = cloth_texts if reads_clothing else None
    if losses.irr is not None and not needs.isdisjoint(MLM_INPUTS):
        output, masked = forward_irr(model, images, clothing, id_texts, losses.irr.share, losses.irr.masked_captions)
        return {**output._asdict(), **masked}
    if losses.hidden_share is not None and not needs.isdisjoint(MLM_INPUTS):
        output, masked = forward_masked(model, images, clothing, id_texts, losses.hidden_share, fuse)
        return {**output._asdict(), **masked}
    if not needs.isdisjoint(SELECTED):
        output, selected = forward_selected(model, images, clothing, id_texts)
        return {**output._asdict(), **selected}
    identity = id_texts if needs & {"id_text_embeds", "id_text_features", "fused_embeds", "gate_weights"} else None
    if "id_text_features" in needs:
        output, features = model.forward_features(images, clothing, identity, fuse)
        return {**output._asdict(), "id_text_features": features}
    return model(images, cloth_instruction=clothing, id_instruction=identity, fuse=fuse)._asdict()


def encode_view(model: T2IReIDModel, field: str, images: Tensor) -> Tensor:
    """A field of `LossInputs` from further views ``[B, …, 3, H, W]``: embeddings, or features ``[B, 2, D]``."""
    output = model(images.reshape(-1, *images.shape[-3:]).to(model.device, non_blocking=True))
    rows = output.image_embeds if field == "view_embeds" else output.id_embeds
    return rows.unflatten(0, images.shape[:-3])


def compose(model: T2IReIDModel, outputs: Mapping[str, Any], labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fields of `LossInputs`: each image with the clothing text of a random row of its person in another outfit.

    The identity side has no text, as in the evaluation: words for clothes do not describe the person.
    """
    outfits = labels["outfits"].to(model.device)
    others = other_outfit(labels["pids"].to(model.device), outfits)
    other = torch.rand(others.shape, device=others.device).masked_fill(~others, -1.0).argmax(dim=1)
    texts = outputs["cloth_text_embeds"][other]
    inputs = outputs["image_embeds"], torch.zeros_like(texts), outputs["cloth_image_embeds"], texts
    described = outfits[other].masked_fill(~others.any(dim=1), -1)
    return {"composed_embeds": model.fuse(*inputs)[0], "composed_outfits": described}


def _gather_output(name: str, value: Tensor | None) -> Tensor | None:
    """The rows ``[B, …]`` of an output from all processes, padded to the longest text of all."""
    if value is None:
        return None
    if name in _PADDED_OUTPUTS:
        missing = all_reduce_max(value.shape[1], value.device) - value.shape[1]
        value = F.pad(value, (0, 0) * (value.dim() - 2) + (0, missing), value=_PADDED_OUTPUTS[name])
    return gather_rows(value)


def _photo_id(path: str) -> int:
    """A number for an image file, the same in each process."""
    return int.from_bytes(hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=7).digest(), "big")
