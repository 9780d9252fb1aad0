"""The user's folder for files that can be computed again."""

from __future__ import annotations

import os
from pathlib import Path

from t2ireid_plugin.errors import ConfigError


def cache_folder(kind: str, setting: str = "XDG_CACHE_HOME") -> Path:
    """The folder for files of a kind, below ``XDG_CACHE_HOME`` or ``~/.cache``; it may not exist.

    Raises:
        ConfigError: naming the ``setting`` that chooses another, for a user without a home, as in some containers.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if base.startswith("~"):
        raise ConfigError(f"{setting}: must be set for a user without a home folder")
    return Path(base) / "t2ireid_plugin" / kind
