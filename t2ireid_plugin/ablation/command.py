"""``t2ireid ablate``: trains a grid of recipes over seeds and compares them.

The grid and its configurations are checked before PyTorch is imported.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import joblib
from yacs.config import CfgNode

from t2ireid_plugin.ablation.grid import Grid, Run, plan, read_grid, target_of
from t2ireid_plugin.config import require_texts
from t2ireid_plugin.engine.checks import check_config, check_files, check_recipe
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.utils.atomic_io import explain_write_errors
from t2ireid_plugin.utils.file_lock import lock_folder


def run(options: argparse.Namespace, command: str) -> None:
    """Trains the runs that have no results yet, then prints and writes the table; when interrupted, of those finished.

    Raises:
        Stopped: on a signal to end; the running trainings save themselves and resume next time.
        T2IReIDError: for errors that the user can fix, before any training; and at the end when runs failed.
    """
    check_processes(options)
    grid = read_grid(options.grid, options.rows)
    seeds = list(dict.fromkeys(options.seeds))
    runs = plan(grid, options.config_file, options.opts, seeds, options.out)
    target = target_of(runs[0], options.target)
    for first in runs[: len(grid.rows)]:  # one per row, since they differ in the seed alone
        try:
            target_of(first, target)
            check_training(first.cfg, "t2ireid ablate")
        except ConfigError as error:
            raise ConfigError(f"row '{first.row}': {error}") from error
    from t2ireid_plugin.ablation.runs import train_all
    from t2ireid_plugin.engine.training_state import make_folder

    jobs = options.jobs or max(1, joblib.cpu_count() // options.threads)
    make_folder(options.out, "--out")
    with explain_write_errors(options.out, ConfigError, "start again"), lock_folder(options.out, "--out"):
        try:
            train_all(runs, jobs, options.threads, options.probe)
        finally:
            _report(grid, runs, target, options.out, command)


def check_training(cfg: CfgNode, command: str) -> None:
    """Checks the configuration of a training that ``command`` starts later, which must be one with texts.

    Raises:
        ConfigError: for an image-only one, and as the checks of ``t2ireid train``.
    """
    require_texts(cfg, command)
    check_config(cfg.clone())
    check_files(cfg)
    check_recipe(cfg)


def check_processes(options: argparse.Namespace) -> None:
    """Refuses ``--threads`` and ``--jobs`` below 1.

    Raises:
        ConfigError: naming the option.
    """
    for name, value in (("--threads", options.threads), ("--jobs", options.jobs)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}: {value} must be at least 1")


def _report(grid: Grid, runs: Sequence[Run], target: str, out: Path, command: str) -> None:
    """Writes and prints the tables of the finished runs, if there are any."""
    from t2ireid_plugin.ablation.report import write_report
    from t2ireid_plugin.ablation.summary import probe_figures, protocol_figures, summarize
    from t2ireid_plugin.utils.logging import git_revision, versions

    rows = summarize(grid, runs, target)
    if rows:
        about = {
            "command": command,
            "baseline": grid.baseline,
            "chosen_on_test": list(dict.fromkeys(run.row for run in runs if run.cfg.test.choose_on == "test")),
            "versions": versions(),
            "revision": git_revision(),
        }
        protocols, probes = protocol_figures(grid, runs, target), probe_figures(grid, runs, target)
        text = write_report(rows, {"protocols": protocols, "probes": probes}, out, about)
        print(f"{text}\n\nRuns, table and plot are in '{out}'")
