"""Where the host waits for the GPU in a training step, and the profile of one."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_parts.common import Row, Setup, row
from benchmarks.gpu_parts.engine import few_steps
from t2ireid_plugin.engine.text_image import TextImageEngine

_PROFILE = "profile.txt"
_STEPS = 5
_WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize")  # ours for the measurement is cudaDeviceSynchronize


def host_waits(engine: TextImageEngine, setup: Setup) -> Iterator[Row]:
    """Host synchronisations of a step by line, as PyTorch's debug mode warns of them, and by the profiler."""
    places: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    number = itertools.count()

    def watched(run: Callable[[], Any]) -> Any:
        """The first steps warm up; then come one in debug mode and one in the profiler."""
        step = next(number)
        if step == _STEPS - 2:
            with _synchronisations(setup) as found:
                done = run()
            places.update(found)
            return done
        return _profiled(run, counts, setup) if step == _STEPS - 1 else run()

    few_steps(engine, _STEPS, watched)
    lines = ", ".join(f"{place} ({number})" for place, number in places.most_common(12))
    note = lines if setup.cuda else "there is nothing to wait for on a CPU"
    yield row("host synchronisations of a training step", sum(places.values()), "waits", 0, note)
    note = f"{dict(counts)}; operations in {_PROFILE}"
    yield row("synchronising calls in the profile of a step", sum(counts.values()), "calls", note=note)


def _profiled(run: Callable[[], Any], counts: Counter[str], setup: Setup) -> Any:
    """Runs a step in the profiler, writes its operations, and counts the calls that wait."""
    setup.synchronize()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setup.cuda else [])]) as found:
        done = run()
        setup.synchronize()
    averages = found.key_averages()
    by = "self_device_time_total" if setup.cuda else "self_cpu_time_total"
    (setup.folder / _PROFILE).write_text(averages.table(sort_by=by, row_limit=25), encoding="utf-8")
    counts.update({event.key: event.count for event in averages if event.key in _WAITS})
    return done


@contextlib.contextmanager
def _synchronisations(setup: Setup) -> Iterator[Counter[str]]:
    """Counts the lines of Python that wait for the GPU."""
    found: Counter[str] = Counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if setup.cuda:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            if setup.cuda:
                torch.cuda.set_sync_debug_mode("default")
    for warning in caught:
        if "called a synchronizing" in str(warning.message):
            found["/".join(Path(warning.filename).parts[-2:]) + f":{warning.lineno}"] += 1
