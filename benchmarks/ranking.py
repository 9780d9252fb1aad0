"""Time and memory of ranking a gallery, against torchreid's evaluators.

Each contender starts from the same simulated embeddings, which are as hard as real ones, and computes R@k and mAP;
torchreid's distance matrix is part of its work. Each runs in a separate process.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tiny import run_module
from t2ireid_plugin.errors import ConfigError, DataError
from t2ireid_plugin.utils.text import text_table

SIZES = {"icfgpedes": (19848, 19848, 1000), "cuhkpedes": (6156, 3074, 1000)}
CONTENDERS = {
    "ours": "t2ireid_plugin.evaluation.metrics.evaluate_task",
    "draft": "plain NumPy, one pass per positive",
    "python": "torchreid.metrics, Python",
    "cython": "torchreid.metrics, Cython",
}
_CHECKED = 500  # queries on which contenders must agree, apart from those that rounding decides
_SLOW_PAIRS = 50_000_000  # similarities on which torchreid's Python evaluator is timed
_BUILD = """
from Cython.Build import cythonize
from numpy import get_include
from setuptools import Extension, setup
setup(ext_modules=cythonize([Extension("rank_cy", ["rank_cy.pyx"], include_dirs=[get_include()])], language_level=3))
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``tools/benchmark.py ranking``."""
    parser.add_argument(
        "--size",
        type=_size,
        default="icfgpedes",
        metavar="SIZE",
        help=f"{', '.join(SIZES)} or QUERIESxGALLERYxIDS (icfgpedes)",
    )
    others = [name for name in CONTENDERS if name != "ours"]
    parser.add_argument("--against", nargs="*", choices=others, help="default: all, cython only with --cython")
    parser.add_argument(
        "--cython",
        metavar="SRC",
        type=Path,
        help="torchreid's source; its rank_cy.pyx is compiled in a temporary folder",
    )
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="measurements of contenders that take only seconds (3)"
    )
    parser.add_argument("--full", action="store_true", help="time torchreid's Python evaluator on all queries")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints the table, and returns the figures.

    Raises:
        ConfigError: when ``cython`` is chosen without its source, or cannot be built.
        DataError: when contenders disagree, or one of them failed.
    """
    against = options.against
    if against is None:
        against = [name for name in CONTENDERS if name != "ours" and (name != "cython" or options.cython)]
    if "cython" in against and options.cython is None:
        raise ConfigError("--against cython needs --cython SRC, a folder with torchreid's source")
    queries, images, people = options.size
    print(f"{queries} queries, {images} images, {people} identities, 256 dimensions")
    figures: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        library = str(build_cython(options.cython, Path(folder))) if "cython" in against else None
        for name in ("ours", *against):
            partly = name == "python" and not options.full
            timed = min(queries, max(1, _SLOW_PAIRS // images)) if partly else queries
            figures[name] = _measure(name, options, timed, library)
    _check_agreement(figures)
    print(_table(figures))
    return {"queries": queries, "images": images, "identities": people, "dimensions": 256, "contenders": figures}


def _size(text: str) -> tuple[int, int, int]:
    if text in SIZES:
        return SIZES[text]
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is neither one of {', '.join(SIZES)} nor QUERIESxGALLERYxIDS")
    queries, images, people = map(int, text.split("x"))
    return queries, images, people


def build_cython(source: Path, folder: Path) -> Path:
    """Compiles ``rank_cy.pyx`` of torchreid's ``source`` in ``folder``; needs Cython, setuptools and a C compiler.

    Raises:
        ConfigError: when the file is missing or does not compile.
    """
    file = next(source.rglob("rank_cy.pyx"), None)
    if file is None:
        raise ConfigError(f"--cython {source}: no rank_cy.pyx in it; give a folder with torchreid's source")
    shutil.copy(file, folder)
    (folder / "setup.py").write_text(_BUILD, encoding="utf-8")
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    built = [file for suffix in ("so", "pyd") for file in folder.glob(f"rank_cy*.{suffix}")]
    if done.returncode or not built:
        raise ConfigError(f"{file} does not compile; it needs Cython and a C compiler:\n{done.stderr[-1000:]}")
    return built[0]


def _measure(name: str, options: argparse.Namespace, timed: int, library: str | None) -> dict[str, Any]:
    queries = options.size[0]
    job = {
        "name": name,
        "size": options.size,
        "timed_queries": timed,
        "checked_queries": min(queries, _CHECKED),
        "repeats": max(1, options.repeats),
        "cython_library": library,
    }
    done = run_module("benchmarks.contenders", json.dumps(job))
    if done.returncode:
        raise DataError(f"{name} failed with status {done.returncode}: {done.stderr[-1000:]}")
    measured = json.loads(done.stdout.splitlines()[-1])
    seconds = [second * queries / timed for second in measured["seconds"]]
    return {
        "what": CONTENDERS[name],
        "seconds": statistics.median(seconds),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "repeats": len(seconds),
        "timed_queries": timed,
        # The memory for a part of the queries says little about that for all.
        "extra_mb": measured["extra_bytes"] / 1e6 if timed == queries else None,
        "checked_queries": measured["checked_queries"],
        "checked_cmc": measured["cmc"],
        "checked_mAP": measured["mAP"],
    }


def _check_agreement(figures: dict[str, dict[str, Any]]) -> None:
    ours = figures["ours"]
    for name, other in figures.items():
        length = min(len(ours["checked_cmc"]), len(other["checked_cmc"]))
        same = np.allclose(ours["checked_cmc"][:length], other["checked_cmc"][:length], rtol=0, atol=1e-6)
        if not same or abs(ours["checked_mAP"] - other["checked_mAP"]) > 1e-6:
            raise DataError(
                f"ours and {name} disagree on {ours['checked_queries']} queries: "
                f"R@1 {ours['checked_cmc'][0]} and {other['checked_cmc'][0]}, "
                f"mAP {ours['checked_mAP']} and {other['checked_mAP']}"
            )


def _table(figures: dict[str, dict[str, Any]]) -> str:
    ours = figures["ours"]
    rows = []
    for row in figures.values():
        scaled = row["extra_mb"] is None
        spread = f"{row['seconds_min']:.2f}-{row['seconds_max']:.2f}" if row["repeats"] > 1 else "once"
        memory = "-" if scaled else f"{row['extra_mb']:.0f}"
        ratios = (
            f"{row['seconds'] / ours['seconds']:.1f}x",
            "-" if scaled or not ours["extra_mb"] else f"{row['extra_mb'] / ours['extra_mb']:.1f}x",
        )
        rows.append([row["what"] + "*" * scaled, f"{row['seconds']:.2f}", spread, memory, *ratios])
    lines = [text_table(["", "seconds", "spread", "extra MB", "time", "memory"], rows)]
    for row in figures.values():
        if row["extra_mb"] is None:
            lines.append(f"* timed on {row['timed_queries']} queries and scaled up; the cost per query is constant")
    checked = f"R@1 {ours['checked_cmc'][0]:.3f}, mAP {ours['checked_mAP']:.3f}"
    lines.append(f"All agree on {ours['checked_queries']} queries that rounding does not decide: {checked}")
    return "\n".join(lines)
