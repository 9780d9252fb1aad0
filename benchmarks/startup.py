"""What it costs to import the package and to ask the command line for help, against importing torchreid.

Each is a fresh process, by turns; what counts is the CPU time of that process less a bare Python's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.timing import Ratio, ratio
from t2ireid_plugin.errors import DataError

_ROOT = Path(__file__).resolve().parents[1]
_CODE = {
    "python": "pass",
    "torchreid": "import warnings; warnings.simplefilter('ignore'); import torchreid",
    "package": "import t2ireid_plugin",
    "both": "import t2ireid_plugin, torchreid",
    "model": "from t2ireid_plugin import T2IReIDModel",
    "help": "import sys; from t2ireid_plugin.cli import main; main(['train', '--help'])",
}
NAMES = {
    "torchreid": "import torchreid",
    "package": "import t2ireid_plugin",
    "both": "import t2ireid_plugin, torchreid",
    "model": "from t2ireid_plugin import T2IReIDModel",
    "help": "python tools/train_net.py --help",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``tools/benchmark.py startup``."""
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="times each is started, by turns (5)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints the table, and returns the figures.

    Raises:
        DataError: when a process broke off.
    """
    cpu: dict[str, list[float]] = {name: [] for name in _CODE}
    wall: dict[str, list[float]] = {name: [] for name in _CODE}
    for turn in range(options.rounds + 1):  # the first fills the disk's cache and is left out
        for name in _CODE:
            seconds = _start(name)
            if turn:
                cpu[name].append(seconds[0])
                wall[name].append(seconds[1])
    own = {name: [a - b for a, b in zip(values, cpu["python"])] for name, values in cpu.items()}
    figures = {
        name: {
            "seconds": {"cpu": statistics.median(cpu[name]), "wall": statistics.median(wall[name])},
            "to_torchreid": ratio(own[name], own["torchreid"])._asdict(),
        }
        for name in NAMES
    }
    print(f"{'':<42}{'cpu seconds':>12}{'wall':>8}{'to import torchreid':>24}")
    for name, row in figures.items():
        cells = f"{row['seconds']['cpu']:>12.2f}{row['seconds']['wall']:>8.2f}{Ratio(**row['to_torchreid'])!s:>24}"
        print(f"{NAMES[name]:<42}{cells}")
    return {"rounds": options.rounds, "starts": figures}


def _start(name: str) -> tuple[float, float]:
    """CPU and wall seconds of a process."""
    before, started = os.times(), time.perf_counter()
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", _CODE[name]]
    done = subprocess.run(
        command, cwd=_ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    wall, after = time.perf_counter() - started, os.times()
    if done.returncode:
        raise DataError(f"'{_CODE[name]}' broke off with status {done.returncode}: {done.stderr[-1000:]}")
    return after.children_user + after.children_system - before.children_user - before.children_system, wall
