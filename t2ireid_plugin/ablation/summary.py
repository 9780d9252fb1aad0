"""Figures of a grid: means over seeds, differences from the baseline with intervals, other protocols and probes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from t2ireid_plugin.ablation.grid import Grid, Run
from t2ireid_plugin.ablation.runs import is_done, read_json
from t2ireid_plugin.engine.training_state import RESULTS
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation.bootstrap import paired_difference
from t2ireid_plugin.evaluation.protocols import OFFICIAL
from t2ireid_plugin.evaluation.query_records import load_records, records_path
from t2ireid_plugin.evaluation.result import RetrievalResult
from t2ireid_plugin.probing.run import probes_path

Row = dict[str, Any]  # of a table, as in ``ablation.json``

METRICS = ("R@1", "mAP")
# The two branches of the image, and the attributes that probes predict from them.
FEATURES = ("id_embeds", "cloth_embeds")
SIDES = ("identity", "clothing")


def summarize(grid: Grid, runs: Sequence[Run], target: str) -> list[Row]:
    """Rows with at least one finished run, for text to image on ``target``.

    Returns:
        Rows of ``row``, ``protocol``, ``seeds``, ``metrics`` (the `_spread` of each of METRICS), ``differences`` from
        the baseline (`Difference` as a dictionary of each of METRICS; None for the baseline and without a common seed),
        ``seconds`` per run (the median) and the number of ``parameters`` (all, trained).

    Raises:
        DataError: when the runs were tested on different queries.
    """
    done = [run for run in runs if is_done(run)]
    own_protocol = {row: grid.protocols.get(row, OFFICIAL) for row in grid.rows}
    first = own_protocol[grid.baseline]
    baseline = {run.seed: _record(run, target, first) for run in done if run.row == grid.baseline}
    rows = []
    for row in grid.rows:
        own = [run for run in done if run.row == row]
        if not own:
            continue
        results = [read_json(run.folder / RESULTS) for run in own]
        protocol = own_protocol[row]
        metrics = [result["metrics"][target][protocol] for result in results]
        shared = [run for run in own if run.seed in baseline and row != grid.baseline]
        pairs = [(baseline[run.seed], _record(run, target, protocol)) for run in shared]
        rows.append(
            {
                "row": row,
                "protocol": protocol,
                "seeds": [run.seed for run in own],
                "metrics": {name: _spread([float(values[name]) for values in metrics]) for name in METRICS},
                "differences": _differences(*zip(*pairs)) if pairs else None,
                "seconds": statistics.median(result["seconds"] for result in results),
                "parameters": results[0]["parameters"],
            }
        )
    return rows


def protocol_figures(grid: Grid, runs: Sequence[Run], target: str) -> list[Row]:
    """R@1 of every protocol, for the rows that have others than the official one."""

    def figures(run: Run) -> dict[str, float]:
        protocols = read_json(run.folder / RESULTS)["metrics"][target] if is_done(run) else {}
        return {f"{name} R@1": metrics["R@1"] for name, metrics in protocols.items()} if len(protocols) > 1 else {}

    return _rows(grid, runs, figures)


def probe_figures(grid: Grid, runs: Sequence[Run], target: str) -> list[Row]:
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


def _rows(grid: Grid, runs: Sequence[Run], figures: Callable[[Run], dict[str, float]]) -> list[Row]:
    """Rows of ``row``, ``seeds`` and the `_spread` of each figure, for the rows that have any."""
    rows = []
    for row in grid.rows:
        by_seed = {run.seed: values for run in runs if run.row == row and (values := figures(run))}
        if by_seed:
            names = next(iter(by_seed.values()))
            spreads = {name: _spread([values[name] for values in by_seed.values()]) for name in names}
            rows.append({"row": row, "seeds": list(by_seed), **spreads})
    return rows


def _spread(values: list[float]) -> dict[str, Any]:
    """Mean and standard deviation of one value per seed; one seed has none."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": sd, "values": values}


def _differences(a: Sequence[RetrievalResult], b: Sequence[RetrievalResult]) -> dict[str, dict[str, float]]:
    if not all(np.array_equal(record.keys, a[0].keys) for record in (*a, *b)):
        raise DataError("the runs were tested on different queries and cannot be compared; use another --out")
    differences = paired_difference(a, b, ranks=(1,))
    return {name: differences[name]._asdict() for name in METRICS}


def _record(run: Run, target: str, protocol: str) -> RetrievalResult:
    return load_records(records_path(run.folder, target))[protocol]
