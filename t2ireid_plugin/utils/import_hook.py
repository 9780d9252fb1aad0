"""Calls a function when another package is imported, so that importing ours does not have to import it."""

from __future__ import annotations

import contextlib
import functools
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any


def when_imported(name: str, action: Callable[[], object], ignored_warning: str = "") -> None:
    """Calls ``action`` right after the import of the package ``name``, or at once if it is already imported.

    Args:
        name: a top-level package.
        action: its errors make the import fail.
        ignored_warning: the start of warnings to suppress during the import.
    """
    if name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Finder(name, action, ignored_warning))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the package where Python does, and adds the action to its loader's ``exec_module``."""

    def __init__(self, name: str, action: Callable[[], object], ignored_warning: str) -> None:
        self.name, self.action, self.ignored_warning = name, action, ignored_warning

    def find_spec(self, fullname: str, *where: Any) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(fullname, *where) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            exec_module = functools.partial(self._exec_module, spec.loader.exec_module)
            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def _exec_module(self, exec_module: Callable[[ModuleType], None], module: ModuleType) -> None:
        with warnings.catch_warnings():
            if self.ignored_warning:
                warnings.filterwarnings("ignore", message=self.ignored_warning)
            exec_module(module)
            self.action()
        with contextlib.suppress(ValueError):  # removed already, if the spec is executed twice
            sys.meta_path.remove(self)  # only now: after a failed import the next attempt needs it
