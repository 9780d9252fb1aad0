"""`TextImageEngine`: trains and tests `T2IReIDModel` with torchreid's engine, data manager and evaluator."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from t2ireid_plugin.data.sampling import derive_seed
from t2ireid_plugin.engine.failures import NonFiniteGuard, Step
from t2ireid_plugin.engine.loop import TrainingLoop
from t2ireid_plugin.engine.optim import WarmupCosine
from t2ireid_plugin.engine.step import build_step
from t2ireid_plugin.engine.training_state import check_intact, save_checkpoint
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.evaluation.embeddings import embed_target
from t2ireid_plugin.evaluation.metrics import Metrics, compute_metrics, reranked_metrics
from t2ireid_plugin.evaluation.protocols import OFFICIAL, PROTOCOLS, Embeddings
from t2ireid_plugin.evaluation.ranking import QueryScores
from t2ireid_plugin.losses import LossTerms
from t2ireid_plugin.modeling.checkpoint import read_checkpoint
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel
from t2ireid_plugin.utils.distributed import all_gather_list, broadcast_object, broadcast_weights, is_main_process
from t2ireid_plugin.utils.signals import defer_signals

logger = logging.getLogger(__name__)

# What a training text is read from: the choices of data.id_instruction and data.cloth_instruction.
TEXT_FIELDS = {"caption": "caption", "identity": "id_text", "clothing": "cloth_text"}
_LOSSES = 2  # keeps the keys of what losses draw apart from the others


def _of_all(data: dict[str, Any]) -> dict[str, Any]:
    """What all processes know of the samples of a batch; images stay where they are."""
    columns = {name: all_gather_list(column) for name, column in data.items() if isinstance(column, list)}
    return {**columns, "pid": torch.tensor(all_gather_list(data["pid"].tolist()))}


def _number(path: str) -> int:
    """A photo's number, the same in each process."""
    return int.from_bytes(hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=7).digest(), "big")


