"""SIGTERM, SIGINT and SIGHUP, from schedulers, keyboards and closed terminals: a run saves a checkpoint and ends."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

# The last one is of a terminal that was closed; Windows has none.
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
# torchrun forwards a signal to its processes, which the sender may have reached as well: one signal, not two.
_DUPLICATE = 2.0  # seconds


class Stopped(KeyboardInterrupt):
    """Raised on a signal; ``status`` is the exit status for it, such as 143 for SIGTERM."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        self.status = 128 + number
        super().__init__(f"stopped by {self.signal.name}")


class _Handler:
    """Raises `Stopped` on the first signal, at once or at the end of `defer_signals`; a second signal ends the process.

    Attributes:
        received: the first signal, None before it.
        since: its time, in seconds of the monotonic clock.
        deferring: number of nested `defer_signals` blocks.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.since = 0.0
        self.deferring = 0

    def __call__(self, number: int, _frame: Any) -> None:
        if self.received is not None:
            if "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() - self.since < _DUPLICATE:
                return
            os._exit(128 + number)  # at once, without Python's own clean-up
        self.received, self.since = number, time.monotonic()
        if not self.deferring:
            raise Stopped(number)


_handler = _Handler()


@contextlib.contextmanager
def stop_on_signal() -> Iterator[None]:
    """Within the block, `STOP_SIGNALS` raise `Stopped`, except a SIGHUP that ``nohup`` ignores.

    Has no effect in other threads, which get no signals, and within another such block.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is _handler:
        yield
        return
    _handler.received = None
    before = {number: signal.signal(number, _handler) for number in STOP_SIGNALS if not _is_ignored_hangup(number)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _handler.received = None


def _is_ignored_hangup(number: int) -> bool:
    return number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) is signal.SIG_IGN


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """A signal within the block raises `Stopped` at its end."""
    was_clear = _handler.received is None
    _handler.deferring += 1
    try:
        yield
    finally:
        _handler.deferring -= 1
    if was_clear and _handler.received is not None and not _handler.deferring:
        raise Stopped(_handler.received)


def check_stop() -> None:
    """Raises `Stopped` in all processes if one of them has received a signal, also within `defer_signals`."""
    import torch.distributed as dist  # here, since commands without torch handle signals too

    from t2ireid_plugin.utils.distributed import all_reduce_max, world_size

    number = _handler.received or 0
    if world_size() > 1:
        number = all_reduce_max(number, "cuda" if dist.get_backend() == "nccl" else "cpu")
    if number:
        raise Stopped(number)
