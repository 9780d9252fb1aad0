"""Cost of the model against its bare encoders and against the specification written down literally.

The three have the same weights, which is checked first: their outputs agree to 1e-4. They are timed by turns in this
process, and what counts are the ratios within a round. Peak memory is read in a fresh process for each.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.timing import Ratio, by_turns, ratio, summary
from benchmarks.tiny import in_own_process
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

NAMES = {
    BARE: "bare encoder",
    LITERAL: "the specification literally",
    OURS: "this package",
    CACHED: "this package, texts cached",
}
PARTS = ("image", "text", "query", "training", "memory")
_MB = 1e6
_MEMORY_ROUNDS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``tools/benchmark.py model``."""
    parser.add_argument(
        "--size", choices=SIZES, default="base", help="of the encoders (base); tiny is a trial of the command"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure (all)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="times each is timed, by turns (7)")
    parser.add_argument("--images", type=int, default=8, metavar="N", help="images a batch (8)")
    parser.add_argument("--texts", type=int, default=16, metavar="N", help="captions a batch (16)")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="pairs a training step (8)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of PyTorch (1)")
    parser.add_argument(
        "--clock", choices=("cpu", "wall"), default="cpu", help="ratios of the process's CPU time (cpu) or wall time"
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Checks, measures, prints the tables, and returns the figures.

    Raises:
        DataError: when the outputs differ, or a measuring process broke off.
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
    """What is timed, by what the tables call it."""
    parts: dict[str, tuple[str, Callable[[], Work]]] = {
        "image": (f"encode_image, {options.images} images", lambda: image_work(bench, options.images)),
        "text": (f"encode_text, {options.texts} captions", lambda: text_work(bench, captions(options.texts))),
        "query": ("encode_text, one query", lambda: text_work(bench, captions(1, seed=3))),
        "training": (f"training step, {options.batch} pairs", lambda: training_work(bench, options.batch)),
    }
    return dict(parts[part] for part in PARTS if part in options.only and part in parts)


def _timed(work: Work, name: str, options: argparse.Namespace) -> dict[str, Any]:
    figures = summary(by_turns(work, options.rounds), BARE, LITERAL, options.clock)
    print(f"\n{name}\n{_table(figures, options.clock)}", flush=True)
    return figures


def _table(figures: Mapping[str, Mapping[str, Any]], clock: str) -> str:
    lines = [f"{'':<30}{f'{clock} seconds':>14}{'wall':>8}{'to the bare encoder':>26}{'to the literal one':>26}"]
    for name, row in figures.items():
        seconds = f"{row['seconds'][clock]:>14.3f}{row['seconds']['wall']:>8.3f}"
        ratios = f"{Ratio(**row['to_bare'])!s:>26}{Ratio(**row['to_literal'])!s:>26}"
        lines.append(f"{NAMES[name]:<30}{seconds}{ratios}")
    return "\n".join(lines)


def _memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of training steps, each contender in a process of its own, by turns; it varies little."""
    measured: dict[str, list[dict[str, int]]] = {name: [] for name in NAMES}
    for _ in range(min(options.rounds, _MEMORY_ROUNDS)):
        for name, found in measured.items():
            found.append(_measured(name, options))
    peaks = {name: [float(row["bytes"]) for row in found] for name, found in measured.items()}
    figures: dict[str, Any] = {
        name: {
            **measured[name][-1],  # what is not the peak is the same each time
            "bytes": statistics.median(found),
            "to_bare": ratio(found, peaks[BARE])._asdict(),
            "to_literal": ratio(found, peaks[LITERAL])._asdict(),
        }
        for name, found in peaks.items()
    }
    print(f"\npeak memory of training steps, {options.batch} pairs")
    print(f"{'':<30}{'MB':>8}{'parameters':>12}{'kept':>8}{'to the bare encoder':>26}{'to the literal one':>26}")
    for name, row in figures.items():
        ratios = f"{Ratio(**row['to_bare'])!s:>26}{Ratio(**row['to_literal'])!s:>26}"
        parts = f"{row['parameters'] / _MB:>12.0f}{row['kept'] / _MB:>8.0f}"
        print(f"{NAMES[name]:<30}{row['bytes'] / _MB:>8.0f}{parts}{ratios}")
    return figures


def _measured(name: str, options: argparse.Namespace) -> dict[str, int]:
    module = "benchmarks.workloads"
    return in_own_process(module, size=options.size, contender=name, batch=options.batch)
