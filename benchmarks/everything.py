"""Runs all benchmarks and writes their tables and plot into ``docs/performance.md``.

Only the parts of the page between marks are replaced; the rest is written by hand.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import data, model, ranking, startup, sweep, training
from benchmarks.machine import describe_machine
from benchmarks.timing import Ratio
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.utils.atomic_io import atomic_write_text
from t2ireid_plugin.utils.text import markdown_table

PARTS: dict[str, ModuleType] = {
    "model": model,
    "train": training,
    "sweep": sweep,
    "startup": startup,
    "ranking": ranking,
    "data": data,
}
PLOT = "performance.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``tools/benchmark.py all``."""
    parser.add_argument(
        "--page", type=Path, default=Path("docs/performance.md"), metavar="FILE", help="page whose tables are replaced"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="benchmarks to run (all)")
    parser.add_argument(
        "--with",
        dest="words",
        nargs="+",
        default=[],
        metavar="PART:OPTION",
        help="options of a benchmark, such as model:--rounds model:5",
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Runs the benchmarks, and writes the tables into the page and the plot into ``images/`` beside it.

    Raises:
        DataError: when the page lacks the marks of a part, or a benchmark failed.
    """
    text = _page(options)
    figures = {}
    for name in options.parts:
        print(f"\n=== {name}", flush=True)
        words = [word.removeprefix(f"{name}:") for word in options.words if word.startswith(f"{name}:")]
        if name == "sweep":
            words += ["--plot", str(options.page.parent / "images" / PLOT)]
        figures[name] = PARTS[name].run(_options(PARTS[name], words))
        text = replace_part(text, name, TABLES[name](figures[name]))
        atomic_write_text(options.page, text)  # after each, in case a later one fails
    atomic_write_text(options.page, replace_part(text, "machine", _machine(describe_machine())))
    return figures


def _page(options: argparse.Namespace) -> str:
    try:
        text = options.page.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"no page '{options.page}' ({error.strerror})") from error
    for name in (*options.parts, "machine"):
        replace_part(text, name, "")
    return text


def _options(module: ModuleType, words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(words)


def replace_part(page: str, name: str, content: str) -> str:
    """The page with the ``content`` of one part replaced.

    Raises:
        DataError: when its marks are missing.
    """
    start, end = f"<!-- measured: {name} -->", f"<!-- end: {name} -->"
    if page.count(start) != 1 or page.count(end) != 1:
        raise DataError(f"the page has no lines '{start}' and '{end}'")
    pattern = f"{re.escape(start)}.*?{re.escape(end)}"
    return re.sub(pattern, lambda _: f"{start}\n{content}\n{end}", page, flags=re.DOTALL)


def _model(figures: Mapping[str, Any]) -> str:
    clock = {"cpu": "CPU", "wall": "wall"}[figures["clock"]]
    rows = []
    for part, contenders in figures["parts"].items():
        for name, row in contenders.items():
            ratios = (str(Ratio(**row[to])) for to in ("to_bare", "to_literal"))
            rows.append([part, model.NAMES[name], f"{row['seconds'][figures['clock']]:.3f}", *ratios])
            part = ""
    header = ["", "", f"{clock} seconds", "to the bare encoder", "to the literal one"]
    text = markdown_table(header, rows).replace("| --- | ---: |", "| --- | --- |", 1)
    note = f"{figures['rounds']} rounds; outputs differ by {figures['difference']:.1e} at most."
    if figures["memory"] is None:
        return f"{text}\n\n{note}"
    peaks = [
        [model.NAMES[name], f"{row['bytes'] / 1e6:.0f}", *(str(Ratio(**row[to])) for to in ("to_bare", "to_literal"))]
        for name, row in figures["memory"].items()
    ]
    header = ["peak memory of training steps without libraries", "MB", "to the bare encoder", "to the literal one"]
    memory = markdown_table(header, peaks)
    return f"{text}\n\n{memory}\n\n{note}"


def _train(figures: Mapping[str, Any]) -> str:
    rows = [
        [
            f"`{name}`",
            f"{row['seconds']:.1f}",
            str(Ratio(**row["time_to_first"])),
            str(Ratio(**row["time_to_bare"])),
            f"{100 * row['waits']:.1f} %",
            f"{row['mb']:.0f}",
            str(Ratio(**row["memory_to_first"])),
        ]
        for name, row in figures["settings"].items()
    ]
    clock = "wall" if figures["use_gpu"] else "CPU"
    step = f"a step of {figures['batch']} pairs"
    header = [step, f"{clock} seconds", "to the first", "to the bare image encoder", "waits", "peak MB", "to the first"]
    return markdown_table(header, rows)


def _sweep(figures: Mapping[str, Any]) -> str:
    rows = [
        [
            sweep.AXES[axis],
            f"{p['at']:g}",
            f"{1000 * p['seconds']:.2f}",
            f"{p['to_bare']:.3f}" if "to_bare" in p else "",
        ]
        for axis, points in figures["points"].items()
        for p in points
    ]
    table = markdown_table(["", "at", "CPU ms per image, caption or query", "to the bare encoder"], rows)
    return f"![Cost against batch, image size, caption length and gallery](images/{PLOT})\n\n{table}"


def _startup(figures: Mapping[str, Any]) -> str:
    rows = [
        [f"`{startup.NAMES[name]}`", f"{row['seconds']['cpu']:.2f}", str(Ratio(**row["to_torchreid"]))]
        for name, row in figures["starts"].items()
    ]
    return markdown_table(["", "CPU seconds", "to importing torchreid"], rows)


def _ranking(figures: Mapping[str, Any]) -> str:
    ours = figures["contenders"]["ours"]
    rows = []
    for row in figures["contenders"].values():
        memory = "" if row["extra_mb"] is None else f"{row['extra_mb']:.0f}"
        note = "" if row["extra_mb"] is not None else f" (of {row['timed_queries']:,} queries, scaled up)"
        rows.append([row["what"] + note, f"{row['seconds'] / ours['seconds']:.1f}", memory])
    size = f"{figures['queries']:,} queries, {figures['images']:,} images"
    return markdown_table([size, "time, ours is 1", "extra MB"], rows)


def _data(figures: Mapping[str, Any]) -> str:
    def cell(row: Mapping[str, Any]) -> str:
        return str(Ratio(row["ratio"], *row["ratio_range"]))

    rows = [[row["what"], cell(row["test"]), cell(row["training"])] for row in figures["transforms"]]
    return markdown_table(["crop -> input, images per second relative to torchreid", "test", "training"], rows)


def _machine(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"{machine['processor']}, {machine['cores']} cores, GPU: {machine['gpu'] or 'none'}; {versions}."


TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "model": _model,
    "train": _train,
    "sweep": _sweep,
    "startup": _startup,
    "ranking": _ranking,
    "data": _data,
}
