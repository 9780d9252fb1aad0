"""Time and memory of training steps under several settings, each compared with the first.

Each is a run in a separate process, as of `t2ireid train`, on drawn people; loading and drawing are not timed. In the
same process the image encoder alone makes steps on as many images, for comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import BertConfig, ViTConfig

from benchmarks.machine import memory_peak, memory_used, reset_memory_peak
from benchmarks.timing import Ratio, ratio
from benchmarks.tiny import draw_people, in_subprocess, tiny_cfg, watch_steps
from benchmarks.workloads import SIZES
from t2ireid_plugin.config import load_cfg, merge
from t2ireid_plugin.engine.build import build_image_features, build_run, build_text_features
from t2ireid_plugin.engine.text_image import TextImageEngine
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.modeling.encoders.backbones import image_tokens
from t2ireid_plugin.utils.text import text_table

T = TypeVar("T")

SETTINGS = (
    "train.precision fp32",
    "train.checkpoint_encoders true",
    "train.encode_at_once 2",
    "model.freeze_text true",
    "model.freeze_text true data.text_feature_cache disk",
)
# Half precision is worth measuring here: most CPUs have no instructions for it.
GPU_SETTINGS = (
    *SETTINGS,
    "train.precision bf16",
    "train.precision fp16",
    "train.encode_at_once 2 train.precision bf16",
    "train.precision bf16 model.freeze_text true data.text_feature_cache disk",
    "train.precision bf16 model.freeze_text true data.text_feature_cache disk train.compile true",
)
_DEFAULTS = {"steps": (1, 100), "warmup": (1, 20), "workers": (0, 8)}  # on the CPU, with a GPU
_PHOTOS, _CAPTIONS = 4, 2  # of a drawn person
_MB = 1e6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``tools/benchmark.py train``."""
    parser.add_argument("--size", choices=SIZES, default="base", help="size of the encoders (base)")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="pairs per step (8)")
    parser.add_argument(
        "--steps", type=int, metavar="N", help="timed steps (1; with --use-gpu 100, more than workers prefetch)"
    )
    parser.add_argument(
        "--warmup",
        type=int,
        metavar="N",
        help="steps before these (1; with --use-gpu 20, for compilation and the loss scale of fp16)",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes that load images (0; with --use-gpu 8)")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="runs of each, in turns (2)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of PyTorch on the CPU (1)")
    parser.add_argument("--use-gpu", action="store_true", help="train on the GPU and measure its memory")
    parser.add_argument(
        "--settings",
        nargs="+",
        metavar='"KEY VALUE …"',
        help="settings to compare with the first of them (default: several, with --use-gpu half precision too)",
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints the table, and returns the figures.

    Raises:
        ConfigError: for an unknown setting, or when no GPU is available.
        DataError: when a training failed.
    """
    settings = options.settings or (GPU_SETTINGS if options.use_gpu else SETTINGS)
    for name in settings:
        load_cfg(None, shlex.split(name))
    if options.use_gpu and not torch.cuda.is_available():
        raise ConfigError("--use-gpu: PyTorch has no usable GPU on this machine")
    for name, (on_cpu, on_gpu) in _DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, on_gpu if options.use_gpu else on_cpu)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in settings}
    ids = -(-(options.steps + options.warmup) * options.batch // (_PHOTOS * _CAPTIONS))
    names = ("size", "batch", "steps", "warmup", "workers", "threads", "use_gpu")
    shared = {name: getattr(options, name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        draw_people(Path(folder), train_ids=ids)
        for _ in range(options.rounds):
            for name in settings:
                runs[name].append(in_subprocess("benchmarks.training", root=folder, settings=name, **shared))
    rows = {name: _row(own, runs[settings[0]]) for name, own in runs.items()}
    table = []
    for name, row in rows.items():
        to_first, to_bare, memory = (
            str(Ratio(**row[to])) for to in ("time_to_first", "time_to_bare", "memory_to_first")
        )
        speed = [f"{row['seconds']:.3f}", f"{options.batch / row['seconds']:.1f}", to_first, to_bare]
        table.append([name, *speed, f"{row['waits']:.1%}", f"{row['mb']:.0f}", memory])
    header = ["", "seconds per step", "images per second", "to the first", "to the bare encoder"]
    print(text_table([*header, "waits", "MB", "to the first"], table))
    return {**shared, "rounds": options.rounds, "settings": rows}


def _row(runs: list[dict[str, Any]], first: list[dict[str, Any]]) -> dict[str, Any]:
    def values(of: list[dict[str, Any]], field: str) -> list[float]:
        return [float(run[field]) for run in of]

    return {
        "seconds": statistics.median(values(runs, "seconds")),
        "mb": statistics.median(values(runs, "bytes")) / _MB,
        "waits": statistics.median(values(runs, "waits")),
        "time_to_first": ratio(values(runs, "seconds"), values(first, "seconds"))._asdict(),
        "time_to_bare": ratio(values(runs, "seconds"), values(runs, "bare_seconds"))._asdict(),
        "memory_to_first": ratio(values(runs, "bytes"), values(first, "bytes"))._asdict(),
    }


def _train(
    root: str, settings: str, size: str, batch: int, steps: int, warmup: int, workers: int, threads: int, use_gpu: bool
) -> dict[str, float]:
    """Measures one run.

    Returns:
        ``seconds`` per step and ``bare_seconds`` per step of the image encoder alone, medians of the CPU time of the
        process, or with a GPU of the wall time; ``waits``, the share of the wall time spent waiting for the loader;
        and ``bytes``, the peak memory beyond that of the libraries.
    """
    torch.set_num_threads(threads)
    folder = Path(root) / "log"
    _run_steps(_build(folder, Path(root), "tiny", "", batch, 0, use_gpu), _Clock(use_gpu))  # warms up
    before = torch.cuda.memory_allocated() if use_gpu else memory_used()
    reset_memory_peak()
    if use_gpu:
        torch.cuda.reset_peak_memory_stats()
    engine = _build(folder, Path(root), size, settings, batch, workers, use_gpu)
    clock, bare = _Clock(use_gpu), _Clock(use_gpu)
    _run_steps(engine, clock)
    peak = torch.cuda.max_memory_allocated() if use_gpu else memory_peak()
    _run_bare_steps(engine, batch, warmup + steps, bare)
    timed = slice(warmup, warmup + steps)
    waits, walls = sum(clock.waits[timed]), sum(clock.walls[timed])
    return {
        "seconds": statistics.median(clock.seconds[timed]),
        "bare_seconds": statistics.median(bare.seconds[timed]),
        "waits": waits / (waits + walls),
        "bytes": peak - before,
    }


class _Clock:
    """Times steps, and the waits between them, which are the loader's."""

    def __init__(self, use_gpu: bool) -> None:
        self.use_gpu = use_gpu
        self.seconds: list[float] = []  # of the CPU, or with a GPU wall time
        self.walls: list[float] = []
        self.waits: list[float] = []  # before each
        self._ended = time.perf_counter()

    def __call__(self, step: Callable[[], T]) -> T:
        began, used = time.perf_counter(), time.process_time()
        done = step()
        if self.use_gpu:
            torch.cuda.synchronize()
        ended = time.perf_counter()
        self.waits.append(began - self._ended)
        self.walls.append(ended - began)
        self.seconds.append(ended - began if self.use_gpu else time.process_time() - used)
        self._ended = ended
        return done


def _build(
    folder: Path, root: Path, size: str, settings: str, batch: int, workers: int, use_gpu: bool
) -> TextImageEngine:
    cfg = tiny_cfg(root, folder, batch_size=batch)
    vit, bert = ViTConfig(**SIZES[size]["image"]), BertConfig(**SIZES[size]["text"])
    side = vit.image_size
    encoders = {
        "vit_config": {**_shape(vit), "image_size": [side, side], "patch_size": vit.patch_size},
        "bert_config": {**_shape(bert), "vocab_size": bert.vocab_size},
    }
    data = {"height": side, "width": side, "workers": workers, "text_feature_cache_dir": str(root / "features")}
    data["image_feature_cache_dir"] = data["text_feature_cache_dir"]
    shape = {"data": data, "sampler": {"train_sampler": "RandomSampler"}}
    merge(cfg, {"model": encoders, "use_gpu": use_gpu, **shape}, "benchmark")
    words = shlex.split(settings)
    for key, value in zip(words[::2], words[1::2], strict=True):
        setting: Any = value
        for part in reversed(key.split(".")):
            setting = {part: setting}
        merge(cfg, setting, "benchmark")
    engine = build_run(cfg, None)
    engine.model.text_features = build_text_features(cfg, engine.model, engine.train_loader.dataset.train)
    engine.use_image_features(build_image_features(cfg, engine))
    return engine


def _run_steps(engine: TextImageEngine, clock: _Clock) -> None:
    """Trains one epoch."""
    watch_steps(engine, clock)
    engine.epoch, engine.max_epoch = 0, 1
    engine.train(print_freq=10**9)


def _run_bare_steps(engine: TextImageEngine, batch: int, steps: int, clock: _Clock) -> None:
    """Trains the image encoder alone, with the run's precision, compilation and checkpointing."""
    encoder, precision = engine.model.visual_encoder.requires_grad_(True), engine.precision  # also where it is frozen
    height, width = engine.model.preprocess[:2]
    images = torch.randn(batch, 3, height, width, device=engine.model.device)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        with precision.autocast():
            loss = image_tokens(encoder, images).tokens.float().square().mean()
        optimizer.zero_grad()
        precision.scaler.scale(loss).backward()
        precision.scaler.step(optimizer)
        precision.scaler.update()

    for _ in range(steps):
        clock(step)


def _shape(config: ViTConfig | BertConfig) -> dict[str, int]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return {name: getattr(config, name) for name in names}


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    print(json.dumps(_train(**json.loads(sys.argv[1]))))
