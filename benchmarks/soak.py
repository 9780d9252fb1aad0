"""Memory over many training steps, with tiny encoders, in a separate process: a leak here is a leak everywhere."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import memory_used
from benchmarks.tiny import draw_people, in_subprocess, tiny_cfg, watch_steps
from t2ireid_plugin.engine.build import build_run
from t2ireid_plugin.errors import DataError

_EVAL_EVERY = 10  # epochs; a checkpoint is written after each


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``tools/benchmark.py soak``."""
    parser.add_argument("--steps", type=int, default=2000, metavar="N", help="training steps (2000)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the curve here")
    parser.add_argument("--most-growth-mb", type=float, default=30, metavar="N", help="fail above this growth (30)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Trains, prints the growth of memory and returns the figures.

    Raises:
        DataError: when memory grew by more than ``--most-growth-mb``, see `_growth`.
    """
    with tempfile.TemporaryDirectory() as folder:
        draw_people(Path(folder))
        figures = in_subprocess("benchmarks.soak", root=folder, steps=options.steps)
    for name in ("rss_mb", "cuda_mb"):
        if figures[name]:
            figures[f"{name}_growth"] = growth = _growth(figures[name])
            print(f"{name}: {figures[name][-1]:.0f} after {len(figures[name]):,} steps, {growth:+.1f} since warming up")
    if options.picture is not None:
        _draw(figures, options.picture)
    for name in ("rss_mb", "cuda_mb"):
        if (growth := figures.get(f"{name}_growth", 0.0)) > options.most_growth_mb:
            raise DataError(f"{name} grew by {growth:.0f} MB, more than {options.most_growth_mb:g}")
    return figures


def _growth(curve: list[float]) -> float:
    """Mean of the last tenth of the steps minus that of the second; caches and allocators fill up in the first."""
    tenth = max(1, len(curve) // 10)
    return float(np.mean(curve[-tenth:]) - np.mean(curve[tenth : 2 * tenth]))


def _draw(figures: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3), layout="constrained")
    for name, label in (("rss_mb", "resident memory of the process"), ("cuda_mb", "CUDA memory allocated")):
        if figures[name]:
            axes.plot(range(1, len(figures[name]) + 1), figures[name], label=label, linewidth=1)
    axes.set(xlabel="training step", ylabel="MB", ylim=(0, None))
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _train(root: str, steps: int) -> dict[str, Any]:
    """Trains with evaluations and checkpoints as `t2ireid train` does; returns the memory after each step."""
    curves: dict[str, list[float]] = {"rss_mb": [], "cuda_mb": []}
    folder = Path(root) / "log"
    folder.mkdir()
    engine = build_run(tiny_cfg(Path(root), folder), None)

    def sampled(step: Callable[[], dict[str, float]]) -> dict[str, float]:
        summary = step()
        curves["rss_mb"].append(memory_used() / 1e6)
        if torch.cuda.is_available():
            curves["cuda_mb"].append(torch.cuda.memory_allocated() / 1e6)
        return summary

    watch_steps(engine, sampled)
    epochs = -(-steps * 6 // (5 * len(engine.train_loader)))  # some epochs of the identity sampler's are shorter
    engine.run(save_dir=str(folder), max_epoch=epochs, eval_freq=_EVAL_EVERY, print_freq=steps)
    return {name: curve[:steps] for name, curve in curves.items()}


if __name__ == "__main__":
    print(json.dumps(_train(**json.loads(sys.argv[1]))))
