"""Work on many items in processes of which each may crash or hang without taking the rest along.

`concurrent.futures` gives up as a whole when one process dies, and does not notice one that hangs. Here each process
answers item by item, so the item that it was lost at is known, and a new process goes on with the rest.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Items handed over at once: so few that all processes end together, so many that none waits long for the next ones.
_CHUNK = 32
# An item is given up when it has cost this many processes: one may be lost to a full memory or a network drive.
_ATTEMPTS = 2


class Lost(NamedTuple):
    """In place of the result of an item that no process came back from."""

    reason: str


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_all(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, seconds: float = 60.0
) -> Iterator[tuple[int, Result | Lost]]:
    """``function`` of all items in ``workers`` processes; yields ``(index, result)`` as they come, in any order.

    Args:
        function: of a module, so that every way to start a process can find it; must not raise.
        items: what it is called with.
        workers: number of processes.
        seconds: without an answer for so long, a process is taken to hang.
    """
    todo = deque(range(len(items)))
    attempts: Counter[int] = Counter()
    crew = [_Worker(function) for _ in range(max(1, min(workers, -(-len(items) // _CHUNK))))]
    try:
        while todo or any(worker.pending for worker in crew):
            for worker in crew:
                if todo and not worker.pending:
                    worker.give([todo.popleft() for _ in range(min(_CHUNK, len(todo)))], items)
            wait([worker.pipe for worker in crew if worker.pending], timeout=min(1.0, seconds))
            for position, worker in enumerate(crew):
                yield from worker.answers()
                reason = worker.lost(seconds)
                if reason is None:
                    continue
                culprit = worker.pending.popleft()
                todo.extendleft(reversed(worker.pending))
                attempts[culprit] += 1
                if attempts[culprit] < _ATTEMPTS:
                    todo.appendleft(culprit)
                else:
                    yield culprit, Lost(reason)
                crew[position] = _Worker(function)
    finally:
        for worker in crew:
            worker.stop()


class _Worker(Generic[Item, Result]):
    """A process, and the indices of the items that it has not answered yet."""

    def __init__(self, function: Callable[[Item], Result]) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=_serve, args=(function, theirs), daemon=True)
        self.process.start()
        theirs.close()  # so that its end is the only one, and closes when the process dies
        self.pending: deque[int] = deque()
        self._heard = time.monotonic()
        self._gone = False

    def give(self, indices: list[int], items: Sequence[Item]) -> None:
        """Hands over the next items; only to one that has answered all before, which is then reading."""
        self.pending.extend(indices)
        self._heard = time.monotonic()
        try:
            self.pipe.send([items[index] for index in indices])
        except OSError:
            self._gone = True

    def answers(self) -> Iterator[tuple[int, Result]]:
        """Results that have come."""
        try:
            while self.pending and not self._gone and self.pipe.poll():
                result = self.pipe.recv()
                self._heard = time.monotonic()
                yield self.pending.popleft(), result
        except (EOFError, OSError):
            self._gone = True

    def lost(self, seconds: float) -> str | None:
        """Why nothing more is to be expected of a process with work left, which is then ended; else None."""
        if not self.pending:
            return None
        if self._gone:
            self.process.join(1)
            code, reason = self.process.exitcode, "the process that read it died"
            if code is not None and code < 0:
                with contextlib.suppress(ValueError):  # a number without a name
                    reason += f" ({signal.Signals(-code).name})"
        elif time.monotonic() - self._heard > seconds:
            reason = f"no end after {seconds:g} s"
        else:
            return None
        self.stop()
        return reason

    def stop(self) -> None:
        """Ends the process, whatever it does."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(function: Callable[[Item], Result], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the first one decides
    parent = multiprocessing.parent_process()
    with contextlib.suppress(EOFError, OSError):  # ends when nobody is at the other end
        while True:
            # Forked processes hold copies of each other's ends, so the end of the first one need not close the pipe.
            while not pipe.poll(5):
                if parent is None or not parent.is_alive():
                    return
            for item in pipe.recv():
                pipe.send(function(item))
