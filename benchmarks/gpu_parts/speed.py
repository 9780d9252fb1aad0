"""Speed against the bare encoders of Hugging Face in the same process, and what a training step does."""

from __future__ import annotations

import contextlib
import functools
import statistics
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_parts.common import PRECISIONS, RATIO, Row, Setup, attempt, precision, row, seconds_per_call
from benchmarks.gpu_parts.training import few_steps, recipe
from benchmarks.timing import ratio
from benchmarks.workloads import (
    BARE,
    CACHED,
    OURS,
    Bench,
    Work,
    build,
    captions,
    clothing,
    image_work,
    text_work,
    training_work,
)
from t2ireid_plugin.engine.build import build_run

MOST_IMAGE, MOST_STEP = 1.13, 1.20
_PROFILE = "profile.txt"


def encode(setup: Setup) -> Iterator[Row]:
    """`encode_image` and `encode_text`, eager and compiled."""
    bench = _bench(setup)
    batches, size, other = ((2,), "32", (64, 32)) if setup.quick else ((64, 256), "224", (384, 128))
    wide = f"{other[0]}x{other[1]}"
    for how in ("eager", "compiled"):
        if how == "compiled":
            bench.model.compile_parts(backend="inductor" if setup.cuda else "eager")
        for name in ("bf16",) if how == "compiled" else PRECISIONS:  # compilation takes most of a part's time
            for batch in batches:
                title = f"{how}, {name}, batch {batch}"
                image = functools.partial(image_work, bench, batch)
                text = functools.partial(text_work, bench, captions(batch))
                yield from _compared(setup, f"encode_image {size}, {title}", image, name, batch, "images", MOST_IMAGE)
                yield from _compared(setup, f"encode_text, {title}", text, name, batch, "captions")
                if how == "eager":
                    image = functools.partial(image_work, bench, batch, other)
                    what = f"encode_image {wide}, {title}"
                    yield from _compared(setup, what, image, name, batch, "images", MOST_IMAGE)


def step(setup: Setup) -> Iterator[Row]:
    """Training steps with and without cached texts, eager and compiled; graph breaks of the compiled forward pass."""
    bench = _bench(setup)
    yield from attempt(setup, "graph breaks", lambda: _graph_breaks(bench, setup))
    for how in ("eager", "compiled"):
        if how == "compiled":
            bench.model.compile_parts(backend="inductor" if setup.cuda else "eager")
        for name in ("bf16",) if how == "compiled" else ("bf16", "tf32", "fp32"):
            for batch in (2,) if setup.quick else (64,) if how == "compiled" else (64, 256):
                work = functools.partial(training_work, bench, batch)
                what = f"training step, {how}, {name}, batch {batch}"
                yield from _compared(setup, what, work, name, batch, "pairs", MOST_STEP, memory=True)


def _bench(setup: Setup) -> Bench:
    bench = build("tiny" if setup.quick else "base")
    bench.model.to(setup.device)
    return bench._replace(literal=bench.literal.to(setup.device))


def _compared(
    setup: Setup,
    what: str,
    make: Callable[[], Work],
    name: str,
    batch: int,
    unit: str,
    most: float | None = None,
    memory: bool = False,
) -> Iterator[Row]:
    """Rows of one comparison with the bare encoder; the target is that of the last contender."""

    def measure() -> Iterator[Row]:
        with precision(name, setup.device):
            work = make()
            work = {key: work[key] for key in (BARE, OURS, CACHED) if key in work}
            seconds = seconds_per_call(work, setup)
            for key in list(work)[1:]:
                texts = ", texts cached" if key == CACHED else ""
                times = ratio(seconds[key], seconds[BARE])
                limit = most if key == list(work)[-1] else None
                yield row(f"{what}{texts}", times.median, RATIO, limit, f"{times.low:.3f} to {times.high:.3f}")
                yield row(f"{what}{texts}", batch / statistics.median(seconds[key]), f"{unit} per second")
            if memory and setup.cuda:
                for key, call in work.items():
                    torch.cuda.synchronize()
                    torch.cuda.reset_peak_memory_stats()
                    held = torch.cuda.memory_allocated()
                    call()
                    note = "beyond weights and optimizer"
                    yield row(f"{what}, {key}", (torch.cuda.max_memory_allocated() - held) / 1e9, "GB", note=note)

    yield from attempt(setup, what, measure)


def _graph_breaks(bench: Bench, setup: Setup) -> Iterator[Row]:
    model = bench.model.train()
    texts = [*clothing(4), *captions(4)]
    features, batch = model._encode_tokens(model.text_cache.ids(texts))
    inputs = (bench.images(4), features, batch, ("cloth_instruction", "id_instruction"))
    torch._dynamo.reset()
    found = torch._dynamo.explain(model._core)(*inputs)
    torch._dynamo.reset()
    reasons = "; ".join(str(reason.reason).splitlines()[0] for reason in found.break_reasons[:3])
    yield row("graph breaks of the forward pass", found.graph_break_count, "breaks", 0, reasons)


def host(setup: Setup) -> Iterator[Row]:
    """Places where a step of the real engine waits for the GPU, and its profile."""
    yield from attempt(setup, "host synchronisations", lambda: _host(setup))


def _host(setup: Setup) -> Iterator[Row]:
    cfg = recipe(
        setup, "host", {"train": {"precision": "bf16"}, "data": {"workers": 0, "text_feature_cache": "memory"}}
    )
    engine = build_run(cfg)
    places: list[Counter[str]] = []

    def watched(run: Callable[[], Any]) -> Any:
        with _synchronisations(setup) as found:
            done = run()
        places.append(found)
        return done

    few_steps(engine, 4, watched)
    counts = places[-1]
    where = ", ".join(f"{place} ({number})" for place, number in counts.most_common(12))
    note = where if setup.cuda else "there is nothing to wait for on a CPU"
    yield row("host synchronisations of a training step", sum(counts.values()), "waits", 0, note)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setup.cuda else [])]

    def profiled(run: Callable[[], Any]) -> Any:
        setup.synchronize()
        with profile(activities=activities) as found:
            done = run()
            setup.synchronize()
        by = "self_device_time_total" if setup.cuda else "self_cpu_time_total"
        averages = found.key_averages()
        (setup.folder / _PROFILE).write_text(averages.table(sort_by=by, row_limit=25), encoding="utf-8")
        calls.update({event.key: event.count for event in averages if "Synchronize" in event.key})
        return done

    calls: Counter[str] = Counter()
    few_steps(engine, 1, profiled)
    note = ", ".join(f"{name} ({number})" for name, number in calls.items()) + f"; operations in {_PROFILE}"
    yield row("synchronising CUDA calls in the profile of a step", sum(calls.values()), "calls", note=note)


@contextlib.contextmanager
def _synchronisations(setup: Setup) -> Iterator[Counter[str]]:
    """Counts the lines of Python that wait for the GPU, in PyTorch's debug mode for this."""
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
        if "synchronizing" in str(warning.message).lower():
            parts = warning.filename.replace("\\", "/").split("/")
            found["/".join(parts[-2:]) + f":{warning.lineno}"] += 1
