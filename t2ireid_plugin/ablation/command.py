"""``t2ireid ablate``: trains a grid of recipes over seeds and compares them."""

from __future__ import annotations

import argparse

from t2ireid_plugin.ablation.figures import probe_figures, protocol_figures
from t2ireid_plugin.ablation.grid import configuration, only, plan, read_grid
from t2ireid_plugin.ablation.report import write_report
from t2ireid_plugin.ablation.runs import train_all
from t2ireid_plugin.ablation.summary import summarize
from t2ireid_plugin.config import require_texts
from t2ireid_plugin.engine.build import check_files
from t2ireid_plugin.engine.checks import check_config
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.prepare.check.workers import available_cores
from t2ireid_plugin.utils.logging import git_revision, versions
from t2ireid_plugin.utils.signals import stop_on_signal


def run(options: argparse.Namespace, command: str) -> None:
    """Trains what is not trained yet, then prints and writes the table, also of what there is when it is stopped.

    Raises:
        Stopped: on SIGTERM or SIGINT; the runs in work have saved themselves and go on next time.
        T2IReIDError: for all that a user can mend, before anything is trained; and when runs failed, at the end.
    """
    grid = read_grid(options.grid)
    if options.rows:
        grid = only(grid, options.rows, options.grid)
    for name, value in (("--threads", options.threads), ("--jobs", options.jobs)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}: {value} must be at least 1")
    seeds = list(dict.fromkeys(options.seeds))
    runs = plan(grid, options.config_file, options.opts, seeds, options.out)
    for first in runs[: len(grid.rows)]:  # one of each row: they differ in the seed alone
        cfg = configuration(first)
        try:
            require_texts(cfg, "t2ireid ablate")
            check_config(cfg)
        except ConfigError as error:
            raise ConfigError(f"row '{first.row}': {error}") from error
        check_files(cfg)
    jobs = options.jobs or max(1, available_cores() // options.threads)
    try:
        with stop_on_signal():
            train_all(runs, jobs, options.threads, options.probe)
    finally:
        rows = summarize(grid, runs, options.target)
        if rows:
            about = {"command": command, "baseline": grid.baseline, "versions": versions(), "revision": git_revision()}
            others = {
                "protocols": protocol_figures(grid, runs, options.target),
                "probes": probe_figures(grid, runs, options.target),
            }
            text = write_report(rows, others, options.out, about)
            print(f"{text}\n\nRuns, table and plot are in '{options.out}'")
