"""Time and memory of training steps under settings that trade one for the other, each beside the first.

Each is a run of its own in a process of its own, as `t2ireid train` makes one, on drawn people; loading and drawing are
not timed.
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
from typing import Any

import torch
from transformers import BertConfig, ViTConfig

from t2ireid_plugin.benchmark.machine import memory_peak, memory_used, reset_memory_peak
from t2ireid_plugin.benchmark.timing import Ratio, ratio
from t2ireid_plugin.benchmark.tiny import draw_people, in_own_process, tiny_cfg, watch_steps
from t2ireid_plugin.benchmark.workloads import SIZES
from t2ireid_plugin.config import load_cfg, merge, merge_words
from t2ireid_plugin.engine.job import build_run
from t2ireid_plugin.errors import ConfigError

SETTINGS = (
    "train.precision fp32",
    "train.precision bf16",
    "train.precision fp16",
    "train.checkpoint_encoders true",
    "train.encode_at_once 2",
    "train.encode_at_once 2 train.precision bf16",
    "model.freeze_text true",
    "model.freeze_text true data.text_feature_cache memory",
)
_PHOTOS, _CAPTIONS = 4, 2  # of a drawn person
_MB = 1e6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``tools/benchmark.py train``."""
    parser.add_argument("--size", choices=SIZES, default="base", help="of the encoders (base)")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="pairs a step (8)")
    parser.add_argument("--steps", type=int, default=1, metavar="N", help="steps that are timed, after one (1)")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="times each is run, by turns (2)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of PyTorch on the CPU (1)")
    parser.add_argument("--use-gpu", action="store_true", help="on the GPU, whose memory is then read")
    parser.add_argument(
        "--settings",
        nargs="+",
        default=SETTINGS,
        metavar='"KEY VALUE …"',
        help="what is compared, the first being what the others are compared with",
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints the table, and returns the figures.

    Raises:
        ConfigError: for a setting or a GPU that is not there.
        DataError: when a training broke off.
    """
    for name in options.settings:
        load_cfg(None, shlex.split(name))
    if options.use_gpu and not torch.cuda.is_available():
        raise ConfigError("--use-gpu: there is no GPU that PyTorch can use here")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in options.settings}
    ids = -(-(options.steps + 1) * options.batch // (_PHOTOS * _CAPTIONS))
    shared = {name: getattr(options, name) for name in ("size", "batch", "steps", "threads", "use_gpu")}
    with tempfile.TemporaryDirectory() as folder:
        draw_people(Path(folder), train_ids=ids)
        for _ in range(options.rounds):
            for name in found:
                figures = in_own_process("t2ireid_plugin.benchmark.training", root=folder, settings=name, **shared)
                found[name].append(figures)
    first = found[options.settings[0]]
    rows = {name: _row(runs, first) for name, runs in found.items()}
    print(f"{'':<56}{'seconds a step':>16}{'to the first':>24}{'MB':>9}{'to the first':>24}")
    for name, row in rows.items():
        ratios = (f"{Ratio(**row[to])!s:>24}" for to in ("time_to_first", "memory_to_first"))
        print(f"{name:<56}{row['seconds']:>16.3f}{next(ratios)}{row['mb']:>9.0f}{next(ratios)}")
    return {**shared, "rounds": options.rounds, "settings": rows}


def _row(runs: list[dict[str, Any]], first: list[dict[str, Any]]) -> dict[str, Any]:
    def values(of: list[dict[str, Any]], field: str) -> list[float]:
        return [float(run[field]) for run in of]

    return {
        "seconds": statistics.median(values(runs, "seconds")),
        "mb": statistics.median(values(runs, "bytes")) / _MB,
        "time_to_first": ratio(values(runs, "seconds"), values(first, "seconds"))._asdict(),
        "memory_to_first": ratio(values(runs, "bytes"), values(first, "bytes"))._asdict(),
    }


def _train(
    root: str, settings: str, size: str, batch: int, steps: int, threads: int, use_gpu: bool
) -> dict[str, float]:
    """Median seconds a step (CPU time of the process, or with a GPU wall time), and bytes beyond the libraries'."""
    torch.set_num_threads(threads)
    folder = Path(root) / "log"
    _steps(folder, Path(root), "tiny", "", batch, 1, use_gpu)  # loads what is loaded once
    before = torch.cuda.memory_allocated() if use_gpu else memory_used()
    reset_memory_peak()
    if use_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = _steps(folder, Path(root), size, settings, batch, steps, use_gpu)
    peak = torch.cuda.max_memory_allocated() if use_gpu else memory_peak()
    return {"seconds": seconds, "bytes": peak - before}


def _steps(folder: Path, root: Path, size: str, settings: str, batch: int, steps: int, use_gpu: bool) -> float:
    cfg = tiny_cfg(root, folder, batch_size=batch)
    vit, bert = ViTConfig(**SIZES[size]["image"]), BertConfig(**SIZES[size]["text"])
    side = vit.image_size
    encoders = {
        "vit_config": {**_shape(vit), "image_size": [side, side], "patch_size": vit.patch_size},
        "bert_config": {**_shape(bert), "vocab_size": bert.vocab_size},
    }
    shape = {"data": {"height": side, "width": side}, "sampler": {"train_sampler": "RandomSampler"}}
    merge(cfg, {"model": encoders, "use_gpu": use_gpu, **shape}, "benchmark")
    merge_words(cfg, shlex.split(settings))
    engine = build_run(cfg, None)
    seconds = []

    def timed(step: Callable[[], dict[str, float]]) -> dict[str, float]:
        began = time.perf_counter() if use_gpu else time.process_time()
        summary = step()
        if use_gpu:
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() if use_gpu else time.process_time()) - began)
        return summary

    watch_steps(engine, timed)
    engine.epoch, engine.max_epoch = 0, 1
    engine.train(print_freq=10**9)
    return statistics.median(seconds[1 : steps + 1] or seconds)


def _shape(config: ViTConfig | BertConfig) -> dict[str, int]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return {name: getattr(config, name) for name in names}


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    print(json.dumps(_train(**json.loads(sys.argv[1]))))
