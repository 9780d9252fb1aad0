"""Checks of a term's arguments, which come from a configuration file."""

import math
from numbers import Real

from t2ireid_plugin.errors import ConfigError, short_repr


def number(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """Returns `value` as a float; ConfigError unless it is a finite number between `low` and `high`, both included."""
    # True is an int in Python; as a weight it is more likely a misread switch than a one.
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ConfigError(f"{name} must be a finite number, got {short_repr(value)}")
    checked = float(value)
    if not low <= checked <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ConfigError(f"{name} must be {bounds}, got {short_repr(value)}")
    return checked


def positive(name: str, value: object) -> float:
    """Returns `value` as a float; ConfigError unless it is a finite number above 0."""
    checked = number(name, value)
    if checked <= 0:
        raise ConfigError(f"{name} must be above 0, got {short_repr(value)}")
    return checked


def flag(name: str, value: object) -> bool:
    """Returns `value`; ConfigError unless it is true or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, got {short_repr(value)}")
    return value
