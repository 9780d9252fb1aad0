"""Writes to an index until it is killed: ``python -m benchmarks.search_writer ARGUMENTS``.

Prints a line before and after each call, from which `benchmarks.search_kills` knows what must be in the index.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np

from t2ireid_plugin.search.rows import Filter, Row
from t2ireid_plugin.search.store import folder as store_module
from t2ireid_plugin.search.store.folder import FolderStore
from t2ireid_plugin.search.transfer import merge

DIM, BATCH, BUILD = 16, 200, 5_000  # values of a vector; rows of a batch; rows of a new index
ACTIONS = ("add", "delete", "purge", "merge", "build")


def batch_name(number: int) -> str:
    """Folder in the paths of a batch."""
    return f"batch-{number:06d}"


def _say(word: str, number: int) -> None:
    print(word, number, flush=True)


def _rows(number: int, count: int) -> tuple[np.ndarray, list[Row]]:
    vectors = np.random.default_rng(number).standard_normal((count, DIM), dtype=np.float32)
    return vectors, [Row(f"{batch_name(number)}/{i}.jpg", "cam", float(i)) for i in range(count)]


def main(place: str, action: str, first: int) -> None:
    """Repeats ``action`` on the index ``place``; new batches and new indexes are numbered from ``first``."""
    store_module.MIN_INDEX, store_module.MIN_SEGMENT = 1_000, 1_000  # codes for small indexes
    path = Path(place)
    with FolderStore(path) as store:
        _say("ready", first)
        for number in itertools.count(first):
            if action == "build":
                _say("build", number)
                with FolderStore(path.with_name(f"build{number}")) as built:
                    built.add(*_rows(number, BUILD))
                _say("built", number)
            elif action == "merge":
                _say("merge", number)
                merge(path.with_name(f"merge{number}"), [path, path])
                _say("merged", number)
            else:
                _say("add", number)
                store.add(*_rows(number, BATCH))
                _say("added", number)
                if action != "add" and number % 2:
                    _say("delete", number)
                    store.delete(Filter(path=batch_name(number)))
                    _say("deleted", number)
                if action == "purge":
                    _say("purge", number)
                    store.purge()
                    _say("purged", number)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
