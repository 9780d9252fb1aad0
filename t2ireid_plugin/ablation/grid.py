"""What is compared: rows of settings over one configuration, each trained with several seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yacs.config import CfgNode

from t2ireid_plugin.config import dump, load_cfg, merge
from t2ireid_plugin.errors import ConfigError, short_repr
from t2ireid_plugin.utils.safe_io import MAX_CONFIG_BYTES, parse_yaml, read_bytes

_NAME = re.compile(r"[a-zA-Z0-9][\w.+-]*")


class Grid(NamedTuple):
    """The rows of a table, by name in its order, and the row that the others are compared with."""

    rows: dict[str, dict[str, Any]]  # nested settings over the configuration
    baseline: str


class Run(NamedTuple):
    """One training: a row with one seed."""

    row: str
    seed: int
    folder: Path
    recipe: str  # the whole configuration, as YAML

    @property
    def name(self) -> str:
        """As shown to the user."""
        return f"{self.row}, seed {self.seed}"


def read_grid(file: str | Path) -> Grid:
    """Reads a grid: ``rows`` maps names to settings, ``baseline`` names one of them (else the first).

    Raises:
        ConfigError: naming the file and what is wrong in it.
    """
    try:
        content = parse_yaml(read_bytes(file, MAX_CONFIG_BYTES))
    except OSError as error:
        raise ConfigError(f"no grid '{file}' ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"'{file}' is not valid YAML: {error}") from error
    rows = content.get("rows") if isinstance(content, Mapping) else None
    if not isinstance(rows, Mapping) or not rows:
        raise ConfigError(f"'{file}' must have rows, such as 'rows: {{plain: {{}}, slow: {{train: {{lr: 0.0001}}}}}}'")
    unknown = sorted(set(content) - {"rows", "baseline"})
    if unknown:
        raise ConfigError(f"'{file}': unknown {', '.join(unknown)}; valid: rows, baseline")
    for name, settings in rows.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(
                f"'{file}': the row {short_repr(name)} becomes a folder's name; use letters, digits and . _ + -"
            )
        if not isinstance(settings, Mapping | None):
            raise ConfigError(f"'{file}': the row '{name}' must be a table of settings, not {short_repr(settings)}")
    baseline = content.get("baseline", next(iter(rows)))
    if baseline not in rows:
        raise ConfigError(f"'{file}': baseline '{baseline}' is no row; rows: {', '.join(rows)}")
    return Grid({name: dict(settings or {}) for name, settings in rows.items()}, baseline)


def only(grid: Grid, names: Sequence[str], file: str | Path) -> Grid:
    """The grid of ``file`` with these rows and its baseline, in its own order.

    Raises:
        ConfigError: for a row that it does not have.
    """
    for name in names:
        if name not in grid.rows:
            raise ConfigError(f"--rows: no row '{name}' in '{file}'; rows: {', '.join(grid.rows)}")
    return grid._replace(rows={name: row for name, row in grid.rows.items() if name in (*names, grid.baseline)})


def plan(
    grid: Grid, config_file: str | Path, opts: Sequence[str], seeds: Sequence[int], folder: str | Path
) -> list[Run]:
    """Every run of a grid, one seed of all rows before the next, so that a table of all rows is soon there.

    Where a row has ``loss.terms`` they are all its terms; what it does not say of them is the terms' default, not the
    configuration's.

    Raises:
        ConfigError: for an unknown key or a value of the wrong type, naming the row.
    """
    runs = []
    for seed in seeds:
        for name, settings in grid.rows.items():
            cfg = load_cfg(config_file, opts)
            if _terms(settings) is not None:
                cfg.loss.terms.clear()
            merge(cfg, settings, f"row '{name}'")
            place = Path(folder) / name / f"seed{seed}"
            merge(cfg, {"train": {"seed": seed}, "data": {"save_dir": str(place)}}, f"row '{name}'")
            runs.append(Run(name, seed, place, dump(cfg)))
    return runs


def configuration(run: Run) -> CfgNode:
    """The configuration of a run."""
    cfg = load_cfg()
    merge(cfg, yaml.safe_load(run.recipe), run.name)
    return cfg


def _terms(settings: Mapping[str, Any]) -> Any:
    loss = settings.get("loss")
    return loss.get("terms") if isinstance(loss, Mapping) else None
