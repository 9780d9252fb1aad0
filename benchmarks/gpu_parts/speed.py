"""Speed against the bare encoders of Hugging Face in the same process."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.gpu_parts.common import (
    PRECISIONS,
    RATIO,
    Row,
    Setup,
    attempt,
    autocast,
    precision,
    row,
    seconds_per_call,
)
from benchmarks.timing import ratio
from benchmarks.workloads import (
    BARE,
    CACHED,
    OURS,
    Bench,
    Step,
    Work,
    build,
    captions,
    clothing,
    image_work,
    text_work,
    training_work,
)

MOST_IMAGE, MOST_STEP = 1.13, 1.20


def encode(setup: Setup) -> Iterator[Row]:
    """`encode_image` and `encode_text`, eager and compiled."""
    bench = _bench(setup)
    batches, size, other = ((2,), "32", (64, 32)) if setup.quick else ((64, 256), "224", (384, 128))
    for how, name in _hows(bench, setup):
        for batch in batches:
            title = f"{how}, {name}, batch {batch}"
            image = functools.partial(image_work, bench, batch)
            text = functools.partial(text_work, bench, captions(batch))
            yield from _compared(setup, f"encode_image {size}, {title}", image, name, batch, "images", MOST_IMAGE)
            yield from _compared(setup, f"encode_text, {title}", text, name, batch, "captions")
            if how == "eager":
                image = functools.partial(image_work, bench, batch, other)
                what = f"encode_image {other[0]}x{other[1]}, {title}"
                yield from _compared(setup, what, image, name, batch, "images", MOST_IMAGE)


def step(setup: Setup) -> Iterator[Row]:
    """Training steps with and without cached texts, eager and compiled; graph breaks of the compiled forward pass."""
    bench = _bench(setup)
    yield from attempt(setup, "graph breaks", lambda: _graph_breaks(bench, setup))
    for how, name in _hows(bench, setup):
        for batch in (2,) if setup.quick else (64, 256):
            work = functools.partial(training_work, bench, batch)
            what = f"training step, {how}, {name}, batch {batch}"
            bench.model.text_features = None  # and no gradients, should the last measurement have failed
            bench.model.zero_grad()
            yield from _compared(setup, what, work, name, batch, "pairs", MOST_STEP, memory=True)


def _hows(bench: Bench, setup: Setup) -> Iterator[tuple[str, str]]:
    """Eager and then, as it takes long, compiled, each in all precisions."""
    yield from (("eager", name) for name in (PRECISIONS[:1] if setup.quick else PRECISIONS))
    for name in () if setup.quick else PRECISIONS:
        torch._dynamo.reset()  # else the precisions would exhaust the number of recompilations
        bench.model.compile_parts()
        yield "compiled", name


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
        with precision(name):
            made = make()
            work = {key: _casting(made[key], name, setup.device) for key in (BARE, OURS, CACHED) if key in made}
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


def _casting(call: Callable[[], Any], name: str, device: str) -> Callable[[], Any]:
    """The call with autocast around its forward pass; entered anew each time, as it caches what it has cast."""
    if isinstance(call, Step):
        call.loss = autocast(name, device)(call.loss)
        return call
    cast: Callable[[], Any] = autocast(name, device)(call)
    return cast


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
