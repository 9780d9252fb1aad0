"""``t2ireid compare``: compares two runs query by query, with an interval for each metric's difference."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t2ireid_plugin.errors import DataError, printable
from t2ireid_plugin.evaluation.bootstrap import FEW, LEVEL, format_interval, paired_difference
from t2ireid_plugin.evaluation.query_records import load_ranks, load_records, records_path
from t2ireid_plugin.evaluation.result import CHOSEN_ON_TEST, RetrievalResult
from t2ireid_plugin.utils.atomic_io import atomic_write_text
from t2ireid_plugin.utils.safe_io import MAX_DATA_BYTES, parse_json, read_bytes
from t2ireid_plugin.utils.text import text_table

_Results = dict[tuple[str, str], RetrievalResult]  # by target and protocol


def compare(
    run_a: str | Path,
    run_b: str | Path,
    *,
    protocols: Sequence[str] | None = None,
    samples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compares two runs' folders by paired bootstrap on each target and protocol of both, see `paired_difference`.

    Queries are matched by their keys, regardless of order. The result is the content of the JSON file: the arguments,
    under ``tests`` the `Difference` of each metric, and under ``only_a`` and ``only_b`` the tests of one run alone.

    Args:
        run_a, run_b: the folders; the same one twice to compare two protocols of one run. Either may hold the ranks of
            another program instead, see `load_ranks`.
        protocols: compares the first in A with the second in B, instead of each protocol with itself.
        samples, seed: see `paired_difference`.

    Raises:
        DataError: when a folder or its files cannot be read, the runs share no test, their queries or identities
            differ, or a number is out of range.
    """
    results_a, results_b = _load_run(Path(run_a)), _load_run(Path(run_b))
    first, second = protocols or ("", "")
    pairs = [((target, name), (target, second or name)) for target, name in results_a if first in ("", name)]
    shared = [(a, b) for a, b in pairs if b in results_b]
    if not shared:
        missing = f"on which A has {first} and B {second}" if protocols else "in common"
        raise DataError(
            f"the runs have no test {missing}: '{run_a}' was tested on {' and '.join(map(', '.join, results_a))}, "
            f"'{run_b}' on {' and '.join(map(', '.join, results_b))}"
        )
    tests = []
    for test_a, test_b in shared:
        target, protocol = test_a[0], " and ".join(dict.fromkeys((test_a[1], test_b[1])))
        a, b = _match(results_a[test_a], results_b[test_b], f"{target}, {protocol}")
        people = len(np.unique(a.pids))
        metrics = {
            # The interval of a single identity has no width, so that it says nothing.
            name: {**row._asdict(), "difference": row.value, "excludes_zero": row.excludes_zero and people > 1}
            for name, row in paired_difference([a], [b], samples=samples, seed=seed).items()
        }
        about = {"target": target, "protocol": protocol, "queries": len(a.pids), "identities": people}
        tests.append({**about, "metrics": metrics})
    return {
        "run_a": str(run_a),
        "run_b": str(run_b),
        "samples": samples,
        "level": LEVEL,
        "seed": seed,
        "tests": tests,
        "chosen_on_test": [name for name, run in (("A", run_a), ("B", run_b)) if _chosen_on_test(Path(run))],
        "only_a": [", ".join(test) for test in results_a if test not in results_b],
        "only_b": [", ".join(test) for test in results_b if test not in results_a],
    }


