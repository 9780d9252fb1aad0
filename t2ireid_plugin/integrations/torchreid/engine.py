"""torchreid's image engines with exact metrics, JSON logs, atomic checkpoints and exact resuming."""

from __future__ import annotations

import collections
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchreid import engine as torchreid_engine
from torchreid import metrics as torchreid_metrics
from torchreid import utils as torchreid_utils

from t2ireid_plugin.engine.loop import describe_epoch
from t2ireid_plugin.engine.record import check_same_training
from t2ireid_plugin.engine.training_state import BEST, LAST, PREVIOUS, check_resumable, save_checkpoint
from t2ireid_plugin.errors import CheckpointError, T2IReIDError
from t2ireid_plugin.evaluation.metrics import evaluate_task, format_metrics, reranked_metrics
from t2ireid_plugin.evaluation.protocols import RetrievalTask
from t2ireid_plugin.evaluation.result import Metrics
from t2ireid_plugin.integrations.torchreid.clothes import clothes_protocols
from t2ireid_plugin.modeling.checkpoint import Checkpoint, weights_digest
from t2ireid_plugin.utils.logging import MetricsLog

PROTOCOL = "i2i"  # name of image-to-image retrieval in results


class _RecordedEngine(torchreid_engine.Engine):
    """Adds checkpoints and logs to one of torchreid's image engines, whose loop, losses and steps run unchanged.

    At the start of each epoch the generators are seeded by ``seed`` and the epoch, and at its end ``last.pth`` is
    written, so that a resumed run equals an uninterrupted one. torchreid's datasets have no val split: the last epoch
    is tested, never the one that is best on the test split.

    Args:
        *args: of torchreid's engine.
        seed: of the run.
        evaluator: see `evaluate_task`.
        samples: number of bootstrap samples after the final epoch.
        rerank: also report the final test after k-reciprocal re-ranking.
        record: of the run, part of its checkpoints, see `engine.record`; a checkpoint of another training is refused.
        **kwargs: of torchreid's engine.
    """

    def __init__(
        self,
        *args: Any,
        seed: int,
        evaluator: str,
        samples: int,
        rerank: bool,
        record: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.seed, self.evaluator, self.samples, self.rerank = seed, evaluator, samples, rerank
        self.record = record
        self.results: dict[str, dict[str, Metrics]] = {}  # by target and protocol, of the last test
        self.metrics_log: MetricsLog | None = None
        self.folder = Path()
        self.print_freq = 1
        self._losses: dict[str, list[float]] = {}  # of the steps in this epoch, by name
        self._started = 0.0
        self.final = False

    @property
    def network(self) -> nn.Module:
        """The model without `DataParallel`."""
        return self.model.module if isinstance(self.model, nn.DataParallel) else self.model

    def run(
        self, save_dir: str = "log", max_epoch: int = 0, start_epoch: int = 0, *, test_only: bool = False, **kwargs: Any
    ) -> None:
        """Runs torchreid's loop; removes epochs after ``start_epoch`` from ``metrics.jsonl``."""
        self.folder, self.final, self._started = Path(save_dir), test_only, time.time()
        if not test_only:
            self.metrics_log = _log_up_to(self.folder / "metrics.jsonl", start_epoch)
        super().run(save_dir=save_dir, max_epoch=max_epoch, start_epoch=start_epoch, test_only=test_only, **kwargs)

    def train(self, print_freq: int = 10, **kwargs: Any) -> None:
        """Trains an epoch and writes ``last.pth``; the previous one stays as ``last.prev.pth``."""
        self.print_freq, self._losses = print_freq, collections.defaultdict(list)
        torchreid_utils.set_random_seed(self.seed + self.epoch)
        super().train(print_freq=print_freq, **kwargs)
        self.final = self.epoch + 1 == self.max_epoch
        states = {"optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict()}
        # A checkpoint that torchreid's ``resume_from_checkpoint`` also reads.
        save_checkpoint({**self._weights(self.epoch + 1), **states}, self.folder / LAST, self.folder / PREVIOUS)
        done = self.epoch + 1
        remaining = (time.time() - self._started) / (done - self.start_epoch) * (self.max_epoch - done)
        print(describe_epoch(done, self.max_epoch, self._losses, remaining))

    def forward_backward(self, data: dict[str, Any]) -> dict[str, float]:
        """Runs torchreid's step and logs its losses.

        Raises:
            T2IReIDError: when a loss is not finite.
        """
        summary: dict[str, float] = super().forward_backward(data)
        if not all(map(math.isfinite, summary.values())):
            raise T2IReIDError(
                f"the loss is not finite in epoch {self.epoch + 1}, batch {self.batch_idx + 1} ({summary}); lower "
                "train.lr"
            )
        for name, value in summary.items():
            self._losses[name].append(value)
        if self.metrics_log is not None and (self.batch_idx + 1) % self.print_freq == 0:
            step = self.epoch * self.num_batches + self.batch_idx + 1
            self.metrics_log.write(step=step, epoch=self.epoch + 1, lr=self.get_current_lr(), **summary)
        return summary

    def save_model(self, epoch: int, rank1: float, save_dir: str, is_best: bool = False) -> None:
        """Does nothing: `train` saves each epoch, and the metrics of the test split choose none."""

    def save_chosen(self, epoch: int) -> dict[str, Any]:
        """Writes the weights after the last epoch as ``best.pth``; returns its entry ``best``."""
        weights = self._weights(epoch)
        best = {"epoch": epoch, "val": {}, "weights": weights["digest"]}
        save_checkpoint({**weights, "best": best}, self.folder / BEST)
        return best

    def _weights(self, epoch: int) -> dict[str, Any]:
        state = self.network.state_dict()
        return {"state_dict": state, "digest": weights_digest(state), "epoch": epoch, **self.record}

    def resume(self, path: str | Path) -> int:
        """Restores weights, optimizer and schedule from our or torchreid's checkpoint; returns the epochs done.

        Raises:
            CheckpointError: when the file is missing, damaged, of another model, or has weights only.
        """
        checkpoint = Checkpoint.read(path)
        state = checkpoint.content
        check_resumable(state, ("state_dict", "optimizer", "scheduler", "epoch"), path)
        if "config" in state:  # else it is torchreid's own
            check_same_training(checkpoint, self.record)
        try:
            self.network.load_state_dict(checkpoint.state)
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"'{path}' is of another model or another optimizer: {reason}") from error
        return int(state["epoch"])

    @torch.no_grad()
    def _evaluate(
        self,
        dataset_name: str = "",
        query_loader: Any = None,
        gallery_loader: Any = None,
        dist_metric: str = "euclidean",
        normalize_feature: bool = False,
        visrank: bool = False,
        visrank_topk: int = 10,
        save_dir: str = "",
        ranks: Sequence[int] = (1, 5, 10, 20),
        **_: Any,
    ) -> tuple[float, float]:
        """Evaluates like torchreid's method, and stores all metrics in `results`."""
        queries, gallery = self._embed(query_loader), self._embed(gallery_loader)
        task = RetrievalTask(*(side for pair in zip(queries, gallery) for side in pair))
        if normalize_feature:
            task = task._replace(queries=F.normalize(queries[0]), gallery=F.normalize(gallery[0]))
        samples = self.samples if self.final else 0
        metrics = evaluate_task(task, ranks, self.evaluator, samples, dist_metric).metrics
        self.results[dataset_name] = {PROTOCOL: metrics}
        if self.rerank and self.final:
            reranked = reranked_metrics(task, ranks, samples, dist_metric)
            self.results[dataset_name][f"{PROTOCOL}+rerank"] = reranked
        for protocol, ignored in clothes_protocols(gallery_loader.dataset, *task[2:4]).items():
            own = evaluate_task(task._replace(ignored=ignored), ranks, samples=samples, metric=dist_metric)
            self.results[dataset_name][protocol] = own.metrics
        for protocol, values in self.results[dataset_name].items():
            print(format_metrics(dataset_name, protocol, values))
        if self.metrics_log is not None:
            self.metrics_log.write(epoch=self.epoch + 1, target=dataset_name, protocol=PROTOCOL, **metrics)
        if visrank:
            torchreid_utils.visualize_ranked_results(
                torchreid_metrics.compute_distance_matrix(task.queries, task.gallery, dist_metric).numpy(),
                self.datamanager.fetch_test_loaders(dataset_name),
                self.datamanager.data_type,
                width=self.datamanager.width,
                height=self.datamanager.height,
                save_dir=str(Path(save_dir) / f"visrank_{dataset_name}"),
                topk=visrank_topk,
            )
        return metrics["R@1"], metrics["mAP"]

    def _embed(self, loader: Any) -> tuple[Tensor, Any, Any]:
        """Features ``[n, D]``, pids and camids ``[n]`` of a loader's images."""
        features, pids, camids = [], [], []
        for data in loader:
            images, batch_pids, batch_camids = self.parse_data_for_eval(data)
            features.append(self.extract_features(images.cuda() if self.use_gpu else images).cpu())
            pids.append(batch_pids)
            camids.append(batch_camids)
        return torch.cat(features), torch.cat(pids).numpy(), torch.cat(camids).numpy()


class SoftmaxEngine(_RecordedEngine, torchreid_engine.ImageSoftmaxEngine):
    """torchreid's ``ImageSoftmaxEngine`` with `_RecordedEngine`."""


class TripletEngine(_RecordedEngine, torchreid_engine.ImageTripletEngine):
    """torchreid's ``ImageTripletEngine`` with `_RecordedEngine`."""


def _log_up_to(path: Path, epoch: int) -> MetricsLog:
    """``metrics.jsonl`` reduced to the first ``epoch`` epochs, without an incomplete last line."""
    old = path.read_text(encoding="utf-8") if epoch and path.is_file() else ""
    records = [json.loads(line) for line in old.rpartition("\n")[0].splitlines()]
    log = MetricsLog(path)
    for record in records:
        if record["epoch"] <= epoch:
            log.write(**record)
    return log
