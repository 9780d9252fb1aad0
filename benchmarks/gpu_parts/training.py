"""Real training and embedding: what the loader delivers, hours, memory by batch, the demo, an index."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, ViTConfig
from yacs.config import CfgNode

from benchmarks.gpu_parts.common import Row, Setup, attempt, row
from benchmarks.machine import memory_peak, reset_memory_peak
from benchmarks.tiny import watch_steps
from benchmarks.training import _Clock, _shape
from benchmarks.workloads import SIZES
from t2ireid_plugin.config import load_cfg, merge
from t2ireid_plugin.engine.build import build_feature_cache, build_run
from t2ireid_plugin.engine.text_image import TextImageEngine
from t2ireid_plugin.modeling.ranking import Ranking
from t2ireid_plugin.search.encoder import About, Encoder
from t2ireid_plugin.search.torch_sides import TorchSides

CUHK_PEDES_CAPTIONS, EPOCHS = 68_126, 60  # of its training split; of t2i_vit_mamba.yaml
DEMO_CAPTIONS, DEMO_EPOCHS = 2000 * 6 * 2, 8
CARDS_GB = (12, 24, 80)
_USABLE = 0.95  # of a card's memory; the rest belongs to the context and the display
_SETTINGS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"train": {"precision": "bf16"}},
    "bf16, texts cached": {"train": {"precision": "bf16"}, "data": {"text_feature_cache": "memory"}},
}


def recipe(setup: Setup, name: str, changes: Mapping[str, Any], config: str = "t2i_vit_mamba") -> CfgNode:
    """A packaged configuration on the drawn people, with encoders of random weights in their full size."""
    cfg = load_cfg(config)
    folder = setup.folder / name.replace(" ", "").replace(",", "_")
    folder.mkdir(parents=True, exist_ok=True)
    data: dict[str, Any] = {"root": str(setup.folder), "save_dir": str(folder), "sources": ["cuhkpedes"]}
    model: dict[str, Any] = {}
    if config == "t2i_vit_mamba":
        size = SIZES["tiny" if setup.quick else "base"]
        vit, bert = ViTConfig(**size["image"]), BertConfig(**size["text"])
        sides = [vit.image_size, vit.image_size]
        data |= {"height": vit.image_size, "width": vit.image_size}
        model = {
            "vit_pretrained": "",
            "vit_config": {**_shape(vit), "image_size": sides, "patch_size": vit.patch_size},
            "bert_base_path": "",
            "bert_config": {**_shape(bert), "vocab_size": bert.vocab_size},
        }
    if setup.quick:
        data["workers"] = 0
        merge(cfg, {"train": {"batch_size": 8}}, "benchmark")
    merge(cfg, {"use_gpu": setup.cuda, "model": model, "data": data, "test": {"bootstrap": 0}}, "benchmark")
    merge(cfg, changes, "benchmark")
    return cfg


class _Enough(Exception):
    """Ends an epoch."""


def few_steps(engine: TextImageEngine, steps: int, watch: Callable[[Callable[[], Any]], Any]) -> None:
    """Trains ``steps`` steps of the first epoch, or fewer if it is shorter, each passed to ``watch``."""
    original, left = engine.forward_backward, iter(range(steps))

    def limited(run: Callable[[], Any]) -> Any:
        if next(left, None) is None:
            raise _Enough
        return watch(run)

    watch_steps(engine, limited)
    engine.epoch, engine.max_epoch, engine.position = 0, 1, (0, 0)
    try:
        engine.train(print_freq=10**9)
    except _Enough:
        pass
    finally:
        engine.forward_backward = original


def loader(setup: Setup) -> Iterator[Row]:
    """Training as ``t2ireid train`` runs it, with the loader and its worker processes."""
    for name, changes in _SETTINGS.items():
        yield from attempt(setup, f"training, {name}", lambda name=name, changes=changes: _epoch(setup, name, changes))


def _epoch(setup: Setup, name: str, changes: Mapping[str, Any], config: str = "t2i_vit_mamba") -> Iterator[Row]:
    cfg = recipe(setup, name, changes, config)
    engine = build_run(cfg)
    engine.model.text_features = build_feature_cache(cfg, engine.model, engine.train_loader.dataset.train)
    clock, (warmup, steps) = _Clock(setup.cuda), (1, 3) if setup.quick else (20, 100)
    with _utilisation(setup) as busy:
        few_steps(engine, warmup + steps, lambda run: _timed(clock, run, setup, warmup))
    waits, walls = clock.waits[warmup:], clock.walls[warmup:]
    seconds = (sum(waits) + sum(walls)) / len(walls)
    batch = cfg.train.batch_size
    what = f"{config}, {name}, batch {batch}"
    yield row(what, batch / seconds, "images per second")
    yield row(what, 100 * sum(waits) / (sum(waits) + sum(walls)), f"% waiting for {cfg.data.workers or 8} workers")
    if busy:
        yield row(what, float(np.mean(busy)), "% GPU utilisation by nvidia-smi")
    if setup.cuda:
        yield row(what, torch.cuda.max_memory_reserved() / 1e9, "GB reserved at most")
    if config == "t2i_vit_mamba":
        hours = EPOCHS * CUHK_PEDES_CAPTIONS / batch * seconds / 3600
        note = f"extrapolated from {len(walls)} steps on drawn people, without evaluations"
        yield row(f"{EPOCHS} epochs of CUHK-PEDES, {name}", hours, "hours", note=note)
    else:
        minutes = DEMO_EPOCHS * DEMO_CAPTIONS / batch * seconds / 60
        yield row("training of the demo", minutes, "minutes", note=f"extrapolated from {len(walls)} steps")


def _timed(clock: _Clock, run: Callable[[], Any], setup: Setup, warmup: int) -> Any:
    """A step on the clock; ends the epoch early, but not before a few steps are timed, when the time is up."""
    if len(clock.walls) > warmup + 2 and time.monotonic() > setup.deadline:
        raise _Enough
    return clock(run)


@contextlib.contextmanager
def _utilisation(setup: Setup) -> Iterator[list[float]]:
    """Samples the GPU's utilisation in percent twice a second; none without nvidia-smi."""
    samples: list[float] = []
    program, done = shutil.which("nvidia-smi") if setup.cuda else None, threading.Event()

    def sample() -> None:
        query = "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"
        while program and not done.wait(0.5):
            found = subprocess.run([program, *query], capture_output=True, text=True, check=False).stdout.splitlines()
            number = torch.cuda.current_device()
            if number < len(found) and found[number].strip().isdigit():
                samples.append(float(found[number]))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def users(setup: Setup) -> Iterator[Row]:
    """Largest batches by a card's memory, the demo, and embedding for an index."""
    yield from attempt(setup, "memory", lambda: _memory(setup))
    yield from attempt(setup, "index", lambda: _index(setup))
    yield from attempt(setup, "demo", lambda: _epoch(setup, "demo", {}, "t2i_synthetic_cpu"))


