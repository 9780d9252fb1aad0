"""`TextImageEngine`: trains and tests `T2IReIDModel` with torchreid's engine, data manager and evaluator."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from torchreid import engine as torchreid_engine

from t2ireid_plugin.engine.checkpointing import (
    load_training_state,
    rng_state,
    save_checkpoint,
    set_rng_state,
)
from t2ireid_plugin.engine.forward import forward_for
from t2ireid_plugin.engine.logging import MetricsLog
from t2ireid_plugin.engine.optim import WarmupCosine
from t2ireid_plugin.errors import CheckpointError, ConfigError, T2IReIDError
from t2ireid_plugin.evaluation.embeddings import embed_target
from t2ireid_plugin.evaluation.metrics import Metrics, compute_metrics, reranked_metrics
from t2ireid_plugin.evaluation.protocols import OFFICIAL, PROTOCOLS, Embeddings
from t2ireid_plugin.evaluation.ranking import QueryScores
from t2ireid_plugin.losses import LossInputs, LossTerms
from t2ireid_plugin.modeling.checkpoint import read_checkpoint
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel

# What a training text is read from: the choices of data.id_instruction and data.cloth_instruction.
TEXT_FIELDS = {"caption": "caption", "identity": "id_text", "clothing": "cloth_text"}


class TextImageEngine(torchreid_engine.Engine):
    """torchreid's engine for images with captions.

    torchreid's epoch loop, data manager, sampler and evaluator run unchanged. What differs: a batch carries texts; the
    checkpoint is chosen on ``val_targets``, never on the test split; what is frozen stays frozen; every epoch is
    saved, whole or not at all.

    Args:
        datamanager: `CaptionDataManager`; its targets include ``val_targets``.
        model: the network, on its device.
        losses: the training terms, on the same device.
        optimizer: over the parameters of both.
        scheduler: torchreid's, stepped after each epoch, or `WarmupCosine`, stepped after each batch.
        use_gpu: move batches to CUDA.
        val_targets: targets that choose the checkpoint; empty takes the last epoch.
        id_instruction, cloth_instruction: which text of an item the model reads as which, see `TEXT_FIELDS`.
        clip_grad: largest norm of the gradients; 0 leaves them.
        ema: moving average of the model, see `build_ema`; it is what is tested and chosen.
        evaluator: see `compute_metrics`.
        ranks: the k of R@k.
        identity_weight: share of the identity text in the protocol ``both``.
        extra_state: what checkpoints carry besides weights, such as preprocessing.
    """

    def __init__(
        self,
        datamanager: Any,
        model: T2IReIDModel,
        losses: LossTerms,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Any = None,
        *,
        use_gpu: bool = True,
        val_targets: Sequence[str] = (),
        id_instruction: str = "caption",
        cloth_instruction: str = "clothing",
        clip_grad: float = 0.0,
        ema: AveragedModel | None = None,
        evaluator: str = "exact",
        ranks: Sequence[int] = (1, 5, 10, 20),
        identity_weight: float = 0.5,
        extra_state: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(datamanager, use_gpu)
        self.model, self.losses = model, losses
        self.optimizer, self.scheduler = optimizer, scheduler
        self.register_model("model", model, optimizer, scheduler)
        self.val_targets = list(val_targets)
        self.test_targets = [name for name in datamanager.targets if name not in self.val_targets]
        self.id_field, self.cloth_field = TEXT_FIELDS[id_instruction], TEXT_FIELDS[cloth_instruction]
        self.clip_grad = clip_grad
        self.ema = ema
        self.evaluator = evaluator
        self.ranks = list(ranks)
        self.identity_weight = identity_weight
        self.extra_state = extra_state or {}
        self.writer: SummaryWriter | None = None
        self.best: dict[str, Any] = {}  # epoch, score and val metrics of the chosen checkpoint
        self.embeddings: dict[str, Embeddings] = {}  # of each target, from the last `evaluate_protocols`
        self.scores: dict[str, dict[str, QueryScores]] = {}  # by target and protocol, likewise
        self.metrics_log: MetricsLog | None = None
        self._print_freq = 1
        self._trainable = {name for name, p in model.named_parameters() if p.requires_grad}

    @property
    def tested_model(self) -> T2IReIDModel:
        """What is evaluated and kept as the best: the moving average, or else the model itself."""
        return self.model if self.ema is None else cast(T2IReIDModel, self.ema.module)

    # The run

    def run(
        self,
        save_dir: str = "log",
        max_epoch: int = 0,
        start_epoch: int = 0,
        print_freq: int = 10,
        fixbase_epoch: int = 0,
        open_layers: str | list[str] | None = None,
        start_eval: int = 0,
        eval_freq: int = -1,
        **_: Any,
    ) -> None:
        """Trains up to ``max_epoch``, saving ``last.pth`` each epoch and ``best.pth`` when val improves.

        Arguments are torchreid's; with ``eval_freq`` -1 only the last epoch is evaluated, and so it is the chosen one.
        """
        folder = Path(save_dir)
        self.writer = SummaryWriter(log_dir=save_dir)
        self.metrics_log = MetricsLog(folder / "metrics.jsonl", append=start_epoch > 0)
        self._print_freq = print_freq
        self.start_epoch, self.max_epoch = start_epoch, max_epoch
        started = time.time()
        for self.epoch in range(start_epoch, max_epoch):
            self.train(print_freq=print_freq, fixbase_epoch=fixbase_epoch, open_layers=open_layers)
            done = self.epoch + 1
            due = eval_freq > 0 and done >= start_eval and done % eval_freq == 0
            if due or done == max_epoch:
                self._choose(folder)
            self.save_model(self.epoch, self.best.get("score", 0.0), save_dir)
        self.writer.close()
        self.writer = None
        print(f"Trained in {datetime.timedelta(seconds=round(time.time() - started))}")

    def _choose(self, folder: Path) -> None:
        """Keeps this epoch's weights when they are the best so far on val, or when there is no val."""
        val = self.evaluate(self.val_targets)
        score = float(np.mean([metrics["R@1"] for metrics in val.values()])) if val else 0.0
        if not val or not self.best or score > self.best["score"]:
            self.best = {"epoch": self.epoch + 1, "score": score, "val": val}
            save_checkpoint(self._weights(self.tested_model), folder / "best.pth")

    def _weights(self, model: T2IReIDModel) -> dict[str, Any]:
        return {
            "state_dict": model.state_dict(),
            "epoch": self.epoch + 1,
            "best": self.best,
            **self.extra_state,
        }

    def save_model(self, epoch: int, rank1: float, save_dir: str, is_best: bool = False) -> None:
        """Writes ``last.pth``, from which `resume` goes on."""
        assert self.optimizer is not None
        state = {
            **self._weights(self.model),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "rank1": float(rank1),
            "losses": self.losses.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "rng": rng_state(),
        }
        save_checkpoint(state, Path(save_dir) / "last.pth")

    def resume(self, path: str | Path) -> int:
        """Restores weights, average, losses, optimizer, scheduler, random state, best score; returns the epochs done.

        Raises:
            CheckpointError: when the file is missing, damaged, or of another model.
        """
        state = load_training_state(path)
        assert self.optimizer is not None
        average = state.get("ema")
        if (average is None) != (self.ema is None):
            had, have = ("without", "above 0") if average is None else ("with", "0")
            raise CheckpointError(
                f"'{path}' was trained {had} a moving average, but train.ema_decay is {have}; it must stay as it was"
            )
        try:
            if self.ema is not None and average is not None:
                self.ema.load_state_dict(average)
            self.model.load_state_dict(state["state_dict"])
            self.losses.load_state_dict(state["losses"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"'{path}' is of another model, other losses or another optimizer: {reason}"
            ) from error
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        set_rng_state(state["rng"])
        self.best = dict(state["best"])
        return int(state["epoch"])

    def load_chosen(self, path: str | Path) -> None:
        """Puts the weights of ``best.pth`` into the model and its average, so that whoever looks at either sees them.

        Raises:
            CheckpointError: when the file is missing or damaged.
        """
        weights = read_checkpoint(path)["state_dict"]
        for model in (self.model, self.tested_model):
            model.load_state_dict(weights)

    # Training

    def parse_data_for_train(self, data: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, list[str], list[str]]:
        """A batch to images ``[B, 3, H, W]``, pids ``[B]``, photo numbers ``[B]``, identity and clothing texts."""
        numbers = {path: i for i, path in enumerate(dict.fromkeys(data["impath"]))}
        photos = torch.tensor([numbers[path] for path in data["impath"]])
        images, pids = data["img"], data["pid"]
        if self.use_gpu:
            images, pids, photos = images.cuda(), pids.cuda(), photos.cuda()
        return images, pids, photos, list(data[self.id_field]), list(data[self.cloth_field])

    def forward_backward(self, data: dict[str, Any]) -> dict[str, float]:
        """One step; returns the total loss and each term's unweighted value.

        Raises:
            T2IReIDError: when the loss is no longer a finite number.
        """
        assert self.optimizer is not None
        images, pids, photos, id_texts, cloth_texts = self.parse_data_for_train(data)
        output = forward_for(self.losses, self.model, images, id_texts, cloth_texts)
        time_in_epochs = self.epoch + (self.batch_idx + 1) / self.num_batches
        total, values = self.losses(
            LossInputs(pids=pids, photos=photos, scale=self.model.scale, epoch=time_in_epochs, **output)
        )
        summary = {"loss": float(total.detach()), **{name: float(value) for name, value in values.items()}}
        if not math.isfinite(summary["loss"]):
            raise T2IReIDError(
                f"the loss became {summary['loss']} in epoch {self.epoch + 1}, batch {self.batch_idx + 1} "
                f"({summary}); lower train.lr or set train.clip_grad"
            )
        self.optimizer.zero_grad()
        total.backward()
        if self.clip_grad > 0:
            torch.nn.utils.clip_grad_norm_(self._all_parameters(), self.clip_grad)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        if isinstance(self.scheduler, WarmupCosine):
            self.scheduler.step(time_in_epochs)
        self._log_step(summary)
        return summary

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

    def _log_step(self, summary: dict[str, float]) -> None:
        if self.metrics_log is not None and (self.batch_idx + 1) % self._print_freq == 0:
            step = self.epoch * self.num_batches + self.batch_idx + 1
            self.metrics_log.write(step=step, epoch=self.epoch + 1, lr=self.get_current_lr(), **summary)

    # Testing

    def test(self, *_: Any, **__: Any) -> float:
        """Evaluates the test targets and returns their mean R@1 of text to image; see `evaluate` for the rest."""
        return float(np.mean([metrics["R@1"] for metrics in self.evaluate(self.test_targets).values()]))

    def evaluate(self, targets: Iterable[str]) -> dict[str, Metrics]:
        """Text-to-image retrieval on each target, printed and logged."""
        return {
            name: self._evaluate(name, self.test_loader[name]["query"], self.test_loader[name]["gallery"])
            for name in targets
        }

    @torch.no_grad()
    def _evaluate(self, dataset_name: str, query_loader: DataLoader, gallery_loader: DataLoader, **_: Any) -> Metrics:
        self.set_model_mode("eval")
        embeddings = embed_target(self.tested_model, query_loader, gallery_loader, [OFFICIAL], dataset_name)
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
            for protocol in protocols:
                metrics, scores = self._measure(name, protocol, found, samples)
                results[name][protocol], self.scores[name][protocol] = metrics, scores
                if self.metrics_log is not None:
                    self.metrics_log.write(epoch=self.epoch + 1, target=name, protocol=protocol, **metrics)
                if rerank:
                    comparison = PROTOCOLS[protocol].compare(found, self.identity_weight)
                    results[name][f"{protocol}+rerank"] = reranked_metrics(comparison, self.ranks, samples)
        return results

    def _measure(
        self, target: str, protocol: str, embeddings: Embeddings, samples: int = 0
    ) -> tuple[Metrics, QueryScores]:
        comparison = PROTOCOLS[protocol].compare(embeddings, self.identity_weight)
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
