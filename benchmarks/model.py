"""Cost of the model against its bare encoders and against the specification written down literally.

Both models have the same weights, and their outputs must agree to 1e-4. All are timed in turns in this process; the
results are ratios within a round. Peak memory is measured in a new process for each.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.timing import Ratio, in_turns, ratio, summary
from benchmarks.tiny import in_subprocess
from benchmarks.workloads import (
    BARE,
    CACHED,
    LITERAL,
    OURS,
    SIZES,
    Bench,
    Work,
    build,
    captions,
    check_agreement,
    image_work,
    text_work,
    training_work,
)
from t2ireid_plugin.utils.text import text_table

NAMES = {
    BARE: "bare encoder",
    LITERAL: "the specification literally",
    OURS: "this package",
    CACHED: "this package, texts cached",
}
PARTS = ("image", "text", "query", "training", "memory")
_MB = 1e6
_MEMORY_ROUNDS = 2
_TO = ("to the bare encoder", "to the literal one")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``tools/benchmark.py model``."""
    parser.add_argument(
        "--size", choices=SIZES, default="base", help="size of the encoders (base); tiny is for trying the command"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure (all)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="measurements of each, in turns (7)")
    parser.add_argument("--images", type=int, default=8, metavar="N", help="images per batch (8)")
    parser.add_argument("--texts", type=int, default=16, metavar="N", help="captions per batch (16)")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="pairs per training step (8)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of PyTorch (1)")
    parser.add_argument(
        "--clock", choices=("cpu", "wall"), default="cpu", help="ratios of the process's CPU time (cpu) or wall time"
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Checks the outputs, measures, prints the tables, and returns the figures.

    Raises:
        DataError: when the outputs differ, or a measuring process failed.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        bench = build(options.size)
        difference = check_agreement(bench)
        print(f"outputs of this package and of the literal transcription differ by {difference:.1e} at most")
        parts = {name: _timed(work(), name, options) for name, work in _parts(bench, options).items()}
    finally:
        torch.set_num_threads(threads)
    del bench
    memory = _memory(options) if "memory" in options.only else None
    return {
        "size": options.size,
        "rounds": options.rounds,
        "clock": options.clock,
        "threads": options.threads,
        "difference": difference,
        "parts": parts,
        "memory": memory,
    }


def _parts(bench: Bench, options: argparse.Namespace) -> dict[str, Callable[[], Work]]:
    """Contenders of each part, by its title."""
    parts: dict[str, tuple[str, Callable[[], Work]]] = {
        "image": (f"encode_image, {options.images} images", lambda: image_work(bench, options.images)),
        "text": (f"encode_text, {options.texts} captions", lambda: text_work(bench, captions(options.texts))),
        "query": ("encode_text, one query", lambda: text_work(bench, captions(1, seed=3))),
        "training": (f"training step, {options.batch} pairs", lambda: training_work(bench, options.batch)),
    }
    return dict(parts[part] for part in PARTS if part in options.only and part in parts)


def _timed(work: Work, name: str, options: argparse.Namespace) -> dict[str, Any]:
    figures = summary(in_turns(work, options.rounds), BARE, LITERAL, options.clock)
    print(f"\n{name}\n{_table(figures, options.clock)}", flush=True)
    return figures


def _table(figures: Mapping[str, Mapping[str, Any]], clock: str) -> str:
    rows = [
        [NAMES[name], *(f"{row['seconds'][kind]:.3f}" for kind in (clock, "wall")), *_ratios(row)]
        for name, row in figures.items()
    ]
    return text_table(["", f"{clock} seconds", "wall", *_TO], rows)


def _ratios(row: Mapping[str, Any]) -> list[str]:
    return [str(Ratio(**row[to])) for to in ("to_bare", "to_literal")]


def _memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of training steps, each contender in a separate process, in turns; it varies little."""
    measured: dict[str, list[dict[str, int]]] = {name: [] for name in NAMES}
    for _ in range(min(options.rounds, _MEMORY_ROUNDS)):
        for name, rows in measured.items():
            rows.append(_measured(name, options))
    peaks = {name: [float(row["bytes"]) for row in rows] for name, rows in measured.items()}
    figures: dict[str, Any] = {
        name: {
            **measured[name][-1],  # only the peak varies
            "bytes": statistics.median(values),
            "to_bare": ratio(values, peaks[BARE])._asdict(),
            "to_literal": ratio(values, peaks[LITERAL])._asdict(),
        }
        for name, values in peaks.items()
    }
    print(f"\npeak memory of training steps, {options.batch} pairs")
    table = [
        [NAMES[name], *(f"{row[kind] / _MB:.0f}" for kind in ("bytes", "parameters", "kept")), *_ratios(row)]
        for name, row in figures.items()
    ]
    print(text_table(["", "MB", "parameters", "saved", *_TO], table))
    return figures


def _measured(name: str, options: argparse.Namespace) -> dict[str, int]:
    return in_subprocess("benchmarks.workloads", size=options.size, contender=name, batch=options.batch)
