"""Errors that a user can fix.

The command line prints them as one line and exits with status 2; any other exception is a bug in this package and
keeps its traceback. Each class also derives from the matching built-in exception, so callers can catch either.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Collection, Iterable

_MAX_LINE = 2000  # characters
# Control characters, lone surrogates, line separators, and marks that reverse the direction of the text around them.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069\ufeff]")
_short = reprlib.Repr()
_short.maxstring = _short.maxlong = _short.maxother = 200
short_repr = _short.repr  # ``repr`` for error messages, which truncates long values


class T2IReIDError(Exception):
    """Base of every error whose message says what to change.

    Messages may quote the content of untrusted files: control characters are escaped and long lines truncated.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__("\n".join(_truncated(printable(line)) for line in str(message).split("\n")))


def printable(text: str, keep: str = "") -> str:
    """``text`` from an untrusted file, with escapes such as ``\\x1b`` for what would disturb a terminal or a page.

    Args:
        text: any text.
        keep: control characters that stay, as a line's end in a text of several lines.
    """
    return _UNPRINTABLE.sub(lambda match: match[0] if match[0] in keep else ascii(match[0])[1:-1], text)


def _truncated(line: str) -> str:
    return line if len(line) <= _MAX_LINE else f"{line[: _MAX_LINE // 2 - 2]} … {line[1 - _MAX_LINE // 2 :]}"


class ConfigError(T2IReIDError, ValueError):
    """An unknown configuration key, or a value that cannot work."""


class DataError(T2IReIDError, ValueError):
    """A dataset, annotation, image or text that is missing, unreadable or contradictory."""


class CheckpointError(T2IReIDError, RuntimeError):
    """A weights file that is damaged, foreign, unsafe or matches nothing."""


class EncoderError(T2IReIDError, OSError):
    """A pretrained encoder or tokenizer that cannot be found or does not fit."""


class InputError(T2IReIDError, ValueError):
    """Images or texts of a shape or type that the model does not accept."""


class DependencyError(T2IReIDError, ImportError):
    """A required package that cannot be imported."""


def check_choice(name: str, value: object, valid: Collection[str]) -> None:
    """Checks that the setting ``name`` has one of the ``valid`` values.

    Raises:
        ConfigError: listing the valid values.
    """
    if value not in valid:
        raise ConfigError(f"{name}: unknown {short_repr(value)}; valid: {', '.join(valid)}")


def check_keys(name: str, keys: Iterable[str], valid: Collection[str]) -> None:
    """Checks that a mapping called ``name`` has only ``valid`` keys.

    Raises:
        ConfigError: naming the unknown keys and the valid ones.
    """
    unknown = sorted(map(str, set(keys) - set(valid)))
    if unknown:
        raise ConfigError(f"{name}: unknown {', '.join(unknown)}; valid: {', '.join(valid)}")
