"""Standard output and error whose loss ends no command: a closed terminal or pipe, a full disk, a narrow encoding."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

_READER_GONE = (errno.EPIPE, errno.ECONNRESET, errno.EIO)  # `| head`, a closed terminal


class Console:
    """Text stream that discards everything after the first error in writing.

    Attributes:
        problem: that error; None before it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.problem: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def loss(self) -> str:
        """Why something was discarded that somebody might still want to read; empty if nothing was."""
        return "" if self.problem is None or self.problem.errno in _READER_GONE else str(self.problem.strerror)

    def write(self, text: str) -> int:
        """Writes or discards."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._discard(error)
            return len(text)

    def flush(self) -> None:
        """Flushes or discards."""
        try:
            self._stream.flush()
        except OSError as error:
            self._discard(error)

    def _discard(self, error: OSError) -> None:
        self.problem = self.problem or error
        with contextlib.suppress(io.UnsupportedOperation), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())  # else Python would fail again when it flushes at exit


@contextlib.contextmanager
def lasting_console() -> Iterator[Console]:
    """Within, `sys.stdout` (which is returned) and `sys.stderr` raise no error, and escape what they cannot encode."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        consoles = [Console(stream or nowhere) for stream in before]  # None where the user has closed it
        for stream in before:
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        sys.stdout, sys.stderr = consoles
        try:
            yield consoles[0]
        finally:
            for console in consoles:
                console.flush()
            sys.stdout, sys.stderr = before