def format_comparison(result: Mapping[str, Any]) -> str:
    """The comparison as text: a table per test, the differences that exclude zero, and what the intervals cover."""
    lines = [f"A  {result['run_a']}", f"B  {result['run_b']}"]
    for test in result["tests"]:
        lines += ["", *_table(test)]
    lines += [f"{name}: {CHOSEN_ON_TEST}" for name in result["chosen_on_test"]]
    lines += [f"only A was tested on {printable(test)}" for test in result["only_a"]]
    lines += [f"only B was tested on {printable(test)}" for test in result["only_b"]]
    lines += [
        "",
        f"Intervals: {result['samples']:,} bootstrap samples of the identities, the same for A and B.",
        "Each covers the choice of test people, not that of the training seed, and only its own metric.",
        "other sign: share of the samples in which B - A is 0 or has the other sign; not a p-value.",
    ]
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``compare``."""
    parser.add_argument("run_a", metavar="RUN_A", help="a run's folder")
    parser.add_argument("run_b", metavar="RUN_B", help="another, or one with queries_<target>.jsonl")
    parser.add_argument("--protocols", nargs=2, metavar=("A", "B"), help="compare A of RUN_A with B of RUN_B")
    parser.add_argument("--json", metavar="FILE", help="also write the result to FILE")
    parser.add_argument("--samples", type=int, default=2000, metavar="N", help="bootstrap samples (2000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed of the samples (0)")


def run(options: argparse.Namespace, command: str) -> int:
    """Compares, prints and, with ``--json``, writes the file; returns 0, whichever run is better.

    Raises:
        DataError: as `compare`, and when the file cannot be written.
    """
    result = compare(
        options.run_a, options.run_b, protocols=options.protocols, samples=options.samples, seed=options.seed
    )
    print(format_comparison(result))
    if options.json:
        text = json.dumps({**result, "command": command}, ensure_ascii=False, indent=2) + "\n"
        atomic_write_text(Path(options.json), text)
    return 0


def _chosen_on_test(folder: Path) -> bool:
    """Whether the run's epoch was chosen by its results on the test set."""
    try:
        results = parse_json(read_bytes(folder / "results.json", MAX_DATA_BYTES))
        return bool(results["chosen"]["chosen_on"])
    except (OSError, ValueError, LookupError, TypeError):  # of another program, of an older run, or missing
        return False


def _load_run(folder: Path) -> _Results:
    if not folder.is_dir():
        raise DataError(f"'{folder}' is not a folder")
    results: _Results = {}
    for path in sorted(folder.glob(records_path("", "*").name)):
        for protocol, result in load_records(path).items():
            results[result.target, protocol] = result
    for path in sorted(folder.glob("queries_*.jsonl")):
        ranks = load_ranks(path)
        results[ranks.target, ranks.protocol] = ranks
    if not results:
        raise DataError(
            f"'{folder}' has no queries_<target>.npz, which every test writes, nor queries_<target>.jsonl with the "
            "ranks of another program; test that run again"
        )
    return results


def _match(a: RetrievalResult, b: RetrievalResult, test: str) -> tuple[RetrievalResult, RetrievalResult]:
    """Both results with their queries in one order.

    Raises:
        DataError: when they are of different queries or identities.
    """
    # By pid as well, in case queries of two people share a key. Within a person the order does not matter, since a
    # person's queries are resampled together.
    a, b = (result.select(np.lexsort((result.pids, result.keys))) for result in (a, b))
    if not np.array_equal(a.keys, b.keys):
        keys_a, keys_b = (Counter(result.keys.tolist()) for result in (a, b))
        raise DataError(
            f"{test}: the queries differ, {(keys_a - keys_b).total():,} are only in A, "
            f"{(keys_b - keys_a).total():,} only in B, {(keys_a & keys_b).total():,} in both"
        )
    if differ := np.count_nonzero(a.pids != b.pids):
        raise DataError(f"{test}: {differ:,} of {len(a.pids):,} queries have another identity in B than in A")
    return a, b


def _table(test: Mapping[str, Any]) -> list[str]:
    rows, level, people = [], f"{100 * LEVEL:g} %", test["identities"]
    for name, metric in test["metrics"].items():
        difference = format_interval(metric["difference"], metric["low"], metric["high"], signed=True)
        shares = (f"{100 * metric['a']:.2f}", f"{100 * metric['b']:.2f}")
        clear = "excludes 0" if metric["excludes_zero"] else ""
        rows.append((name, *shares, difference, f"{100 * metric['opposite']:.1f} %", clear))
    clear = ", ".join(name for name, metric in test["metrics"].items() if metric["excludes_zero"])
    title = printable(f"{test['target']}, {test['protocol']}")
    lines = [
        f"{title}: {test['queries']:,} queries of {people:,} identities",
        text_table(("", "A", "B", f"B - A [{level} interval]", "other sign", ""), rows),
        f"The {level} interval of B - A excludes 0 for: {clear or 'none'}",
    ]
    if people == 1:
        lines.append("There is only one identity, so the result says nothing about other people.")
    elif people < FEW:
        lines.append(f"With fewer than {FEW} identities the intervals are too narrow.")
    return lines
