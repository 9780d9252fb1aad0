"""Trains the runs of a grid, several at once, each in a process of its own; what is done is not done again.

A run can be probed after its training, by ``t2ireid probe``, in a process of its own too.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from t2ireid_plugin.ablation.grid import Run, configuration
from t2ireid_plugin.errors import ConfigError, DataError, T2IReIDError
from t2ireid_plugin.probing.run import probes_path
from t2ireid_plugin.utils.atomic_io import atomic_write_text
from t2ireid_plugin.utils.progress import show_progress

RESULTS = "results.json"
_RECIPE = "recipe.yaml"


def train_all(runs: Sequence[Run], jobs: int = 1, threads: int = 1, probe: Sequence[str] | None = None) -> None:
    """Trains what has no results yet, ``jobs`` at once with ``threads`` each; an interrupted run goes on.

    Every run is tried, also after one has failed. With ``probe``, settings of its own such as ``data.root DIR``, each
    run is probed as well.

    Raises:
        ConfigError: when a run's folder holds a run with other settings.
        T2IReIDError: when runs failed; the message has each one's last words.
        KeyboardInterrupt: once the runs in work have saved themselves and ended.
    """
    for run in runs:
        check_folder(run)
    due = [run for run in runs if not is_done(run) or (probe is not None and not is_probed(run, probe))]
    if len(due) < len(runs):
        print(f"{len(runs) - len(due)} of {len(runs)} runs are done already", file=sys.stderr)
    failures: list[str] = []
    # The processes end before the pool, whose threads wait for them: an interrupted grid does not train on.
    with ThreadPoolExecutor(jobs) as pool, _Processes(threads) as processes:
        futures = {pool.submit(processes.work, run, probe): run for run in due}
        for future in show_progress(as_completed(futures), len(due), "training", "run"):
            if (words := future.result()) is not None:
                failures.append(f"{futures[future].name}: {words}")
    if failures:
        raise T2IReIDError(f"{len(failures)} of {len(due)} runs failed\n" + "\n".join(failures))


def is_done(run: Run) -> bool:
    """Whether a run has its results."""
    return (run.folder / RESULTS).is_file()


def is_probed(run: Run, probe: Sequence[str]) -> bool:
    """Whether a run was probed on each of its targets, with these settings and since it was trained."""
    files = [probes_path(run.folder, target) for target in configuration(run).data.targets]
    trained = (run.folder / RESULTS).stat().st_mtime
    return all(
        file.is_file()
        and file.stat().st_mtime >= trained
        and shlex.split(read_json(file)["command"])[4:] == list(probe)  # t2ireid probe --config-file FILE …
        for file in files
    )


def read_json(file: Path) -> dict[str, Any]:
    """What a run has written.

    Raises:
        DataError: when it is damaged.
    """
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise DataError(f"'{file}' is damaged: {error}; remove it, and the run is done again") from error


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

    def work(self, run: Run, probe: Sequence[str] | None) -> str | None:
        """Trains one run, and probes it; returns why it failed, or None."""
        if self.stopped:
            return "stopped"
        failure = None
        recipe = run.folder / _RECIPE
        if not is_done(run):
            run.folder.mkdir(parents=True, exist_ok=True)
            atomic_write_text(recipe, run.recipe)
            failure = self._run(["train", "--config-file", str(recipe), "--resume"], run.folder / "console.txt")
        if failure is None and probe is not None and not is_probed(run, probe):
            failure = self._run(["probe", "--config-file", str(recipe), *probe], run.folder / "console_probe.txt")
        return failure

    def _run(self, words: Sequence[str], console: Path) -> str | None:
        """A command of ours in a process; returns why it failed, or None."""
        with console.open("wb") as stream:
            with self.lock:
                if self.stopped:
                    return "stopped"
                process = subprocess.Popen(
                    [sys.executable, "-m", "t2ireid_plugin", *words],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # else Ctrl-C would be their first signal and ours a second, which kills
                )
                self.running.add(process)
            status = process.wait()
            with self.lock:
                self.running.discard(process)
        return None if status == 0 else f"status {status}, {_last_words(console)}"


def _last_words(console: Path) -> str:
    lines = console.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "without a word"
