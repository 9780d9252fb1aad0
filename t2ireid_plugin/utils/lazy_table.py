"""Table whose values are imported on first use, so that a configuration's names are checked without PyTorch."""

from __future__ import annotations

import importlib
from collections import UserDict
from typing import Any


class LazyTable(UserDict[str, Any]):
    """Objects by name; a string such as ``package.module.object`` is imported when it is first looked up."""

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if isinstance(value, str):
            module, _, attribute = value.rpartition(".")
            value = self[name] = getattr(importlib.import_module(module), attribute)
        return value
