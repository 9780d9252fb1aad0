"""Non-finite losses, undecodable images and compiler errors: how many are tolerated before training stops."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from t2ireid_plugin.engine.training_state import save_json
from t2ireid_plugin.errors import ConfigError, DataError, T2IReIDError
from t2ireid_plugin.utils.text import first_line

logger = logging.getLogger(__name__)
_MAX_FILES = 3  # per message; the rest is in the file


class NonFiniteGuard:
    """Counts consecutive steps with a non-finite loss or gradient norm.

    Args:
        patience: number of consecutive steps that ends the run; earlier ones are skipped with a warning.
    """

    FILE = "nonfinite.json"

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.in_a_row = 0  # set back to 0 by a finite step

    def record(
        self,
        step: tuple[int, int],
        values: Mapping[str, float],
        gradient_norm: float,
        batch: Mapping[str, Any],
        folder: Path | None,
    ) -> None:
        """Warns of a skipped step, or ends the run and writes the batch to ``folder/nonfinite.json``.

        Args:
            step: epoch and batch of the epoch, from 1.
            values: the loss, and each term.
            gradient_norm: nan where the loss has no gradients.
            batch: from the loader.
            folder: of the run; None to write no file.

        Raises:
            T2IReIDError: for the last tolerated step, with its values and files.
        """
        self.in_a_row += 1
        epoch, number = step
        problem = f"the gradients became {gradient_norm}"
        if not math.isfinite(values["loss"]):
            problem = f"the loss became {values['loss']}"
        listed = ", ".join(f"{name} {value:.6g}" for name, value in values.items())
        message = f"{problem} in epoch {epoch}, batch {number} ({listed})"
        if self.in_a_row < self.patience:
            logger.warning("%s; step skipped, %d in a row end the run", message, self.patience)
            return
        files = list(dict.fromkeys(batch["impath"]))
        more = f" and {len(files) - _MAX_FILES} more" if len(files) > _MAX_FILES else ""
        where = ""
        if folder is not None:
            samples = [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]
            numbers = {name: _plain(value) for name, value in values.items()}
            content = {"epoch": epoch, "batch": number, "values": numbers, "gradient_norm": _plain(gradient_norm)}
            save_json({**content, "samples": samples}, folder / self.FILE)
            where = f", all in '{folder / self.FILE}'"
        names = ", ".join(map(repr, files[:_MAX_FILES]))
        raise T2IReIDError(f"{message}, with {names}{more}{where}; lower train.lr or set train.clip_grad")


def _plain(value: float) -> float | str:
    """For JSON, which has neither nan nor infinity."""
    return value if math.isfinite(value) else str(value)


class BadImageCounter:
    """Counts the training images that could not be decoded and were replaced.

    Args:
        images: number of training images.
        share: maximum share of them that may be replaced.
    """

    def __init__(self, images: int, share: float) -> None:
        self.images, self.share = images, share
        self.problems: dict[str, None] = {}  # in their order; a set of millions may have thousands of them

    def record(self, problems: Iterable[str]) -> None:
        """Logs each new problem of a batch's ``bad_image`` column once; "" is an image without a problem.

        Raises:
            DataError: when more than the tolerated share was replaced.
        """
        for problem in problems:
            if problem and problem not in self.problems:
                self.problems[problem] = None
                logger.warning("%s; replaced by another image (%d so far)", problem, len(self.problems))
        if len(self.problems) > self.share * self.images:
            raise DataError(
                f"{len(self.problems)} of {self.images} training images cannot be decoded, more than "
                f"data.bad_image_share {self.share}; the last one: {next(reversed(self.problems))}"
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
