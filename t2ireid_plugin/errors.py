"""Errors a user can mend.

The command line prints them as one line and leaves with status 2; anything else is a defect of ours and
keeps its traceback. Each class is also the built-in that fits, so library users can catch either.
"""

from __future__ import annotations

import reprlib

_MOST = 2000  # characters of a line


class T2IReIDError(Exception):
    """Base of every error whose message says what to change.

    The message may quote what a file holds: overlong lines lose their middle, and what would steer a terminal is
    escaped.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__("\n".join(map(_readable, str(message).split("\n"))))


def shown(value: object) -> str:
    """``repr(value)`` for messages, cut where it is long, and also for what `repr` refuses: depth, endless numbers."""
    return _Shown().repr(value)


class _Shown(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxlong = self.maxother = 200

    def repr_int(self, x: int, level: int) -> str:
        """Python turns no more than 4,300 digits into text."""
        return super().repr_int(x, level) if x.bit_length() < 10_000 else f"a number of {x.bit_length():,} bits"


def _readable(line: str) -> str:
    if not line.isprintable():
        line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
    return line if len(line) <= _MOST else f"{line[: _MOST // 2 - 2]} … {line[1 - _MOST // 2 :]}"


class ConfigError(T2IReIDError, ValueError):
    """A configuration key or value that does not exist or cannot work."""


class DataError(T2IReIDError, ValueError):
    """A dataset, annotation, image or text that is missing, unreadable or contradictory."""


class CheckpointError(T2IReIDError, RuntimeError):
    """A weights file that is damaged, foreign, unsafe or matches nothing."""


class EncoderError(T2IReIDError, OSError):
    """A pretrained encoder or tokenizer that cannot be found or does not fit."""


class InputError(T2IReIDError, ValueError):
    """Images or texts of a shape or type that the model does not take."""


class DependencyError(T2IReIDError, ImportError):
    """A package that is needed for what was asked, and cannot be imported."""
