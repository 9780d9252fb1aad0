"""Times of several contenders, measured in turns, and their ratios within each round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Ratio(NamedTuple):
    """Ratio of two times over the rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f}-{self.high:.3f})"


class Seconds(NamedTuple):
    """Times of one contender, one value per round."""

    wall: list[float]
    cpu: list[float]  # of all threads of the process


def in_turns(contenders: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Seconds]:
    """Calls each contender once per round; the first round, which warms caches, is not counted.

    Other load on the machine affects all contenders alike only if they take turns, so only ratios within a round are
    meaningful.
    """
    seconds = {name: Seconds([], []) for name in contenders}
    for turn in range(rounds + 1):
        for name, call in contenders.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            if turn:
                seconds[name].cpu.append(time.process_time() - cpu)
                seconds[name].wall.append(time.perf_counter() - wall)
    return seconds


def ratio(one: list[float], other: list[float]) -> Ratio:
    """Ratio of ``one`` to ``other``, round by round."""
    values = [a / b for a, b in zip(one, other, strict=True)]
    return Ratio(statistics.median(values), min(values), max(values))


def summary(seconds: Mapping[str, Seconds], bare: str, literal: str, clock: str) -> dict[str, Any]:
    """Median seconds of each contender on both clocks, and its ratios to ``bare`` and to ``literal`` on ``clock``."""
    times = {name: getattr(row, clock) for name, row in seconds.items()}
    return {
        name: {
            "seconds": {kind: statistics.median(getattr(row, kind)) for kind in Seconds._fields},
            "to_bare": ratio(times[name], times[bare])._asdict(),
            "to_literal": ratio(times[name], times[literal])._asdict(),
        }
        for name, row in seconds.items()
    }
