"""The figures of a grid: means over seeds, and differences from the baseline with intervals."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from t2ireid_plugin.ablation.grid import Grid, Run, configuration
from t2ireid_plugin.ablation.runs import RESULTS, is_done, read_json
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation.bootstrap import Difference, difference_over_seeds
from t2ireid_plugin.evaluation.protocols import OFFICIAL
from t2ireid_plugin.evaluation.query_records import QueryRecord, load_records, records_path

METRICS = ("R@1", "mAP")


class Spread(NamedTuple):
    """One metric of one row."""

    mean: float
    sd: float | None  # over the seeds; None for one seed
    values: list[float]  # of each seed


class Summary(NamedTuple):
    """One row of the table."""

    row: str
    seeds: list[int]
    metrics: dict[str, Spread]  # by name, of METRICS
    differences: dict[str, Difference] | None  # from the baseline; None for the baseline and where no seed is shared
    seconds: float  # of a run, the median
    parameters: dict[str, int]  # all, trained


def summarize(grid: Grid, runs: Sequence[Run], target: str | None = None) -> list[Summary]:
    """The rows of which at least one run is done; text to image on ``target``, else on the only target.

    Raises:
        DataError: when there is no such target, or the runs are not of the same queries.
    """
    done = [run for run in runs if is_done(run)]
    baseline = {run.seed: _record(run, target) for run in done if run.row == grid.baseline}
    return [
        _summarize_row(grid, row, [run for run in done if run.row == row], baseline, target)
        for row in grid.rows
        if any(run.row == row for run in done)
    ]


def _summarize_row(
    grid: Grid, row: str, runs: Sequence[Run], baseline: dict[int, QueryRecord], target: str | None
) -> Summary:
    results = [_results(run) for run in runs]
    figures = [result["metrics"][target_of(run, target)][OFFICIAL] for run, result in zip(runs, results, strict=True)]
    shared = [run for run in runs if run.seed in baseline]
    differences = None
    if row != grid.baseline and shared:
        differences = _differences([baseline[run.seed] for run in shared], [_record(run, target) for run in shared])
    return Summary(
        row,
        [run.seed for run in runs],
        {name: spread_of([float(figure[name]) for figure in figures]) for name in METRICS},
        differences,
        statistics.median(result["seconds"] for result in results),
        results[0]["parameters"],
    )


def spread_of(values: list[float]) -> Spread:
    """Mean and standard deviation of one value a seed."""
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, values)


def _differences(a: Sequence[QueryRecord], b: Sequence[QueryRecord]) -> dict[str, Difference]:
    for record in (*a, *b):
        if not np.array_equal(record.key, a[0].key):
            raise DataError("the runs to compare were not tested on the same queries")
    found = difference_over_seeds([r.scores for r in a], [r.scores for r in b], a[0].pid, ranks=(1,))
    return {name: found[name] for name in METRICS}


def _record(run: Run, target: str | None) -> QueryRecord:
    return load_records(records_path(run.folder, target_of(run, target))).protocols[OFFICIAL]


def target_of(run: Run, target: str | None) -> str:
    """``target``, else the only one of the run.

    Raises:
        DataError: when there is no such target, or several to choose from.
    """
    targets = configuration(run).data.targets
    if target is None and len(targets) > 1:
        raise DataError(f"the runs have several targets, {', '.join(targets)}; choose one with --target")
    if target is not None and target not in targets:
        raise DataError(f"--target {target}: the runs' targets are {', '.join(targets)}")
    return str(target or targets[0])


def _results(run: Run) -> dict[str, Any]:
    return read_json(run.folder / RESULTS)
