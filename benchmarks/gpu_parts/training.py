"""Real training and embedding: what the loader delivers, hours, memory by batch, the demo, an index."""

from __future__ import annotations

import contextlib
import functools
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from yacs.config import CfgNode

from benchmarks.gpu_parts.common import Row, Setup, attempt, row
from benchmarks.gpu_parts.engine import DEMO, RECIPE, Enough, few_steps, one_epoch, set_precision, settings
from benchmarks.gpu_parts.host import host_waits
from benchmarks.machine import memory_peak, reset_memory_peak
from benchmarks.training import _Clock
from t2ireid_plugin.engine.build import build_run
from t2ireid_plugin.engine.feature_cache import TextFeatureCache
from t2ireid_plugin.engine.text_image import TextImageEngine
from t2ireid_plugin.modeling.ranking import Ranking
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel
from t2ireid_plugin.search.encoder import About, Encoder
from t2ireid_plugin.search.torch_sides import TorchSides

CUHK_PEDES_CAPTIONS, EPOCHS = 68_126, 60  # of its training split; of the recipe
DEMO_CAPTIONS, DEMO_EPOCHS = 2000 * 6 * 2, 8
CARDS_GB = (12, 24, 80)
_USABLE = 0.95  # of a card's memory; the rest belongs to the context and the display


def loader(setup: Setup) -> Iterator[Row]:
    """Training as ``t2ireid train`` runs it, with the loader's processes, and where its steps wait for the GPU."""
    cfg = settings(setup)
    engine = build_run(cfg)
    cache = TextFeatureCache(int(1e9 * cfg.data.text_feature_cache_gb))
    kinds = (("fp32", None), ("bf16", None), ("bf16", cache))
    for number, (precision, features) in enumerate(kinds):
        set_precision(engine, precision, setup)
        engine.model.text_features = features
        name = f"{precision}{', texts cached' if features is not None else ''}"
        until = time.monotonic() + (setup.deadline - time.monotonic()) / (len(kinds) + 1 - number)
        yield from attempt(setup, f"training, {name}", functools.partial(_speed, engine, cfg, setup, until, name))
    yield from attempt(setup, "host synchronisations", lambda: host_waits(engine, setup))


def _speed(engine: TextImageEngine, cfg: CfgNode, setup: Setup, until: float, name: str) -> Iterator[Row]:
    """Speed of an epoch up to ``until``, and what follows from it."""
    clock, (warmup, steps) = _Clock(setup.cuda), (1, 2) if setup.quick else (20, 80)

    def timed(run: Callable[[], Any]) -> Any:
        if len(clock.walls) > warmup + 2 and time.monotonic() > until:
            raise Enough
        return clock(run)

    with _utilisation(setup) as busy:
        few_steps(engine, warmup + steps, timed)
    waits, walls = sum(clock.waits[warmup:]), sum(clock.walls[warmup:])
    number, batch = len(clock.walls[warmup:]), cfg.train.batch_size
    seconds = (waits + walls) / number
    what = f"training, {name}, batch {batch}"
    note = f"{number} steps, {engine.train_loader.num_workers} workers"
    yield row(what, batch / seconds, "images per second", note=note)
    yield row(f"{what}: waiting for the loader", 100 * waits / (waits + walls), "% of the time", note=note)
    if busy:
        yield row(f"{what}: utilisation by nvidia-smi", float(np.mean(busy)), "%", note=note)
    note = f"extrapolated from {number} steps on drawn people"
    if engine.model.visual_encoder.config.model_type == "conv_stack":
        minutes = DEMO_EPOCHS * DEMO_CAPTIONS / batch * seconds / 60
        yield row("training of the demo, without evaluations", minutes, "minutes", note=note)
    else:
        hours = EPOCHS * CUHK_PEDES_CAPTIONS / batch * seconds / 3600
        yield row(f"{EPOCHS} epochs of CUHK-PEDES, {name}, without evaluations", hours, "hours", note=note)


@contextlib.contextmanager
def _utilisation(setup: Setup) -> Iterator[list[float]]:
    """Samples the GPU's utilisation in percent twice a second; none without nvidia-smi."""
    samples: list[float] = []
    program, done = shutil.which("nvidia-smi") if setup.cuda else None, threading.Event()

    def sample() -> None:
        card = f"--id=GPU-{torch.cuda.get_device_properties(0).uuid}" if program else ""
        command = [str(program), card, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while program and not done.wait(0.5):
            found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
            if found.isdigit():
                samples.append(float(found))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def users(setup: Setup) -> Iterator[Row]:
    """Largest batches by a card's memory, embedding for an index, and the demo."""
    engine = build_run(settings(setup, RECIPE, {"data": {"workers": 0}}))
    for name in ("fp32", "bf16"):
        set_precision(engine, name, setup)
        yield from attempt(setup, f"memory, {name}", functools.partial(_memory, engine, setup, name))
    yield from attempt(setup, "index", functools.partial(_index, engine.model, setup))
    cfg = settings(setup, DEMO)
    yield from attempt(setup, "demo", lambda: _speed(build_run(cfg), cfg, setup, setup.deadline, "demo"))


def _memory(engine: Any, setup: Setup, name: str) -> Iterator[Row]:
    """Peaks of training steps on parts of a batch, and the batches to which they extrapolate."""
    batches, peaks, step = ((4, 8) if setup.quick else (16, 32, 64)), [], engine.forward_backward

    def parts(data: dict[str, Any]) -> None:
        for batch in batches:
            if setup.cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            else:
                reset_memory_peak()
            for _ in range(2):
                step({key: value[:batch] for key, value in data.items()})
            peaks.append((torch.cuda.max_memory_reserved() if setup.cuda else memory_peak()) / 1e9)
        raise Enough

    engine.forward_backward = parts
    try:
        one_epoch(engine)
    finally:
        engine.forward_backward = step
    for batch, peak in zip(batches, peaks):
        yield row(f"peak of training, {name}, batch {batch}", peak, "GB")
    each, fixed = np.polyfit(batches, peaks, 1)
    for card in CARDS_GB:
        largest = int((_USABLE * card - fixed) / each) if each > 1e-6 else 0
        note = f"extrapolated from {peaks[-1]:.1f} GB at {batches[-1]}"
        yield row(f"largest batch in {card} GB, {name}", max(0, largest), "pairs", note=note)


def _index(model: T2IReIDModel, setup: Setup) -> Iterator[Row]:
    """From JPEG files to vectors, as ``t2ireid index`` does."""
    encoder = Encoder(TorchSides(model), About("", Ranking(), model.preprocess, 1.0, model.score_dim))
    photos = sorted((setup.folder / "CUHK-PEDES" / "imgs").rglob("*.jpg"))[: 20 if setup.quick else None]
    encoder.encode_images(photos[:64])  # warms up
    began = time.perf_counter()
    encoder.encode_images(photos)
    speed = len(photos) / (time.perf_counter() - began)
    yield row(f"embedding {len(photos):,} photos for an index, fp32", speed, "images per second")