def _memory(setup: Setup) -> Iterator[Row]:
    """Peaks of training steps at several batches, and the batches to which they extrapolate."""
    for name in ("fp32", "bf16"):
        batches, peaks = ((8, 16) if setup.quick else (16, 32, 64)), []
        for batch in batches:
            changes = {"train": {"precision": name, "batch_size": batch}, "data": {"workers": 0}}
            peaks.append(_peak(setup, recipe(setup, f"memory {name} {batch}", changes)) / 1e9)
            yield row(f"peak of training, {name}, batch {batch}", peaks[-1], "GB")
        each, fixed = np.polyfit(batches, peaks, 1)
        for card in CARDS_GB:
            largest = int((_USABLE * card - fixed) / each) if each > 0 else 0
            note = f"extrapolated from {peaks[-1]:.1f} GB at {batches[-1]}" if each > 0 else "too small to extrapolate"
            yield row(f"largest batch in {card} GB, {name}", max(0, largest), "pairs", note=note)


def _peak(setup: Setup, cfg: CfgNode) -> int:
    """Bytes that the process, or on a GPU PyTorch, held at most in three steps."""
    if setup.cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        reset_memory_peak()
    few_steps(build_run(cfg), 3, lambda run: run())
    return torch.cuda.max_memory_reserved() if setup.cuda else memory_peak()


def _index(setup: Setup) -> Iterator[Row]:
    """From JPEG files to vectors, as ``t2ireid index`` does."""
    model = build_run(recipe(setup, "index", {"data": {"workers": 0}})).model
    encoder = Encoder(TorchSides(model), About("", Ranking(), model.preprocess, 1.0))
    photos = sorted((setup.folder / "CUHK-PEDES" / "imgs").rglob("*.jpg"))
    encoder.encode_images(photos[:64])  # warms up
    began = time.perf_counter()
    encoder.encode_images(photos)
    seconds = time.perf_counter() - began
    yield row(f"embedding {len(photos):,} photos for an index, fp32", len(photos) / seconds, "images per second")
