"""Progress of long work: a bar on a terminal, a line for every tenth elsewhere."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def show_progress(results: Iterable[T], total: int, what: str, unit: str, show: bool = True) -> Iterator[T]:
    """Yields ``results`` and reports progress and remaining time on standard error.

    Args:
        results: computed while iterating.
        total: their number.
        what: the work, such as "drawing people".
        unit: of a result, such as "person".
        show: False for no output.
    """
    if not show:
        yield from results
    elif sys.stderr.isatty():
        yield from tqdm(results, total=total, unit=unit, desc=what, file=sys.stderr)
    else:
        started = time.monotonic()
        for count, result in enumerate(results, 1):
            yield result
            if count * 10 // total > (count - 1) * 10 // total:
                left = datetime.timedelta(seconds=round((time.monotonic() - started) / count * (total - count)))
                eta = f", eta {left}" if count < total else ""
                print(f"{what}: {count:,} of {total:,}{eta}", file=sys.stderr, flush=True)