class TextImageEngine(TrainingLoop):
    """torchreid's engine for images with captions.

    torchreid's data manager, sampler and evaluator run unchanged, its epochs in a loop that can be broken off and
    goes on. What differs besides: a batch carries texts; the checkpoint is chosen on ``val_targets``, never on the
    test split; what is frozen stays frozen.

    Args:
        datamanager: `CaptionDataManager`; its targets include ``val_targets``.
        model: the network, on its device.
        losses: the training terms, on the same device.
        optimizer: over the parameters of both.
        scheduler: torchreid's, stepped after each epoch, or `WarmupCosine`, stepped after each batch.
        val_targets: targets that choose the checkpoint; empty takes the last epoch.
        id_instruction, cloth_instruction: which text of an item the model reads as which, see `TEXT_FIELDS`.
        clip_grad: largest norm of the gradients; 0 leaves them.
        non_finite: what is done when the loss or its gradients are no finite numbers.
        evaluator: see `compute_metrics`.
        ranks: the k of R@k.
        identity_weight: share of the identity text in the protocol ``both``.
        **of_the_loop: as `TrainingLoop`; its moving average is what is tested and chosen.
    """

    def __init__(
        self,
        datamanager: Any,
        model: T2IReIDModel,
        losses: LossTerms,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Any = None,
        *,
        val_targets: Sequence[str] = (),
        id_instruction: str = "caption",
        cloth_instruction: str = "clothing",
        clip_grad: float = 0.0,
        non_finite: NonFiniteGuard | None = None,
        evaluator: str = "exact",
        ranks: Sequence[int] = (1, 5, 10, 20),
        identity_weight: float = 0.5,
        **of_the_loop: Any,
    ) -> None:
        super().__init__(datamanager, model, losses, optimizer, scheduler, **of_the_loop)
        self.val_targets = list(val_targets)
        self.test_targets = [name for name in datamanager.targets if name not in self.val_targets]
        self.id_field, self.cloth_field = TEXT_FIELDS[id_instruction], TEXT_FIELDS[cloth_instruction]
        self.clip_grad = clip_grad
        self.non_finite = non_finite or NonFiniteGuard()
        self.evaluator = evaluator
        self.ranks = list(ranks)
        self.identity_weight = identity_weight
        self.embeddings: dict[str, Embeddings] = {}  # of each target, from the last `evaluate_protocols`
        self.scores: dict[str, dict[str, QueryScores]] = {}  # by target and protocol, likewise
        self.training_step = build_step(model, losses, self.precision)
        self._trainable = {name for name, p in model.named_parameters() if p.requires_grad}

    @property
    def tested_model(self) -> T2IReIDModel:
        """What is evaluated and kept as the best: the moving average, or else the model itself."""
        return self.model if self.ema is None else cast(T2IReIDModel, self.ema.module)

    def choose(self, folder: Path) -> None:
        """Keeps this epoch's weights when they are the best so far on val, or when there is no val."""
        val = self.evaluate(self.val_targets)
        if is_main_process():
            score = float(np.mean([metrics["R@1"] for metrics in val.values()])) if val else 0.0
            if not val or not self.best or score > self.best["score"]:
                with defer_signals():
                    self.best = {"epoch": self.epoch + 1, "score": score, "val": val}
                    save_checkpoint(self.weights(self.tested_model, self.epoch + 1), folder / "best.pth")
        self.best = broadcast_object(self.best)

    def load_chosen(self, path: str | Path) -> None:
        """Puts the weights of ``best.pth`` into the model and its average, so that whoever looks at either sees them.

        Raises:
            CheckpointError: when the file is missing or damaged.
        """
        if is_main_process():
            check_intact(path)
            state = read_checkpoint(path)
            chosen = self.best["epoch"]
            if state["epoch"] != chosen:
                # Written by the run before it was killed, and when that epoch was done again it came out otherwise, as
                # on a GPU it may: its score counts, for its weights are those that are left.
                logger.warning("'%s' is of epoch %d, which is taken in place of %d", path, state["epoch"], chosen)
                self.best = state["best"]
            self.model.load_state_dict(state["state_dict"])
        self.best = broadcast_object(self.best)
        broadcast_weights(self.model)
        if self.tested_model is not self.model:
            self.tested_model.load_state_dict(self.model.state_dict())

    # Training

    def parse_data_for_train(self, data: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, list[str], list[str]]:
        """A batch to images ``[B, 3, H, W]``, pids ``[B]``, photo numbers ``[B]``, identity and clothing texts."""
        photos = torch.tensor([_number(path) for path in data["impath"]])
        images, pids = data["img"], data["pid"]
        if self.use_gpu:
            # The loader has pinned what it hands out, so that it is copied while the GPU still computes.
            images, pids, photos = (part.cuda(non_blocking=True) for part in (images, pids, photos))
        return images, pids, photos, list(data[self.id_field]), list(data[self.cloth_field])

    def forward_backward(self, data: dict[str, Any]) -> dict[str, float]:
        """One step; returns the total loss and each term's unweighted value.

        A step without a finite loss and gradients changes nothing, see `NonFiniteGuard`.

        Raises:
            T2IReIDError: when there were too many of these in a row.
        """
        assert self.optimizer is not None
        images, pids, photos, id_texts, cloth_texts = self.parse_data_for_train(data)
        buffers = self._buffers() if self.non_finite.patience > 1 else {}
        time_in_epochs = self.epoch + (self.batch_idx + 1) / self.num_batches
        seed = derive_seed(self.sequence["train.seed"], self.epoch, self.batch_idx, _LOSSES)
        self.optimizer.zero_grad()  # before the forward pass, which would find no room beside them
        total, values = self.training_step(images, id_texts, cloth_texts, (pids, photos), time_in_epochs, seed)
        summary = {"loss": float(total.detach()), **{name: float(value) for name, value in values.items()}}
        norm = self._backward(total) if math.isfinite(summary["loss"]) else math.nan
        if math.isfinite(norm):
            self.non_finite.step_was_good()
            self._update()
        elif not self.precision.scales_down(summary["loss"]):
            self.model.load_state_dict(buffers, strict=False)  # the statistics have seen the batch
            step = Step(self.epoch + 1, self.batch_idx + 1, summary, norm, _of_all(data))
            self.non_finite.meet(step, self._folder if is_main_process() else None)
        if isinstance(self.scheduler, WarmupCosine):
            self.scheduler.step(time_in_epochs)
        return summary

    def _backward(self, total: Tensor) -> float:
        """Gradients, clipped where that is asked for; returns their norm before that."""
        assert self.optimizer is not None
        scaler = self.precision.scaler
        scaler.scale(total).backward()
        scaler.unscale_(self.optimizer)
        parameters = list(self._all_parameters())
        if self.clip_grad > 0:
            return float(torch.nn.utils.clip_grad_norm_(parameters, self.clip_grad))
        return float(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))

    def _update(self) -> None:
        assert self.optimizer is not None
        self.precision.scaler.step(self.optimizer)
        self.precision.scaler.update()
        if self.ema is not None:
            self.ema.update_parameters(self.model)

    def _buffers(self) -> dict[str, Tensor]:
        """Copies of what a forward pass changes: the statistics of batch normalisation."""
        own = self.model.state_dict()
        return {name: own[name].clone() for name, _ in self.model.named_buffers() if name in own}

    def update_lr(self, names: Any = None) -> None:
        """Steps the scheduler at the end of an epoch."""
        if isinstance(self.scheduler, WarmupCosine):
            self.scheduler.step(self.epoch + 1)
        else:
            super().update_lr(names)

    def two_stepped_transfer_learning(
        self, epoch: int, fixbase_epoch: int, open_layers: str | list[str] | None, model: Any = None
    ) -> None:
        """Trains only ``open_layers`` for ``fixbase_epoch`` epochs, then all that was trainable at the start.

        torchreid's own would here open every layer, the frozen text encoder included.

        Raises:
            ConfigError: for a layer that the model does not have.
        """
        opened = [open_layers] if isinstance(open_layers, str) else open_layers
        only = opened if opened and epoch < fixbase_epoch else None
        children = dict(self.model.named_children())
        for layer in only or ():
            if layer not in children:
                raise ConfigError(f"train.open_layers: no layer '{layer}'; valid: {', '.join(children)}")
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in self._trainable and (only is None or name.split(".")[0] in only))
        if only is not None:
            print(f"* Only train {only} (epoch: {epoch + 1}/{fixbase_epoch})")
            for name, child in children.items():
                child.train(name in only and child.training)

    def _all_parameters(self) -> Iterable[torch.nn.Parameter]:
        yield from self.model.parameters()
        yield from self.losses.parameters()

    # Testing

    def test(self, *_: Any, **__: Any) -> float:
        """Evaluates the test targets and returns their mean R@1 of text to image; see `evaluate` for the rest."""
        return float(np.mean([metrics["R@1"] for metrics in self.evaluate(self.test_targets).values()]))

    def evaluate(self, targets: Iterable[str]) -> dict[str, Metrics]:
        """Text-to-image retrieval on each target, printed and logged; under torchrun the first process has figures."""
        return {
            name: self._evaluate(name, self.test_loader[name]["query"], self.test_loader[name]["gallery"])
            for name in targets
        }

    @torch.no_grad()
    def _evaluate(self, dataset_name: str, query_loader: DataLoader, gallery_loader: DataLoader, **_: Any) -> Metrics:
        self.set_model_mode("eval")
        embeddings = embed_target(self.tested_model, query_loader, gallery_loader, [OFFICIAL], dataset_name)
        if not is_main_process():
            return {}
        metrics = self._measure(dataset_name, OFFICIAL, embeddings)[0]
        if self.writer is not None:
            for key, value in metrics.items():
                self.writer.add_scalar(f"Test/{dataset_name}/{key}", value, self.epoch)
        if self.metrics_log is not None:
            self.metrics_log.write(epoch=self.epoch + 1, target=dataset_name, **metrics)
        return metrics

    def evaluate_protocols(
        self, targets: Iterable[str], protocols: Sequence[str], samples: int = 0, rerank: bool = False
    ) -> dict[str, dict[str, Metrics]]:
        """Each protocol on each target, from one pass over the data.

        What was ranked, and each query's figures, stay in `embeddings` and `scores`.

        Args:
            targets: names of test targets.
            protocols: names of `PROTOCOLS`.
            samples: of the bootstrap for the intervals; 0 for none.
            rerank: report each protocol a second time, as ``<protocol>+rerank``, after k-reciprocal re-ranking.
        """
        self.set_model_mode("eval")
        results: dict[str, dict[str, Metrics]] = {}
        for name in targets:
            loaders = self.test_loader[name]
            found = embed_target(self.tested_model, loaders["query"], loaders["gallery"], protocols, name)
            if not loaders["gallery"].dataset.spec.has_cameras:
                found = found._replace(camids=np.zeros_like(found.camids))
            self.embeddings[name], self.scores[name], results[name] = found, {}, {}
            for protocol in protocols if is_main_process() else ():
                metrics, scores = self._measure(name, protocol, found, samples)
                results[name][protocol], self.scores[name][protocol] = metrics, scores
                if self.metrics_log is not None:
                    self.metrics_log.write(epoch=self.epoch + 1, target=name, protocol=protocol, **metrics)
                if rerank:
                    comparison = PROTOCOLS[protocol].build_task(found, self.identity_weight)
                    results[name][f"{protocol}+rerank"] = reranked_metrics(comparison, self.ranks, samples)
        return results

    def _measure(
        self, target: str, protocol: str, embeddings: Embeddings, samples: int = 0
    ) -> tuple[Metrics, QueryScores]:
        comparison = PROTOCOLS[protocol].build_task(embeddings, self.identity_weight)
        metrics, scores = compute_metrics(comparison, self.ranks, self.evaluator, samples)
        shown = " ".join(f"{key} {100 * metrics[key]:.2f}" for key in metrics if key.startswith(("R@", "m")))
        print(f"{target} {protocol}: {shown} ({metrics['queries']} queries, {metrics['gallery']} in the gallery)")
        return metrics, scores

    def parse_data_for_eval(self, data: dict[str, Any]) -> tuple[Tensor | list[str], Tensor, Tensor]:
        """Images of a gallery batch or captions of a query batch, pids and camids, as torchreid's engine asks."""
        inputs = data["img"] if "img" in data else list(data["caption"])
        return inputs, data["pid"], data["camid"]

    def extract_features(self, input: Tensor | list[str]) -> Tensor:
        """Images ``[B, 3, H, W]`` or ``B`` texts to embeddings ``[B, 256]``."""
        if isinstance(input, Tensor):
            return self.tested_model.encode_image(input)
        return self.tested_model.encode_text(input)
