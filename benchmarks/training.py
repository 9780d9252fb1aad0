"""Time and memory of training steps under settings that trade one for the other, each beside the first.

Each is a run of its own in a process of its own, as `t2ireid train` makes one, on drawn people; loading and drawing are
not timed. Beside it, in the same process, the image encoder alone makes steps of its own on as many images.
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
from benchmarks.tiny import draw_people, in_own_process, tiny_cfg, watch_steps
from benchmarks.workloads import SIZES
from t2ireid_plugin.config import load_cfg, merge, merge_words
from t2ireid_plugin.engine.build import build_feature_cache, build_run
from t2ireid_plugin.engine.text_image import TextImageEngine
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.modeling.encoders.families import image_tokens

T = TypeVar("T")

SETTINGS = (
    "train.precision fp32",
    "train.checkpoint_encoders true",
    "train.encode_at_once 2",
    "model.freeze_text true",
    "model.freeze_text true data.text_feature_cache disk",
)
# Where half precision is no loss of time: most CPUs have no instructions for it.
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
    """The options of ``tools/benchmark.py train``."""
    parser.add_argument("--size", choices=SIZES, default="base", help="of the encoders (base)")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="pairs a step (8)")
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="steps that are timed (1; with --use-gpu 100, more than workers have ready beforehand)",
    )
    parser.add_argument(
        "--warmup",
        type=int,
        metavar="N",
        help="steps before these (1; with --use-gpu 20, in which compilers see all shapes and fp16 finds its scale)",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes that load images (0; with --use-gpu 8)")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="times each is run, by turns (2)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of PyTorch on the CPU (1)")
    parser.add_argument("--use-gpu", action="store_true", help="on the GPU, whose memory is then read")
    parser.add_argument(
        "--settings",
        nargs="+",
        metavar='"KEY VALUE …"',
        help="what is compared, the first being what the others are compared with (with --use-gpu, half precision too)",
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints the table, and returns the figures.

    Raises:
        ConfigError: for a setting or a GPU that is not there.
        DataError: when a training broke off.
    """
    settings = options.settings or (GPU_SETTINGS if options.use_gpu else SETTINGS)
    for name in settings:
        load_cfg(None, shlex.split(name))
    if options.use_gpu and not torch.cuda.is_available():
        raise ConfigError("--use-gpu: there is no GPU that PyTorch can use here")
    for name, (on_cpu, on_gpu) in _DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, on_gpu if options.use_gpu else on_cpu)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in settings}
    ids = -(-(options.steps + options.warmup) * options.batch // (_PHOTOS * _CAPTIONS))
    names = ("size", "batch", "steps", "warmup", "workers", "threads", "use_gpu")
    shared = {name: getattr(options, name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        draw_people(Path(folder), train_ids=ids)
        for _ in range(options.rounds):
            for name in found:
                figures = in_own_process("benchmarks.training", root=folder, settings=name, **shared)
                found[name].append(figures)
    first = found[settings[0]]
    rows = {name: _row(runs, first) for name, runs in found.items()}
    print(
        f"{'':<56}{'seconds a step':>16}{'images a second':>17}{'to the first':>24}{'to the bare encoder':>24}"
        f"{'waits':>8}{'MB':>9}{'to the first':>24}"
    )
    for name, row in rows.items():
        print(
            f"{name:<56}{row['seconds']:>16.3f}{options.batch / row['seconds']:>17.1f}"
            f"{Ratio(**row['time_to_first'])!s:>24}{Ratio(**row['time_to_bare'])!s:>24}"
            f"{row['waits']:>8.1%}{row['mb']:>9.0f}{Ratio(**row['memory_to_first'])!s:>24}"
        )
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
    """A run's figures.

    Returns:
        ``seconds`` a step and ``bare_seconds`` a step of the image encoder alone, medians of CPU time of the process,
        or with a GPU of wall time; ``waits``, the share of the wall time in which the steps waited for the loader; and
        ``bytes`` beyond the libraries'.
    """
    torch.set_num_threads(threads)
    folder = Path(root) / "log"
    _run_steps(_build(folder, Path(root), "tiny", "", batch, 0, use_gpu), _Clock(use_gpu))  # loads what is loaded once
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
    """Times steps, and what passes between them, which is the loader's."""

    def __init__(self, use_gpu: bool) -> None:
        self.use_gpu = use_gpu
        self.seconds: list[float] = []  # on the clock that counts
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
    shape = {"data": data, "sampler": {"train_sampler": "RandomSampler"}}
    merge(cfg, {"model": encoders, "use_gpu": use_gpu, **shape}, "benchmark")
    merge_words(cfg, shlex.split(settings))
    engine = build_run(cfg, None)
    engine.model.text_features = build_feature_cache(cfg, engine.model, engine.train_loader.dataset.train, show=False)
    return engine


def _run_steps(engine: TextImageEngine, clock: _Clock) -> None:
    """An epoch."""
    watch_steps(engine, clock)
    engine.epoch, engine.max_epoch = 0, 1
    engine.train(print_freq=10**9)


def _run_bare_steps(engine: TextImageEngine, batch: int, steps: int, clock: _Clock) -> None:
    """Steps of the image encoder alone as the run has it: its precision, compiled, divided or checkpointed as there."""
    encoder, precision = engine.model.visual_encoder, engine.precision
    height, width = engine.model.preprocess[:2]
    images = torch.randn(batch, 3, height, width, device=engine.model.device)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        with precision.autocast():
            loss = image_tokens(encoder, images).float().square().mean()
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
