"""Non-finite losses, undecodable images and compiler errors: how many are tolerated before training stops."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from t2ireid_plugin.engine.training_state import save_json
from t2ireid_plugin.errors import ConfigError, DataError, T2IReIDError
from t2ireid_plugin.utils.text import first_line

logger = logging.getLogger(__name__)
_MAX_FILES = 3  # per message; the rest is in the file


class Step(NamedTuple):
    """A training step with a non-finite loss or gradient norm."""

    epoch: int  # from 1
    number: int  # batch of the epoch, from 1
    values: Mapping[str, float]  # the loss, and each term
    gradient_norm: float  # nan where the loss has no gradients
    batch: Mapping[str, Any]  # from the loader

    @property
    def problem(self) -> str:
        """The first value that is not finite."""
        if not math.isfinite(self.values["loss"]):
            return f"the loss became {self.values['loss']}"
        return f"the gradients became {self.gradient_norm}"


class NonFiniteGuard:
    """Counts consecutive steps with a non-finite loss or gradient norm.

    Args:
        patience: number of consecutive steps that ends the run; earlier ones are skipped with a warning.
    """

    FILE = "nonfinite.json"

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.in_a_row = 0  # set back to 0 by a finite step

    def record(self, step: Step, folder: Path | None) -> None:
        """Warns of a skipped step, or ends the run and writes the batch to ``folder/nonfinite.json``.

        Raises:
            T2IReIDError: for the last tolerated step, with its values and files.
        """
        self.in_a_row += 1
        values = ", ".join(f"{name} {value:.6g}" for name, value in step.values.items())
        message = f"{step.problem} in epoch {step.epoch}, batch {step.number} ({values})"
        if self.in_a_row < self.patience:
            logger.warning("%s; step skipped, %d in a row end the run", message, self.patience)
            return
        files = list(dict.fromkeys(step.batch["impath"]))
        more = f" and {len(files) - _MAX_FILES} more" if len(files) > _MAX_FILES else ""
        where = ""
        if folder is not None:
            save_json(_describe(step), folder / self.FILE)
            where = f", all in '{folder / self.FILE}'"
        names = ", ".join(map(repr, files[:_MAX_FILES]))
        raise T2IReIDError(f"{message}, with {names}{more}{where}; lower train.lr or set train.clip_grad")


def _describe(step: Step) -> dict[str, Any]:
    """The step as JSON, in which nan and infinity are strings."""

    def plain(value: float) -> float | str:
        return value if math.isfinite(value) else str(value)

    fields = [name for name, column in step.batch.items() if isinstance(column, list)]
    rows = zip(*(step.batch[name] for name in fields), strict=True)
    pids = step.batch["pid"].tolist()
    return {
        "epoch": step.epoch,
        "batch": step.number,
        "values": {name: plain(value) for name, value in step.values.items()},
        "gradient_norm": plain(step.gradient_norm),
        "samples": [{"pid": pid, **dict(zip(fields, row, strict=True))} for pid, row in zip(pids, rows, strict=True)],
    }


class BadImageCounter:
    """Counts the training images that could not be decoded and were replaced.

    Args:
        images: number of training images.
        share: maximum share of them that may be replaced.
    """

    def __init__(self, images: int, share: float) -> None:
        self.images, self.share = images, share
        self.problems: list[str] = []

    def record(self, problems: Iterable[str]) -> None:
        """Logs each new problem of a batch's ``bad_image`` column once; "" is an image without a problem.

        Raises:
            DataError: when more than the tolerated share was replaced.
        """
        for problem in problems:
            if problem and problem not in self.problems:
                self.problems.append(problem)
                logger.warning("%s; replaced by another image of the identity (%d so far)", problem, len(self.problems))
        if len(self.problems) > self.share * self.images:
            raise DataError(
                f"{len(self.problems)} of {self.images} training images cannot be decoded, more than "
                f"data.bad_image_share {self.share}; the last one: {self.problems[-1]}"
            )


@contextlib.contextmanager
def explain_compiler_errors() -> Iterator[None]:
    """Turns the errors of `torch.compile` into one that says what to do; it compiles in the first steps.

    Raises:
        ConfigError: when PyTorch cannot compile, usually as there is no C++ compiler.
    """
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo.", "torch._inductor.")):
            raise
        raise ConfigError(
            f"train.compile: PyTorch cannot compile the model ({first_line(error)}); install a C++ compiler such as "
            "g++, or set train.compile False"
        ) from error
