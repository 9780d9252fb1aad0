"""Numbers that are no numbers, and images that are no images: what training bears, and when it stops and says why."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from t2ireid_plugin.engine.training_state import save_json
from t2ireid_plugin.errors import DataError, T2IReIDError

logger = logging.getLogger(__name__)
_SHOWN = 3  # files of a batch that a message names; the rest is in the file


class Step(NamedTuple):
    """A training step whose loss or gradients are no finite numbers."""

    epoch: int  # from 1, as it is printed
    number: int  # in its epoch, likewise
    values: Mapping[str, float]  # the loss, and each term
    gradient_norm: float  # nan where there was no loss to have gradients of
    batch: Mapping[str, Any]  # what the loader gave

    @property
    def what(self) -> str:
        """The first thing that went wrong."""
        if not math.isfinite(self.values["loss"]):
            return f"the loss became {self.values['loss']}"
        return f"the gradients became {self.gradient_norm}"


class NonFiniteGuard:
    """Counts steps whose loss or gradients are not finite.

    Args:
        patience: so many in a row end the run; those before are left out, with a warning.
    """

    FILE = "nonfinite.json"

    def __init__(self, patience: int = 1) -> None:
        self.patience = patience
        self.in_a_row = 0

    def step_was_good(self) -> None:
        """The next one is the first again."""
        self.in_a_row = 0

    def meet(self, step: Step, folder: Path | None) -> None:
        """Warns of a step, or ends the run and leaves the batch in ``folder/nonfinite.json``.

        Raises:
            T2IReIDError: for the last of as many as are borne; it names the step, the terms and the files.
        """
        self.in_a_row += 1
        values = ", ".join(f"{name} {value:.6g}" for name, value in step.values.items())
        told = f"{step.what} in epoch {step.epoch}, batch {step.number} ({values})"
        if self.in_a_row < self.patience:
            logger.warning("%s; the step is left out, %d in a row end the run", told, self.patience)
            return
        files = list(dict.fromkeys(step.batch["impath"]))
        more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
        where = ""
        if folder is not None:
            save_json(_describe(step), folder / self.FILE)
            where = f", all in '{folder / self.FILE}'"
        raise T2IReIDError(
            f"{told}, with {', '.join(map(repr, files[:_SHOWN]))}{more}{where}; lower train.lr or set train.clip_grad"
        )


def _describe(step: Step) -> dict[str, Any]:
    """What somebody needs to look at the step again; not every JSON reader knows nan."""

    def shown(value: float) -> float | str:
        return value if math.isfinite(value) else str(value)

    fields = [name for name, column in step.batch.items() if isinstance(column, list)]
    rows = zip(*(step.batch[name] for name in fields), strict=True)
    pids = step.batch["pid"].tolist()
    return {
        "epoch": step.epoch,
        "batch": step.number,
        "values": {name: shown(value) for name, value in step.values.items()},
        "gradient_norm": shown(step.gradient_norm),
        "samples": [{"pid": pid, **dict(zip(fields, row, strict=True))} for pid, row in zip(pids, rows, strict=True)],
    }


class BadImageCounter:
    """Counts the training images that could not be decoded and were replaced.

    Args:
        images: how many training images there are.
        share: more than this share of them ends the run.
    """

    def __init__(self, images: int = 1, share: float = 1.0) -> None:
        self.images, self.share = images, share
        self.met: list[str] = []

    def meet(self, problems: Iterable[str]) -> None:
        """Takes a batch's ``bad_image``, of each sample what was wrong with its image or nothing; logs each once.

        Raises:
            DataError: when there are too many.
        """
        for problem in problems:
            if problem and problem not in self.met:
                self.met.append(problem)
                logger.warning("%s; another image of the person takes its place (%d so far)", problem, len(self.met))
        if len(self.met) > self.share * self.images:
            raise DataError(
                f"{len(self.met)} of {self.images} training images cannot be decoded, more than data.bad_image_share "
                f"{self.share}; the last one: {self.met[-1]}"
            )
