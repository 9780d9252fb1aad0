"""Growth of cost: of images with their number and size, of texts with their length, of ranking with the gallery.

Images and texts are timed in turns with their bare encoders.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.contenders import load_evaluator, make_task
from benchmarks.timing import in_turns, ratio
from benchmarks.workloads import BARE, OURS, SIZES, Bench, Work, build, image_work, sentences, text_work
from t2ireid_plugin.utils.text import text_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCHES = (1, 2, 4, 8)
IMAGE_SIZES = ((128, 64), (224, 112), (384, 128), (224, 224))  # of patches of 16
WORDS = (4, 12, 24, 40, 60)
GALLERIES = (1000, 3000, 10_000, 30_000)
_QUERIES = 500
AXES = {
    "batch": "images per batch",
    "image": "pixels per image, thousands",
    "words": "words per caption",
    "gallery": "images in the gallery, thousands",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``tools/benchmark.py sweep``."""
    parser.add_argument("--size", choices=SIZES, default="base", help="of the encoders (base)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="measurements of each, in turns (3)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of PyTorch (1)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a plot: .png, .pdf or .svg")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints the tables, writes the plot for ``--plot``, and returns the figures."""
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        bench = build(options.size)
        figures = {
            "batch": [_point(n, image_work(bench, n), options, n) for n in BATCHES],
            "image": [_point(_pixels(s), image_work(bench, 1, s), options) for s in _sizes(bench)],
            "words": [_point(n, text_work(bench, sentences(8, n)), options, 8) for n in WORDS],
            "gallery": [_gallery(n, options) for n in GALLERIES],
        }
    finally:
        torch.set_num_threads(threads)
    for axis, points in figures.items():
        rows = [
            [f"{p['at']:g}", f"{p['seconds']:.4f}", f"{p['to_bare']:.3f}" if "to_bare" in p else ""] for p in points
        ]
        print("\n" + text_table([AXES[axis], "cpu seconds, ours", "to the bare encoder"], rows))
    if options.plot is not None:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        draw(figures).savefig(options.plot)
    return {"size": options.size, "rounds": options.rounds, "points": figures}


def _sizes(bench: Bench) -> list[tuple[int, int]]:
    """The tiny encoder's images are a seventh as large."""
    part = 224 // bench.model.preprocess.height
    return [(max(32, height // part // 16 * 16), max(32, width // part // 16 * 16)) for height, width in IMAGE_SIZES]


def _pixels(size: tuple[int, int]) -> float:
    return size[0] * size[1] / 1000


def _point(at: float, work: Work, options: argparse.Namespace, items: int = 1) -> dict[str, float]:
    """CPU seconds per item of the bare encoder and of ours, and the median of their ratio over rounds."""
    seconds = in_turns({name: work[name] for name in (BARE, OURS)}, options.rounds)
    cost = {name: statistics.median(row.cpu) / items for name, row in seconds.items()}
    return {
        "at": at,
        "seconds": cost[OURS],
        "bare": cost[BARE],
        "to_bare": ratio(seconds[OURS].cpu, seconds[BARE].cpu).median,
    }


def _gallery(number: int, options: argparse.Namespace) -> dict[str, float]:
    """CPU seconds per query."""
    task = make_task(_QUERIES, number, max(8, number // 20))
    evaluate = load_evaluator(OURS)
    seconds = in_turns({OURS: functools.partial(evaluate, task)}, options.rounds)[OURS].cpu
    return {"at": number / 1000, "seconds": statistics.median(seconds) / _QUERIES}


def draw(figures: dict[str, list[dict[str, float]]]) -> Figure:
    """Plot with one panel per axis, in milliseconds per item."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained", dpi=120)
    for axes, (axis, points) in zip(figure.subplots(2, 2).flat, figures.items()):
        places = [point["at"] for point in points]
        if "bare" in points[0]:
            axes.plot(places, [1000 * p["bare"] for p in points], "o--", color="0.5", label="bare encoder")
        axes.plot(places, [1000 * p["seconds"] for p in points], "o-", color="C0", label="this package")
        unit = {"words": "caption", "gallery": "query"}.get(axis, "image")
        axes.set(xlabel=AXES[axis], ylabel=f"CPU milliseconds per {unit}")
        axes.set_ylim(0, 1050 * max(max(p["seconds"], p.get("bare", 0)) for p in points))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return figure
