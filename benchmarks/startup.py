"""Cost of importing the package and of the command line's help, against importing torchreid.

Each start is a new process, in turns; ratios are of its CPU time minus that of an empty Python process.
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
from t2ireid_plugin.utils.text import text_table

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
    """Adds the options of ``tools/benchmark.py startup``."""
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="starts of each, in turns (5)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints the table, and returns the figures.

    Raises:
        DataError: when a process failed.
    """
    cpu: dict[str, list[float]] = {name: [] for name in _CODE}
    wall: dict[str, list[float]] = {name: [] for name in _CODE}
    for turn in range(options.rounds + 1):  # the first fills the disk's cache and is not counted
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
    rows = [
        [NAMES[name], *(f"{row['seconds'][clock]:.2f}" for clock in ("cpu", "wall")), str(Ratio(**row["to_torchreid"]))]
        for name, row in figures.items()
    ]
    print(text_table(["", "cpu seconds", "wall", "to import torchreid"], rows))
    return {"rounds": options.rounds, "starts": figures}


def _start(name: str) -> tuple[float, float]:
    """CPU and wall seconds of one process."""
    before, started = os.times(), time.perf_counter()
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", _CODE[name]]
    done = subprocess.run(
        command, cwd=_ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    wall, after = time.perf_counter() - started, os.times()
    if done.returncode:
        raise DataError(f"'{_CODE[name]}' failed with status {done.returncode}: {done.stderr[-1000:]}")
    return after.children_user + after.children_system - before.children_user - before.children_system, wall
