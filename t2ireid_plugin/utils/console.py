"""Standard output and error whose loss ends no command, and that show no control characters of untrusted files."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from t2ireid_plugin.errors import printable

_READER_GONE = (errno.EPIPE, errno.ECONNRESET, errno.EIO)  # `| head`, a closed terminal


class PrintableFormatter(logging.Formatter):
    """Escapes control characters, which messages may quote from untrusted files."""

    def format(self, record: logging.LogRecord) -> str:
        """The message on one line."""
        return printable(super().format(record))


class Console:
    """Text stream that discards everything after the first error in writing.

    Args:
        stream: where to write.
        escape: escape control characters except line ends and tabs.

    Attributes:
        problem: the first error; None before it.
    """

    def __init__(self, stream: TextIO, escape: bool) -> None:
        self._stream, self._escape = stream, escape
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
            self._stream.write(printable(text, "\n\t") if self._escape else text)
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
        # None where the user has closed it. Progress bars on standard error move the cursor.
        consoles = [Console(stream or nowhere, escape) for stream, escape in zip(before, (True, False), strict=True)]
        if logging.lastResort is not None:
            logging.lastResort.setFormatter(PrintableFormatter())
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
