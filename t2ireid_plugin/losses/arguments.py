"""Checks for what comes from a config file."""

import math
from collections.abc import Sequence
from numbers import Real

from t2ireid_plugin.errors import ConfigError


def number(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """`value` as a finite float in `low`..`high` (both included), or a ConfigError that names it."""
    # True is an int in Python; as a weight it is more likely a misread switch than a one.
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ConfigError(f"{name} must be a finite number, got {value!r}")
    checked = float(value)
    if not low <= checked <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ConfigError(f"{name} must be {bounds}, got {value!r}")
    return checked


def positive(name: str, value: object) -> float:
    """`value` as a finite float above 0, or a ConfigError that names it."""
    checked = number(name, value)
    if checked <= 0:
        raise ConfigError(f"{name} must be above 0, got {value!r}")
    return checked


def flag(name: str, value: object) -> bool:
    """`value` if it is true or false, or a ConfigError that names it."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, got {value!r}")
    return value


def choice(name: str, value: object, valid: Sequence[str]) -> str:
    """`value` if it is one of `valid`, or a ConfigError that lists them."""
    if value not in valid:
        raise ConfigError(f"{name}: unknown {value!r}; valid: {', '.join(valid)}")
    return str(value)
