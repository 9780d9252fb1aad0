"""SIGTERM and SIGINT, which schedulers and keyboards send: a run finishes its step, saves and ends."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist

from t2ireid_plugin.utils.distributed import all_reduce_max, world_size

# torchrun hands a signal on to processes that whoever sent it may have reached as well.
_SAME = 2.0  # seconds
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """A signal to end has come; ``status`` is the exit status that says so, 143 or 130."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        self.status = 128 + number
        super().__init__(f"stopped by {self.signal.name}")


class _Handler:
    """The first signal raises `Stopped`, at once or at the end of what must not be broken off; a second one ends all.

    Under torchrun one that follows at once is taken for the first.

    Attributes:
        received: the signal that has come.
        since: when, in seconds of the monotonic clock.
        shields: how many `defer_signals` blocks the process is in.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.since = 0.0
        self.shields = 0

    def __call__(self, number: int, _frame: Any) -> None:
        if self.received is not None:
            if dist.is_torchelastic_launched() and time.monotonic() - self.since < _SAME:
                return
            os._exit(128 + number)  # nothing is waited for, not even by Python's own exit
        self.received, self.since = number, time.monotonic()
        if not self.shields:
            raise Stopped(number)


_handler = _Handler()


@contextlib.contextmanager
def stop_on_signal() -> Iterator[None]:
    """Within, SIGTERM and SIGINT raise `Stopped`. Does nothing outside the main thread, where no signal arrives."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _handler.received = None
    before = {number: signal.signal(number, _handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _handler.received = None


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """A signal that comes within raises `Stopped` at the end."""
    waiting = _handler.received is None
    _handler.shields += 1
    try:
        yield
    finally:
        _handler.shields -= 1
    if waiting and _handler.received is not None and not _handler.shields:
        raise Stopped(_handler.received)


def check_stop() -> None:
    """Raises `Stopped` in each process when one has had a signal, also within `defer_signals`."""
    number = _handler.received or 0
    if world_size() > 1:
        number = all_reduce_max(number, "cuda" if dist.get_backend() == "nccl" else "cpu")
    if number:
        raise Stopped(number)
