"""Trains the runs of a grid, several at once, each in a process of its own; what is done is not done again."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from t2ireid_plugin.ablation.grid import Run
from t2ireid_plugin.data.progress import show_progress
from t2ireid_plugin.errors import ConfigError, T2IReIDError
from t2ireid_plugin.files import write_whole

_RECIPE, _RESULTS, _CONSOLE = "recipe.yaml", "results.json", "console.txt"


def train_all(runs: Sequence[Run], jobs: int = 1, threads: int = 1) -> None:
    """Trains what has no results yet, ``jobs`` at once with ``threads`` each; an interrupted run goes on.

    Every run is tried, also after one has failed.

    Raises:
        ConfigError: when a run's folder holds a run with other settings.
        T2IReIDError: when runs failed; the message has each one's last words.
    """
    for run in runs:
        check_folder(run)
    due = [run for run in runs if not is_done(run)]
    if len(due) < len(runs):
        print(f"{len(runs) - len(due)} of {len(runs)} runs are done already", file=sys.stderr)
    failures: list[str] = []
    # The processes end before the pool, whose threads wait for them: an interrupted grid does not train on.
    with ThreadPoolExecutor(jobs) as pool, _Processes(threads) as processes:
        futures = {pool.submit(processes.train, run): run for run in due}
        for future in show_progress(as_completed(futures), len(due), "training", "run"):
            if (words := future.result()) is not None:
                failures.append(f"{futures[future].name}: {words}")
    if failures:
        raise T2IReIDError(f"{len(failures)} of {len(due)} runs failed\n" + "\n".join(failures))


def is_done(run: Run) -> bool:
    """Whether a run has its results."""
    return (run.folder / _RESULTS).is_file()


def check_folder(run: Run) -> None:
    """Raises ConfigError when the folder of ``run`` holds a run with other settings."""
    recipe = run.folder / _RECIPE
    if recipe.is_file():
        if recipe.read_text(encoding="utf-8") != run.recipe:
            raise ConfigError(f"'{run.folder}' holds a run with other settings; move it away, or choose another --out")
    elif is_done(run):
        raise ConfigError(f"'{run.folder}' holds a run that is not of this grid; choose another --out")


class _Processes:
    """The running children, which end with their parent."""

    def __init__(self, threads: int) -> None:
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.running: set[subprocess.Popen[bytes]] = set()
        self.lock = threading.Lock()
        self.stopped = False

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.stopped = True
            for process in self.running:
                process.terminate()

    def train(self, run: Run) -> str | None:
        """Trains one run; returns why it failed, or None."""
        run.folder.mkdir(parents=True, exist_ok=True)
        recipe = run.folder / _RECIPE
        write_whole(recipe, lambda draft: draft.write_text(run.recipe, encoding="utf-8"))
        command = [sys.executable, "-m", "t2ireid_plugin", "train", "--config-file", str(recipe), "--resume"]
        with (run.folder / _CONSOLE).open("wb") as console:
            with self.lock:
                if self.stopped:
                    return "stopped"
                process = subprocess.Popen(
                    command, env=self.environment, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT
                )
                self.running.add(process)
            status = process.wait()
            with self.lock:
                self.running.discard(process)
        if status == 0 and is_done(run):
            return None
        return f"status {status}, {_last_words(run.folder / _CONSOLE)}"


def _last_words(console: Path) -> str:
    lines = console.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "without a word"
