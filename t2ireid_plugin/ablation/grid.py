"""Grid of an ablation: rows of settings over one configuration, each trained with several seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from yacs.config import CfgNode

from t2ireid_plugin.config import config_path, dump, load_cfg, merge
from t2ireid_plugin.errors import ConfigError, check_choice, check_keys, short_repr
from t2ireid_plugin.evaluation.protocols import PROTOCOLS
from t2ireid_plugin.utils.safe_io import MAX_CONFIG_BYTES, parse_yaml, read_bytes

_FOLDER_NAME = re.compile(r"[a-zA-Z0-9][\w.+-]*")


class Grid(NamedTuple):
    """Rows by name, in the order of the table, and the row that the others are compared with."""

    rows: dict[str, dict[str, Any]]  # nested settings over the configuration
    baseline: str
    protocols: Mapping[str, str] = {}  # protocol whose figures stand for a row, where it is not the official one


class Run(NamedTuple):
    """One training: a row with one seed."""

    row: str
    seed: int
    folder: Path
    cfg: CfgNode

    @property
    def recipe(self) -> str:
        """The whole configuration as YAML."""
        return dump(self.cfg)


def read_grid(file: str | Path, rows: Sequence[str] | None = None) -> Grid:
    """Reads a grid: ``rows`` maps names to settings, ``baseline`` names one of them (by default the first).

    ``protocols`` may map rows to the protocol whose figures stand for them in the table, by default `OFFICIAL`.

    Args:
        file: the YAML file, or the name of one of the package's, see `config_path`.
        rows: only these of its rows, and the baseline; by default all.

    Raises:
        ConfigError: naming the file and its error, or an unknown row.
    """
    file = config_path(file)
    try:
        content = parse_yaml(read_bytes(file, MAX_CONFIG_BYTES))
    except OSError as error:
        raise ConfigError(f"no grid '{file}' ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"'{file}' is not valid YAML: {error}") from error
    settings = content.get("rows") if isinstance(content, Mapping) else None
    if not isinstance(settings, Mapping) or not settings:
        raise ConfigError(f"'{file}' must have rows, such as 'rows: {{plain: {{}}, slow: {{train: {{lr: 0.0001}}}}}}'")
    check_keys(f"'{file}'", content, ("rows", "baseline", "protocols"))
    for name, row in settings.items():
        if not isinstance(name, str) or not _FOLDER_NAME.fullmatch(name):
            raise ConfigError(
                f"'{file}': the row {short_repr(name)} becomes a folder's name; use letters, digits and . _ + -"
            )
        if not isinstance(row, Mapping | None):
            raise ConfigError(f"'{file}': the row '{name}' must be a table of settings, not {short_repr(row)}")
    baseline = content.get("baseline", next(iter(settings)))
    check_choice(f"'{file}': baseline", baseline, settings)
    protocols = content.get("protocols") or {}
    for name, protocol in protocols.items():
        check_choice(f"'{file}': protocols", name, settings)
        check_choice(f"'{file}': protocols: {name}", protocol, PROTOCOLS)
    for name in rows or ():
        check_choice(f"--rows: '{file}'", name, settings)
    chosen = settings if not rows else (*rows, baseline)
    return Grid({name: dict(row or {}) for name, row in settings.items() if name in chosen}, baseline, protocols)


def plan(
    grid: Grid, config_file: str | Path, opts: Sequence[str], seeds: Sequence[int], folder: str | Path
) -> list[Run]:
    """All runs of a grid, one seed of all rows before the next, so that a table of all rows is available early.

    The ``loss.terms`` of a row replace those of the configuration; arguments that they omit have the terms' defaults.

    Raises:
        ConfigError: for an unknown key or a value of the wrong type, naming the row.
    """
    runs = []
    for seed in seeds:
        for name, settings in grid.rows.items():
            cfg = load_cfg(config_file, opts)
            if "terms" in (settings.get("loss") or {}):
                cfg.loss.terms.clear()
            save_dir = Path(folder) / name / f"seed{seed}"
            for updates in (settings, {"train": {"seed": seed}, "data": {"save_dir": str(save_dir)}}):
                merge(cfg, updates, f"row '{name}'")
            runs.append(Run(name, seed, save_dir, cfg))
    return runs


def target_of(run: Run, target: str | None) -> str:
    """Returns ``target``, by default the only one of the run.

    Raises:
        ConfigError: for an unknown target, and when none was chosen among several.
    """
    targets = run.cfg.data.targets
    if target is None and len(targets) > 1:
        raise ConfigError(f"the runs have several targets, {', '.join(targets)}; choose one with --target")
    check_choice("--target", target or targets[0], targets)
    return str(target or targets[0])
