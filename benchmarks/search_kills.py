"""Kills processes that write to an index, at random moments, and checks what is left."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.search_writer import ACTIONS, BATCH, BUILD, batch_name
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.search.rows import Filter
from t2ireid_plugin.search.store.folder import FolderStore

_REPOSITORY = Path(__file__).resolve().parent.parent


def kill_writers(folder: Path, kills: int, seed: int = 0) -> dict[str, Any]:
    """Kills ``kills`` writers of one index in an empty ``folder``, each action in turn.

    Returns:
        Numbers of kills by the call they interrupted, and of batches, and the longest time to open the index.

    Raises:
        DataError: when an acknowledged row is lost, a deleted one is back, or a batch is there in part.
    """
    draw, index = random.Random(seed), folder / "people.idx"
    expected: dict[int, int | None] = {}  # rows of each batch; None when the call did not return
    within, longest, first = Counter[str](), 0.0, 0
    for trial in range(kills):
        action = ACTIONS[trial % len(ACTIONS)]
        words = _run_and_kill(index, action, first, draw.uniform(0, 1))
        if words and words[-1][0] in ACTIONS:
            within[f"killed_in_{words[-1][0]}"] += 1
        first = max([first, *(number + 1 for _, number in words)])
        for word, number in words:
            if word in ("add", "added", "delete", "deleted"):
                expected[number] = {"added": BATCH, "deleted": 0}.get(word)
        started = time.process_time()
        with FolderStore(index) as store:
            store.count()
            longest = max(longest, time.process_time() - started)
            _check(store, expected)
            rows = store.count()
        for word, number in words:
            if word in ("merge", "merged", "build", "built"):
                _check_new(folder, word, number, BUILD if word.startswith("buil") else 2 * rows)
    with FolderStore(index) as store:
        store.purge()
    content = b"".join(file.read_bytes() for file in index.rglob("*") if file.is_file())
    if left := [number for number, count in expected.items() if count == 0 and batch_name(number).encode() in content]:
        raise DataError(f"batch {left[0]} is still there after purging")
    return {"kills": kills, **within, "batches": len(expected), "open_cpu_seconds": longest}


def _run_and_kill(index: Path, action: str, first: int, delay: float) -> list[tuple[str, int]]:
    """What a writer has printed until it was killed ``delay`` seconds after it was ready."""
    arguments = json.dumps({"place": str(index), "action": action, "first": first})
    path = os.pathsep.join([str(_REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "benchmarks.search_writer", arguments]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        ready = writer.stdout.readline()
        time.sleep(delay)
        writer.kill()
        rest = writer.stdout.read()
    if not ready.startswith("ready"):
        raise DataError(f"the writer ended with status {writer.returncode}")
    return list(_lines(rest))


def _lines(text: str) -> Iterator[tuple[str, int]]:
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            word, number = line.split()
            yield word, int(number)


def _check(store: FolderStore, expected: dict[int, int | None]) -> None:
    if problems := store.info(verify=True).get("problems"):
        raise DataError(f"the index is damaged: {problems[0]}")
    for number, count in expected.items():
        there = store.count(Filter(path=batch_name(number)))
        if there not in ((0, BATCH) if count is None else (count,)):
            raise DataError(f"batch {number} has {there} rows, not {'0 or all' if count is None else count}")
        expected[number] = there


def _check_new(folder: Path, word: str, number: int, rows: int) -> None:
    """An index that was being made is complete if the call returned, and otherwise complete or empty."""
    path = folder / f"{'merge' if word.startswith('merge') else 'build'}{number}"
    if word in ("merge", "build") and not (path / "index.json").exists():
        return
    with FolderStore(path) as store:
        there, problems = store.count(), store.info(verify=True)["problems"]
    if problems or there not in ((rows,) if word in ("merged", "built", "merge") else (0, rows)):
        raise DataError(f"'{path.name}' has {there} of {rows} rows: {problems}")
