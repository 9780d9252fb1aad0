"""What the parts share: rows, failures that become rows, precisions, and times of several contenders."""

from __future__ import annotations

import contextlib
import gc
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.timing import in_turns
from benchmarks.workloads import Work
from t2ireid_plugin.utils.text import first_line

Row = dict[str, Any]
PRECISIONS = ("bf16", "tf32", "fp32")  # the most used first, should the time not suffice
RATIO = "x bare"
_CALLS_SECONDS, _MAX_CALLS = 0.2, 50  # of one measurement, so that the host runs ahead of the GPU as in training


class Setup(NamedTuple):
    """Where and how long a part measures."""

    device: str  # cuda, cpu
    quick: bool
    folder: Path  # with drawn people, for temporary files
    deadline: float  # of `time.monotonic`

    @property
    def cuda(self) -> bool:
        """True on a GPU."""
        return self.device == "cuda"

    def synchronize(self) -> None:
        """Waits for the GPU."""
        if self.cuda:
            torch.cuda.synchronize()


def row(what: str, value: float | None = None, unit: str = "", most: float | None = None, note: str = "") -> Row:
    """A measured value, and the target that it should not exceed, if there is one."""
    return {"what": what, "value": value, "unit": unit, "most": most, "note": note}


def failure(what: str, error: Exception) -> Row:
    """A row that says what went wrong, whose traceback goes to stderr."""
    traceback.print_exception(error)
    return row(what, note=f"failed: {type(error).__name__}: {first_line(error)[:200]}")


def attempt(setup: Setup, what: str, measure: Callable[[], Iterable[Row]]) -> Iterator[Row]:
    """The rows of ``measure``; one row that says why where it fails or where the part's time is up."""
    if time.monotonic() > setup.deadline:
        yield row(what, note="left out: the time of this part is up")
        return
    try:
        with contextlib.redirect_stdout(sys.stderr):  # of the engine
            rows = list(measure())
    except Exception as error:
        rows = [failure(what, error)]
    yield from rows
    gc.collect()  # after the exception, whose frames hold tensors
    if setup.cuda:
        torch.cuda.empty_cache()


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """Lets CUDA compute float32 products and convolutions in TF32 for ``tf32``, in full for ``fp32`` and ``bf16``.

    PyTorch's default is TF32 for convolutions alone.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = name == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def autocast(name: str, device: str) -> torch.autocast:
    """A context, or a decorator, that computes in half precision for ``bf16``."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=name == "bf16")


def seconds_per_call(work: Work, setup: Setup) -> dict[str, list[float]]:
    """Wall seconds of a call of each contender, one value per round; all are warmed up before."""
    for _ in range(1 if setup.quick else 2):  # the first compiles, where that was asked for
        began = time.perf_counter()
        for call in work.values():
            call()
        setup.synchronize()
    calls = 1 if setup.quick else max(1, min(_MAX_CALLS, int(_CALLS_SECONDS / (time.perf_counter() - began))))

    def repeated(call: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(calls):
                call()
            setup.synchronize()

        return run

    rounds = 1 if setup.quick else 5 if calls > 1 else 3
    seconds = in_turns({name: repeated(call) for name, call in work.items()}, rounds)
    return {name: [wall / calls for wall in times.wall] for name, times in seconds.items()}


def relative(value: torch.Tensor, exact: torch.Tensor) -> float:
    """Norm of the difference in proportion to the norm of ``exact``, a float64 tensor on the CPU."""
    exact = exact.detach()
    return float((value.detach().double().cpu() - exact).norm() / exact.norm())
