"""``t2ireid transfer``: trains on each of several datasets, tests on all of them, and writes the matrix."""

from __future__ import annotations

import argparse
import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2ireid_plugin.ablation.command import check_processes, check_training
from t2ireid_plugin.ablation.grid import Grid, Run, plan
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.utils.atomic_io import atomic_write, atomic_write_text, explain_write_errors
from t2ireid_plugin.utils.file_lock import lock_folder
from t2ireid_plugin.utils.text import markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = ("R@1", "mAP")
CHOSEN_ON_TEST = "The epochs were chosen on these test sets, so figures on other people will be lower."
Matrix = dict[str, dict[str, Any]]  # source to target to metrics; only the sources whose training has ended


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defines the options."""
    parser.add_argument("--config-file", metavar="FILE", required=True, help="configuration of every training")
    parser.add_argument("--sets", metavar="A,B,…", required=True, help="datasets to train on and to test on")
    parser.add_argument("--out", metavar="DIR", required=True, type=Path, help="folder for the runs and the table")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="train.seed (1)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads per run (1)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="parallel runs (1)")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="settings of every training")


def run(options: argparse.Namespace, command: str) -> None:
    """Trains on each set that has no results yet, then prints and writes the matrix of the finished ones.

    Raises:
        Stopped: on a signal to end; the running trainings save themselves and resume next time.
        T2IReIDError: for errors that the user can fix, before any training; and at the end when runs failed.
    """
    check_processes(options)
    sets = list(dict.fromkeys(name for name in options.sets.split(",") if name))
    if len(sets) < 2:
        raise ConfigError(f"--sets: '{options.sets}' must name at least two datasets, as cuhkpedes,icfgpedes,rstpreid")
    grid = Grid({name: {"data": {"sources": [name], "targets": sets}} for name in sets}, sets[0])
    runs = plan(grid, options.config_file, options.opts, [options.seed], options.out)
    for first in runs:
        check_training(first.cfg, "t2ireid transfer")
    from t2ireid_plugin.ablation.runs import train_all
    from t2ireid_plugin.engine.training_state import make_folder

    make_folder(options.out, "--out")
    with explain_write_errors(options.out, ConfigError, "start again"), lock_folder(options.out, "--out"):
        try:
            train_all(runs, options.jobs, options.threads)
        finally:
            _report(runs, sets, options.out, command)


def read_matrix(runs: Sequence[Run]) -> Matrix:
    """Text-to-image metrics of the runs with results."""
    from t2ireid_plugin.ablation.runs import is_done, read_json
    from t2ireid_plugin.engine.training_state import RESULTS
    from t2ireid_plugin.evaluation.protocols import OFFICIAL

    results = {run.row: read_json(run.folder / RESULTS)["metrics"] for run in runs if is_done(run)}
    return {source: {target: own[OFFICIAL] for target, own in each.items()} for source, each in results.items()}


def format_matrix(matrix: Matrix, sets: Sequence[str]) -> str:
    """R@1 / mAP in percent as Markdown: a row per training set, a column per test set; – without results."""
    header = ["trained on", *(f"{target} R@1 / mAP" for target in sets)]
    rows = [[source, *(_cell(matrix.get(source, {}).get(target)) for target in sets)] for source in sets]
    return "\n\n".join([markdown_table(header, rows), *_notes(matrix)])


def _value(matrix: Matrix, source: str, target: str, metric: str) -> float:
    return float(matrix[source][target][metric]) if source in matrix else math.nan


def _cell(metrics: Mapping[str, float] | None) -> str:
    return " / ".join(f"{100 * metrics[name]:.2f}" for name in METRICS) if metrics else "–"


def _notes(matrix: Matrix) -> list[str]:
    """A sentence if epochs were chosen on test sets."""
    chosen = any("epoch_chosen_on" in metrics for own in matrix.values() for metrics in own.values())
    return [CHOSEN_ON_TEST] if chosen else []


def plot_matrix(matrix: Matrix, sets: Sequence[str]) -> Figure:
    """The matrix of each metric, coloured by its values."""
    from matplotlib.figure import Figure

    size = 1.6 + 0.9 * len(sets)
    figure = Figure(figsize=(2 * size, size), layout="constrained")
    if notes := _notes(matrix):
        figure.suptitle(notes[0], fontsize=8)
    for panel, metric in zip(figure.subplots(1, 2), METRICS):
        values = [[100 * _value(matrix, source, target, metric) for target in sets] for source in sets]
        panel.imshow(values, cmap="Blues", vmin=0, vmax=100)
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                text = "–" if math.isnan(value) else f"{value:.1f}"
                panel.text(j, i, text, ha="center", va="center", color="white" if value > 60 else "black")
        panel.set_xticks(range(len(sets)), sets, rotation=20)
        panel.set_yticks(range(len(sets)), sets)
        panel.set_xlabel("tested on")
        panel.set_ylabel("trained on")
        panel.set_title(f"{metric}, %")
    return figure


def _report(runs: Sequence[Run], sets: Sequence[str], out: Path, command: str) -> None:
    from t2ireid_plugin.engine.training_state import save_json
    from t2ireid_plugin.utils.logging import git_revision, versions

    matrix = read_matrix(runs)
    if not matrix:
        return
    text = format_matrix(matrix, sets)
    atomic_write_text(out / "transfer.md", f"{text}\n")
    atomic_write_text(out / "transfer.csv", _csv(matrix))
    about = {"command": command, "versions": versions(), "revision": git_revision()}
    save_json({**about, "metrics": matrix}, out / "transfer.json")
    figure = plot_matrix(matrix, sets)
    atomic_write(out / "transfer.png", lambda draft: figure.savefig(draft, dpi=120))
    print(f"{text}\n\nRuns, tables and plot are in '{out}'")


def _csv(matrix: Mapping[str, Mapping[str, Any]]) -> str:
    """A line per pair of sets with all shares, as fractions of 1; ``epoch_chosen_on`` only where it is a test set."""
    stream = io.StringIO()
    lines = csv.writer(stream, lineterminator="\n")
    first = next(iter(next(iter(matrix.values())).values()))
    names = [name for name in first if name.startswith(("R@", "m"))]
    lines.writerow(["trained_on", "tested_on", *names, "queries", "gallery", "epoch_chosen_on"])
    for source, own in matrix.items():
        for target, metrics in own.items():
            shares = [metrics[name] for name in [*names, "queries", "gallery"]]
            lines.writerow([source, target, *shares, metrics.get("epoch_chosen_on", "")])
    return stream.getvalue()
