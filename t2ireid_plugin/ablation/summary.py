"""Figures of a grid: means over seeds, differences from the baseline with intervals, other protocols and probes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from t2ireid_plugin.ablation.grid import Grid, Run
from t2ireid_plugin.ablation.runs import RESULTS, is_done, read_json
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation.bootstrap import Difference, paired_difference
from t2ireid_plugin.evaluation.protocols import OFFICIAL
from t2ireid_plugin.evaluation.query_records import load_records, records_path
from t2ireid_plugin.evaluation.result import RetrievalResult
from t2ireid_plugin.probing.run import probes_path

METRICS = ("R@1", "mAP")
# The two branches of the image, and the attributes that probes predict from them.
FEATURES = ("id_embeds", "cloth_embeds")
SIDES = ("identity", "clothing")


class Spread(NamedTuple):
    """One figure of one row over the seeds."""

    mean: float
    sd: float | None  # None for one seed
    values: list[float]  # one per seed


class Summary(NamedTuple):
    """One row of the main table."""

    row: str
    seeds: list[int]
    metrics: dict[str, Spread]  # by name, of METRICS
    differences: dict[str, Difference] | None  # from the baseline; None for the baseline and without a common seed
    seconds: float  # per run, the median
    parameters: dict[str, int]  # all, trained


class RowFigures(NamedTuple):
    """One row of a further table."""

    row: str
    seeds: list[int]
    figures: dict[str, Spread]  # by name, shares of 1


def summarize(grid: Grid, runs: Sequence[Run], target: str) -> list[Summary]:
    """Rows with at least one finished run, for text to image on ``target``.

    Raises:
        DataError: when the runs were tested on different queries.
    """
    done = [run for run in runs if is_done(run)]
    baseline = {run.seed: _record(run, target) for run in done if run.row == grid.baseline}
    summaries = []
    for row in grid.rows:
        own = [run for run in done if run.row == row]
        if not own:
            continue
        results = [read_json(run.folder / RESULTS) for run in own]
        metrics = [result["metrics"][target][OFFICIAL] for result in results]
        spreads = {name: spread_of([float(values[name]) for values in metrics]) for name in METRICS}
        shared = [run for run in own if run.seed in baseline] if row != grid.baseline else []
        differences = None
        if shared:
            differences = _differences([baseline[run.seed] for run in shared], [_record(run, target) for run in shared])
        seconds = statistics.median(result["seconds"] for result in results)
        seeds = [run.seed for run in own]
        summaries.append(Summary(row, seeds, spreads, differences, seconds, results[0]["parameters"]))
    return summaries


def protocol_figures(grid: Grid, runs: Sequence[Run], target: str) -> list[RowFigures]:
    """R@1 of every protocol but the official one, for the rows that have others."""

    def figures(run: Run) -> dict[str, float]:
        file = run.folder / RESULTS
        protocols = read_json(file)["metrics"][target] if file.is_file() else {}
        return {f"{name} R@1": metrics["R@1"] for name, metrics in protocols.items() if name != OFFICIAL}

    return _rows(grid, runs, figures)


def probe_figures(grid: Grid, runs: Sequence[Run], target: str) -> list[RowFigures]:
    """Results of probes, and R@1 and mAP of each search across outfits, for the rows with at least one probed run.

    A probe's figure is the mean over attributes of ``(accuracy - chance) / (1 - chance)``, see `probing.probes`.
    """

    def figures(run: Run) -> dict[str, float]:
        file = probes_path(run.folder, target)
        if not file.is_file():
            return {}
        content = read_json(file)
        means = content["probes"]["means"]
        above = {f"{side} from {name}": means[name][side]["above_chance"] for side in SIDES for name in FEATURES}
        searches = content.get("outfits", {})
        return above | {f"{name} {metric}": searches[name][metric] for name in searches for metric in METRICS}

    return _rows(grid, runs, figures)


def _rows(grid: Grid, runs: Sequence[Run], figures: Callable[[Run], dict[str, float]]) -> list[RowFigures]:
    rows = []
    for row in grid.rows:
        by_seed = {run.seed: values for run in runs if run.row == row and (values := figures(run))}
        if by_seed:
            names = next(iter(by_seed.values()))
            spreads = {name: spread_of([values[name] for values in by_seed.values()]) for name in names}
            rows.append(RowFigures(row, list(by_seed), spreads))
    return rows


def spread_of(values: list[float]) -> Spread:
    """Mean and standard deviation of one value per seed."""
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, values)


def _differences(a: Sequence[RetrievalResult], b: Sequence[RetrievalResult]) -> dict[str, Difference]:
    if not all(np.array_equal(record.keys, a[0].keys) for record in (*a, *b)):
        raise DataError("the runs were tested on different queries and cannot be compared; use another --out")
    differences = paired_difference(a, b, ranks=(1,))
    return {name: differences[name] for name in METRICS}


def _record(run: Run, target: str) -> RetrievalResult:
    return load_records(records_path(run.folder, target))[OFFICIAL]
