"""Trains the runs of a grid in parallel, each in its own process, and skips those that have results.

After its training a run can be probed, by ``t2ireid probe`` in another process.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from t2ireid_plugin.ablation.grid import Run
from t2ireid_plugin.engine.training_state import RESULTS
from t2ireid_plugin.errors import ConfigError, DataError, T2IReIDError
from t2ireid_plugin.probing.run import probes_path
from t2ireid_plugin.utils.atomic_io import atomic_write_text
from t2ireid_plugin.utils.progress import show_progress

_RECIPE = "recipe.yaml"


def train_all(runs: Sequence[Run], jobs: int = 1, threads: int = 1, probe: Sequence[str] | None = None) -> None:
    """Trains the runs without results, ``jobs`` in parallel with ``threads`` each; interrupted runs resume.

    A failed run does not stop the others. With ``probe``, a list of settings such as ``data.root DIR``, each run is
    probed as well.

    Raises:
        ConfigError: when a run's folder contains a run with other settings.
        T2IReIDError: when runs failed; the message has the last line of each one's output.
        KeyboardInterrupt: after the running trainings have saved themselves and ended.
    """
    for run in runs:
        recipe = run.folder / _RECIPE
        recorded = recipe.read_text(encoding="utf-8") if recipe.is_file() else None
        if recorded != run.recipe and (recorded is not None or is_done(run)):
            raise ConfigError(f"'{run.folder}' contains a run with other settings; choose another --out")
    due = [run for run in runs if not is_done(run) or (probe is not None and not is_probed(run, probe))]
    if len(due) < len(runs):
        print(f"{len(runs) - len(due)} of {len(runs)} runs are done already", file=sys.stderr)
    failures: list[str] = []
    # The processes end before the pool, whose threads wait for them, so that an interrupted grid stops training.
    with ThreadPoolExecutor(jobs) as pool, contextlib.closing(_Processes(threads)) as processes:
        futures = {pool.submit(processes.train_and_probe, run, probe): run for run in due}
        for future in show_progress(as_completed(futures), len(due), "training", "run"):
            if (failure := future.result()) is not None:
                failures.append(f"{futures[future].row}, seed {futures[future].seed}: {failure}")
    if failures:
        raise T2IReIDError(f"{len(failures)} of {len(due)} runs failed\n" + "\n".join(failures))


def is_done(run: Run) -> bool:
    """True if a run has its results."""
    return (run.folder / RESULTS).is_file()


def is_probed(run: Run, probe: Sequence[str]) -> bool:
    """True if a run was probed on each of its targets, with these settings and since its training."""
    files = [probes_path(run.folder, target) for target in run.cfg.data.targets]
    if not all(file.is_file() for file in files):
        return False
    weights = read_json(run.folder / RESULTS).get("weights")  # not in older files
    probes = map(read_json, files)
    words = list(probe)  # the end of "t2ireid probe --config-file FILE …"
    return all(each["weights"] == weights and shlex.split(each["command"])[4:] == words for each in probes)


def read_json(file: Path) -> dict[str, Any]:
    """Content of a JSON file that a run has written.

    Raises:
        DataError: when it is damaged.
    """
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise DataError(f"'{file}' is damaged: {error}; remove it to repeat the run") from error


class _Processes:
    """The running child processes, which end with their parent."""

    def __init__(self, threads: int) -> None:
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "T2IREID_END_WITH_PARENT": "1"}
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped = False

    def close(self) -> None:
        """Asks the running processes to save themselves and end, and starts no others."""
        self.stopped = True
        for process in list(self.running):
            process.terminate()

    def train_and_probe(self, run: Run, probe: Sequence[str] | None) -> str | None:
        """Trains and probes one run; returns the reason of a failure, or None."""
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

    def _run(self, arguments: Sequence[str], console: Path) -> str | None:
        """Runs ``t2ireid`` with its output in ``console``; returns the reason of a failure, or None."""
        with (
            console.open("wb") as stream,
            subprocess.Popen(
                [sys.executable, "-m", "t2ireid_plugin", *arguments],
                env=self.environment,
                stdin=subprocess.PIPE,  # closes with this process
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C must not reach it: our SIGTERM as a second signal would kill it
            ) as process,
        ):
            self.running.add(process)
            if self.stopped:  # since the check at the start of the run
                process.terminate()
            status = process.wait()
            self.running.discard(process)
        if status == 0:
            return None
        lines = console.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"status {status}, {lines[-1] if lines else 'no output'}"
