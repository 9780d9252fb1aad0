"""What else is known of a grid's rows: other protocols, what probes read, who is found in other clothes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from t2ireid_plugin.ablation.grid import Grid, Run
from t2ireid_plugin.ablation.runs import RESULTS, read_json
from t2ireid_plugin.ablation.summary import Spread, spread_of, target_of
from t2ireid_plugin.evaluation.protocols import OFFICIAL
from t2ireid_plugin.probing.run import probes_path

# Both branches of the image, and what is read off them.
FEATURES = ("id_embeds", "cloth_embeds")
SIDES = ("identity", "clothing")


class RowFigures(NamedTuple):
    """One row of a table."""

    row: str
    seeds: list[int]
    figures: dict[str, Spread]  # by name, shares of 1


def protocol_figures(grid: Grid, runs: Sequence[Run], target: str | None = None) -> list[RowFigures]:
    """R@1 of every protocol but the official one, of the rows that have others, on ``target``, else the only target."""

    def measured(run: Run) -> dict[str, float]:
        file = run.folder / RESULTS
        found = read_json(file)["metrics"][target_of(run, target)] if file.is_file() else {}
        return {f"{name} R@1": metrics["R@1"] for name, metrics in found.items() if name != OFFICIAL}

    return _rows(grid, runs, measured)


def probe_figures(grid: Grid, runs: Sequence[Run], target: str | None = None) -> list[RowFigures]:
    """What was probed, and R@1 and mAP of each search across outfits, of the rows of which at least one run was probed.

    A probe's figure is the mean over attributes of ``(accuracy - chance) / (1 - chance)``, see `evaluation.probes`.
    """

    def measured(run: Run) -> dict[str, float]:
        file = probes_path(run.folder, target_of(run, target))
        if not file.is_file():
            return {}
        probes = read_json(file)
        means = probes["probes"]["means"]
        told = {f"{side} from {name}": means[name][side]["above_chance"] for side in SIDES for name in FEATURES}
        found = probes.get("outfits", {}).items()
        return {**told, **{f"{name} {what}": metrics[what] for name, metrics in found for what in ("R@1", "mAP")}}

    return _rows(grid, runs, measured)


def _rows(grid: Grid, runs: Sequence[Run], measured: Callable[[Run], dict[str, float]]) -> list[RowFigures]:
    rows = []
    for row in grid.rows:
        found = [(run.seed, figures) for run in runs if run.row == row and (figures := measured(run))]
        if found:
            names = found[0][1]
            spreads = {name: spread_of([figures[name] for _, figures in found]) for name in names}
            rows.append(RowFigures(row, [seed for seed, _ in found], spreads))
    return rows
