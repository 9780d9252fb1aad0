"""``t2ireid compare``: two runs on the same queries, each metric's difference with its interval."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation.bootstrap import FEW, Difference, format_interval, paired_difference
from t2ireid_plugin.evaluation.query_records import QueryRecord, load_records, records_path
from t2ireid_plugin.utils.atomic_io import atomic_write_text

_Tests = dict[tuple[str, str], QueryRecord]  # by target and protocol


@dataclass(frozen=True)
class ComparedTest:
    """Two runs on one target under one protocol."""

    target: str
    protocol: str
    queries: int  # that have a positive
    identities: int  # of these queries
    metrics: dict[str, Difference]

    @property
    def clear(self) -> list[str]:
        """Metrics whose interval excludes zero; none where there is but one identity, hence no interval."""
        return [name for name, found in self.metrics.items() if found.excludes_zero and self.identities > 1]


@dataclass(frozen=True)
class RunComparison:
    """Two runs on all that both were tested on."""

    run_a: str
    run_b: str
    samples: int
    level: float
    seed: int
    tests: list[ComparedTest]
    only_a: list[str]  # "target, protocol" that the other run was not tested on
    only_b: list[str]

    def as_dict(self) -> dict[str, Any]:
        """What the JSON file holds."""
        return {
            **{name: getattr(self, name) for name in ("run_a", "run_b", "samples", "level", "seed")},
            "only_a": self.only_a,
            "only_b": self.only_b,
            "tests": [
                {
                    "target": item.target,
                    "protocol": item.protocol,
                    "queries": item.queries,
                    "identities": item.identities,
                    "metrics": {
                        name: {**found._asdict(), "difference": found.value, "excludes_zero": name in item.clear}
                        for name, found in item.metrics.items()
                    },
                }
                for item in self.tests
            ],
        }


def compare(
    run_a: str | Path, run_b: str | Path, *, samples: int = 2000, level: float = 0.95, seed: int = 0
) -> RunComparison:
    """Compares two runs' folders by paired bootstrap, see `paired_difference`, on each target and protocol of both.

    Queries are matched by their keys, in whatever order they were tested.

    Raises:
        DataError: when a folder or its files cannot be read, the runs share no test, the queries or their identities
            are not the same, or a number is out of range.
    """
    tests_a, tests_b = _load_run(Path(run_a)), _load_run(Path(run_b))
    shared = [test for test in tests_a if test in tests_b]
    if not shared:
        raise DataError(
            f"the runs were tested on nothing in common: '{run_a}' on {_listed(tests_a)}, "
            f"'{run_b}' on {_listed(tests_b)}"
        )
    tests = []
    for target, protocol in shared:
        a, b = _matched(tests_a[target, protocol], tests_b[target, protocol], f"{target}, {protocol}")
        metrics = paired_difference(a.scores, b.scores, a.pid, samples=samples, level=level, seed=seed)
        tests.append(ComparedTest(target, protocol, len(a.key), len(np.unique(a.pid)), metrics))
    return RunComparison(
        run_a=str(run_a),
        run_b=str(run_b),
        samples=samples,
        level=level,
        seed=seed,
        tests=tests,
        only_a=[", ".join(test) for test in tests_a if test not in tests_b],
        only_b=[", ".join(test) for test in tests_b if test not in tests_a],
    )


def format_comparison(result: RunComparison) -> str:
    """The comparison for people: a table a test, which differences exclude zero, and what the intervals mean."""
    lines = [f"A  {result.run_a}", f"B  {result.run_b}"]
    for item in result.tests:
        lines += ["", *_table(item, f"{100 * result.level:g} %")]
    for run, tests in (("A", result.only_a), ("B", result.only_b)):
        lines += [f"only {run} was tested on {test}" for test in tests]
    return "\n".join(
        [
            *lines,
            "",
            f"Intervals: {result.samples:,} bootstrap samples of the identities, the same for A and B.",
            "Each covers the choice of test people, not that of the training's seed, and its own metric alone.",
            "other sign: share of the samples in which B - A is 0 or has the other sign; not a p-value.",
        ]
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``compare``."""
    parser.add_argument("run_a", metavar="RUN_A", help="a run's folder")
    parser.add_argument("run_b", metavar="RUN_B", help="another, tested on the same queries")
    parser.add_argument("--json", metavar="FILE", help="also write the result there")
    parser.add_argument("--samples", type=int, default=2000, metavar="N", help="bootstrap samples (2000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="draws the samples (0)")


def run(options: argparse.Namespace, command: str) -> int:
    """Compares, prints and, where told to, writes the JSON file; returns 0, whichever run is better.

    Raises:
        DataError: as `compare`, and when the file cannot be written.
    """
    result = compare(options.run_a, options.run_b, samples=options.samples, seed=options.seed)
    print(format_comparison(result))
    if options.json:
        text = json.dumps({**result.as_dict(), "command": command}, ensure_ascii=False, indent=2) + "\n"
        atomic_write_text(Path(options.json), text)
    return 0


def _load_run(folder: Path) -> _Tests:
    if not folder.is_dir():
        raise DataError(f"there is no folder '{folder}'")
    tests: _Tests = {}
    for path in sorted(folder.glob(records_path("", "*").name)):
        target, protocols = load_records(path)
        if path.name != records_path("", target).name:
            raise DataError(f"'{path}' holds the queries of {target}, so somebody has renamed it")
        tests.update({(target, protocol): record for protocol, record in protocols.items()})
    if not tests:
        raise DataError(f"'{folder}' has no queries_<target>.npz, which every test of a run writes: test it again")
    return tests


def _matched(a: QueryRecord, b: QueryRecord, test: str) -> tuple[QueryRecord, QueryRecord]:
    """Both with their queries in one order.

    Raises:
        DataError: when they are of different queries or identities.
    """
    # Pids as well, should queries of two people ever share a key. Among those of one person the order is of no account:
    # they are resampled together.
    a, b = (record.taken(np.lexsort((record.pid, record.key))) for record in (a, b))
    if not np.array_equal(a.key, b.key):
        keys_a, keys_b = Counter(a.key.tolist()), Counter(b.key.tolist())
        raise DataError(
            f"{test}: not the same queries, {(keys_a - keys_b).total():,} are only in A, "
            f"{(keys_b - keys_a).total():,} only in B, {(keys_a & keys_b).total():,} in both"
        )
    if differ := np.count_nonzero(a.pid != b.pid):
        raise DataError(f"{test}: {differ:,} of {len(a.pid):,} queries have another identity in B than in A")
    return a, b


def _table(item: ComparedTest, level: str) -> list[str]:
    rows = [("", "A", "B", f"B - A [{level} interval]", "other sign", "")]
    for name, found in item.metrics.items():
        difference = format_interval(found.value, found.low, found.high, signed=True)
        clear = "excludes 0" if name in item.clear else ""
        shares = (f"{100 * found.a:.2f}", f"{100 * found.b:.2f}")
        rows.append((name, *shares, difference, f"{100 * found.opposite:.1f} %", clear))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [f"{item.target}, {item.protocol}: {item.queries:,} queries of {item.identities:,} identities"]
    for name, *cells, clear in rows:
        aligned = [name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:])), clear]
        lines.append("   ".join(aligned).rstrip())
    lines.append(f"The {level} interval of B - A excludes 0 for: {', '.join(item.clear) or 'none'}")
    if item.identities == 1:
        lines.append("There is but one identity, so nothing can be said about other people.")
    elif item.identities < FEW:
        lines.append(f"With fewer than {FEW} identities the intervals are too narrow.")
    return lines


def _listed(tests: _Tests) -> str:
    return " and ".join(", ".join(test) for test in tests)
