"""Epoch loop on torchreid's Engine that can be interrupted at any step and resumed exactly."""

from __future__ import annotations

import datetime
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel
from torch.utils.tensorboard import SummaryWriter
from torchreid import engine as torchreid_engine

from t2ireid_plugin.data.sampling import derive_seed, seed_all
from t2ireid_plugin.engine.failures import BadImageCounter, explain_compiler_errors
from t2ireid_plugin.engine.memory import Precision
from t2ireid_plugin.engine.record import check_same_training
from t2ireid_plugin.engine.training_state import LAST, PREVIOUS, load_training_state, save_checkpoint
from t2ireid_plugin.errors import CheckpointError
from t2ireid_plugin.losses import LossTerms
from t2ireid_plugin.modeling.checkpoint import weights_digest
from t2ireid_plugin.modeling.ranking import Ranking
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel
from t2ireid_plugin.utils.distributed import all_gather_list, is_main_process, rank, world_size
from t2ireid_plugin.utils.language import say
from t2ireid_plugin.utils.logging import MetricsLog
from t2ireid_plugin.utils.signals import Stopped, check_stop, defer_signals

_STEP = 1  # distinguishes the seeds of steps from other seeds, see `derive_seed`


class TrainingLoop(torchreid_engine.Engine):
    """torchreid's loop with logs, checkpoints, stopping and resuming; subclasses add training step and evaluation.

    The position of a run is the number of epochs done and the number of steps done of the next epoch. All randomness
    of a step follows from seed, epoch and step: the batch (see `SeededBatches`) and the global generators, which are
    seeded before each step. So a checkpoint stores no generator state, and a resumed run computes exactly what the
    uninterrupted run would have computed.

    Args:
        datamanager: `CaptionDataManager`.
        model: the network, on its device.
        losses: the training terms, on the same device.
        optimizer: over the parameters of both.
        scheduler: of torchreid, stepped after each epoch, or `WarmupCosine`, stepped after each batch.
        use_gpu: move batches to CUDA.
        precision: of the forward pass.
        ema: moving average of the model, see `build_ema`.
        seed: of all randomness, ``train.seed``.
        record: of the run, part of its checkpoints, see `engine.record`; a checkpoint of another training is refused.
        bad_images: counts replaced training images.
        save_minutes: save this often within an epoch; 0 saves after each epoch only.
        save_steps: save after this many steps; 0 saves after each epoch only.
    """

    def __init__(
        self,
        datamanager: Any,
        model: T2IReIDModel,
        losses: LossTerms,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        *,
        use_gpu: bool,
        precision: Precision,
        ema: AveragedModel | None,
        seed: int,
        record: dict[str, Any],
        bad_images: BadImageCounter,
        save_minutes: float,
        save_steps: int,
    ) -> None:
        super().__init__(datamanager, use_gpu)
        self.model, self.losses = model, losses
        self.optimizer, self.scheduler = optimizer, scheduler
        self.register_model("model", model, optimizer, scheduler)
        self.precision, self.ema = precision, ema
        self.seed, self.record, self.bad_images = seed, record, bad_images
        self.save_minutes, self.save_steps = save_minutes, save_steps
        self.writer: SummaryWriter | None = None
        self.metrics_log: MetricsLog | None = None
        self.position = (0, 0)  # epochs done, steps done of the next one
        self._first, self._read, self.print_freq = 0, 0, 1  # of the epoch in training, see `train`
        self.evaluated = True  # False between the last step of an epoch and the end of its evaluation
        self.steps = 0  # done in all
        self._losses: list[float] = []  # of the steps in this epoch
        self.values: dict[str, float] = {}  # newest total loss and value of each term
        self.max_epoch = 0  # of `run`
        self.best: dict[str, Any] = {}  # epoch, score and val metrics of the chosen checkpoint
        self._folder: Path | None = None  # of the run
        self._source: Path | None = None  # folder of the checkpoint that was resumed
        self._log_size = 0  # bytes of metrics.jsonl up to the position
        self._saved: Any = None  # position of the newest checkpoint in the folder
        self._saved_at = 0.0

    # Running

    @explain_compiler_errors()
    def run(
        self,
        save_dir: str = "log",
        max_epoch: int = 0,
        start_epoch: int = 0,
        print_freq: int = 10,
        fixbase_epoch: int = 0,
        open_layers: list[str] | None = None,
        start_eval: int = 0,
        eval_freq: int = -1,
        **_: Any,
    ) -> None:
        """Trains up to ``max_epoch``, from the resumed position or else from ``start_epoch``.

        ``last.pth`` is written at the start, after each epoch and as often as configured; the one before it stays as
        ``last.prev.pth``. `choose` is called when torchreid's arguments say so; with ``eval_freq`` -1 after the last
        epoch only.

        Raises:
            Stopped: after saving, when a signal to end has come, see `stop_on_signal`.
            CheckpointError: when something cannot be written.
        """
        self._folder = Path(save_dir)
        self.max_epoch = max_epoch
        continues = self._source == self._folder.resolve()
        if is_main_process():
            self.metrics_log = MetricsLog(self._folder / "metrics.jsonl", keep=self._log_size if continues else 0)
            self.writer = _Writer(self, save_dir)
        started, first = time.time(), 0
        try:
            self._saved_at = time.monotonic()
            if self._source is None:
                self.position = (start_epoch, 0)
            if not continues:  # shows at once whether the folder can be written to
                self.save()
            self.epoch = max(0, self.position[0] - 1)  # of the final test, if no epoch is left
            first = self.position[0] - (not self.evaluated)
            for epoch in range(first, max_epoch):
                self.epoch, done, score = epoch, epoch + 1, None
                if self.evaluated:
                    self.train(print_freq=print_freq, fixbase_epoch=fixbase_epoch, open_layers=open_layers)
                if done == max_epoch or (eval_freq > 0 and done >= start_eval and done % eval_freq == 0):
                    if world_size() > 1:  # one stopped during evaluation cannot save, as the others wait for it
                        self.save()
                    score = self.choose(self._folder)
                self.position, self.evaluated = (done, 0), True
                self.save()
                remaining = (time.time() - started) / (done - first) * (max_epoch - done)
                chosen = self.best.get("epoch"), "chosen_on" in self.best
                print(describe_epoch(done, max_epoch, {"loss": self._losses}, remaining, score, *chosen))
        except Stopped as stop:
            self.save()
            epochs, steps = self.position
            print(f"Stopped by {stop.signal.name} after {epochs} epochs and {steps} steps; continue with --resume")
            raise
        finally:
            if self.writer is not None:
                self.writer.close()
            self.writer = None
        print(f"Trained in {datetime.timedelta(seconds=round(time.time() - started))}")

    def choose(self, folder: Path) -> float | None:
        """Saves this epoch's weights in ``folder`` if they are the best so far; returns their score on val, if any."""
        raise NotImplementedError

    @property
    def batch_idx(self) -> int:
        """Index of the batch in its epoch, where torchreid's loop counts those that it has read."""
        return self._first + self._read

    @batch_idx.setter
    def batch_idx(self, read: int) -> None:
        self._read = read

    def train(self, print_freq: int = 10, fixbase_epoch: int = 0, open_layers: list[str] | None = None) -> None:
        """Trains the rest of the epoch `epoch` with torchreid's loop."""
        self.print_freq, self._losses = print_freq, []
        self._first = self.position[1] if self.position[0] == self.epoch else 0
        self.train_loader.batch_sampler.start_at(self.epoch, self._first)
        with defer_signals():  # weights, average, position and log must agree
            self.start_epoch()
            super().train(print_freq, fixbase_epoch, open_layers)
            self.position, self.evaluated = (self.epoch + 1, 0), False
            if self.metrics_log is not None:
                self._log_size = self.metrics_log.size()
            check_stop()

    def start_epoch(self) -> None:
        """Called before the first step of an epoch, or of the rest of one that is resumed."""

    def forward_backward(self, data: dict[str, Any]) -> dict[str, float]:
        """Trains one batch, logs it to ``metrics.jsonl`` every ``print_freq`` steps, and saves if it is time."""
        check_stop()
        seed_all(derive_seed(self.seed, self.epoch, self.batch_idx, _STEP, rank()))
        if "bad_image" in data:
            self.bad_images.record(all_gather_list(data["bad_image"]))
        summary = self.train_batch(data)
        self.values |= summary
        self._losses.append(summary["loss"])
        self.position, self.steps = (self.epoch, self.batch_idx + 1), self.steps + 1
        if self.metrics_log is not None and self.position[1] % self.print_freq == 0:
            self.metrics_log.write(step=self.steps, epoch=self.epoch + 1, lr=self.get_current_lr(), **self.values)
        if self._is_time_to_save():
            self.save()
        return summary

    def train_batch(self, data: dict[str, Any]) -> dict[str, float]:
        """Trains one batch; returns its losses by name."""
        raise NotImplementedError

    # Saving and resuming

    def _is_time_to_save(self) -> bool:
        if self._folder is None:
            return False
        minutes = (time.monotonic() - self._saved_at) / 60
        return 0 < self.save_minutes <= minutes or (self.save_steps > 0 and self.steps % self.save_steps == 0)

    def save(self) -> None:
        """Writes ``last.pth`` for `resume`; the previous one stays as ``last.prev.pth``."""
        if not is_main_process():
            return
        assert self._folder is not None
        assert self.metrics_log is not None
        now = (self.position, self.evaluated)
        if now != self._saved:
            with defer_signals():
                if self.evaluated:  # else the log's end is of an evaluation that will be repeated
                    self._log_size = self.metrics_log.size()
                state = self._state()
                save_checkpoint(state, self._folder / LAST, self._folder / PREVIOUS)
                self._saved, self._saved_at = now, time.monotonic()

    def _state(self) -> dict[str, Any]:
        return {
            **self.weights(self.model, self.position[0]),
            "step": self.position[1],
            "evaluated": self.evaluated,
            "steps": self.steps,
            "log": self._log_size,
            "values": self.values,
            "bad_images": list(self.bad_images.problems),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "losses": self.losses.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }

    def weights(self, model: T2IReIDModel, epochs: int) -> dict[str, Any]:
        """The content of a checkpoint for inference: weights after a number of epochs, and the run's record."""
        state = model.state_dict()
        own = {"epoch": epochs, "best": self.best, "ranking": model.ranking._asdict()}
        return {"state_dict": state, "digest": weights_digest(state), **own, **self.record}

    def resume(self, path: str | Path) -> tuple[int, int]:
        """Restores a saved training state and returns its position.

        Raises:
            CheckpointError: when the file is missing, damaged, or of another training, see `check_same_training`.
        """
        checkpoint = load_training_state(path)
        check_same_training(checkpoint, self.record)
        state = checkpoint.content
        self._load(state, path)
        self.position, self.evaluated = (state["epoch"], state["step"]), state["evaluated"]
        self.steps, self._log_size, self._source = state["steps"], state["log"], Path(path).resolve().parent
        self.values = dict(state.get("values", {}))
        if "ranking" in state:  # not in older checkpoints
            self.model.ranking = Ranking.read(state["ranking"])
        self.best, self.bad_images.problems = dict(state["best"]), dict.fromkeys(state["bad_images"])
        return self.position

    def _load(self, state: dict[str, Any], path: str | Path) -> None:
        average = state.get("ema")
        try:
            if self.ema is not None and average is not None:
                self.ema.load_state_dict(average)
            self.model.load_state_dict(state["state_dict"])
            self.losses.load_state_dict(state["losses"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"'{path}' is of another model, other losses or another optimizer: {reason}"
            ) from error
        if state["scaler"]:  # empty except with fp16
            self.precision.scaler.load_state_dict(state["scaler"])


def describe_epoch(
    epoch: int,
    last: int,
    losses: Mapping[str, Sequence[float]],
    remaining: float,
    score: float | None = None,
    best: int | None = None,
    on_test: bool = False,
) -> str:
    """One line about an epoch: ``epoch 12/20  loss 5.1  val R@1 75.0 (best)  eta 0:00:30``.

    Args:
        epoch, last: this one and the last one, counted from 1.
        losses: of its steps, by name.
        remaining: seconds up to the end of training.
        score: R@1 on val, a share of 1; None if the epoch was not evaluated.
        best: the epoch that is best on val.
        on_test: the score is that of the test set.
    """
    means = (f"{say(name)} {statistics.fmean(values):.4g}" for name, values in losses.items() if values)
    parts = [say("epoch {epoch}/{last}", epoch=epoch, last=last), *means]
    if score is not None:
        shown = say("test R@1 {score:.1f}" if on_test else "val R@1 {score:.1f}", score=100 * score)
        parts.append(shown + (say(" (best)") if best == epoch else ""))
    if epoch < last:
        parts.append(say("eta {time}", time=datetime.timedelta(seconds=round(remaining))))
    return "  ".join(parts)


class _Writer(SummaryWriter):
    """Counts steps as `TrainingLoop.steps`; torchreid counts ``epoch * num_batches``, but epochs differ in length."""

    def __init__(self, loop: TrainingLoop, folder: str) -> None:
        super().__init__(folder, purge_step=loop.steps or None)
        self.loop = loop

    def add_scalar(self, tag: str, scalar_value: Any, global_step: Any = None, *args: Any, **kwargs: Any) -> None:
        step = self.loop.steps - 1 if tag.startswith("Train/") else global_step
        super().add_scalar(tag, scalar_value, step, *args, **kwargs)
