"""Work that waits until another package is imported, so that importing ours does not import it."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType


def when_imported(name: str, action: Callable[[], object], quiet: str = "") -> None:
    """Calls ``action`` when somebody imports the package ``name``, right after it is loaded; at once if it is already.

    Args:
        name: of a package of the top level.
        action: what it raises comes out of the import, which then counts as failed.
        quiet: how warnings start that the package gives while it is loaded, and that mean nothing to our users.
    """
    if name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Finder(name, action, quiet))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, name: str, action: Callable[[], object], quiet: str) -> None:
        self.name, self.action, self.quiet = name, action, quiet
        self.asking = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name or self.asking:
            return None
        self.asking = True  # or this would find itself again
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.asking = False
        if spec is None or spec.loader is None:
            return None
        spec.loader = _Loader(spec.loader, self)
        return spec


class _Loader(importlib.abc.Loader):
    """The package's own loader, and the action after it."""

    def __init__(self, own: importlib.abc.Loader, finder: _Finder) -> None:
        self.own, self.finder = own, finder

    def __getattr__(self, name: str) -> object:  # for whoever asks what is in the package without importing it
        return getattr(self.own, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.own
        if module.__spec__ is not None:
            module.__spec__.loader = self.own
        with warnings.catch_warnings():
            if self.finder.quiet:
                warnings.filterwarnings("ignore", message=self.finder.quiet)
            self.own.exec_module(module)
            self.finder.action()
        with contextlib.suppress(ValueError):  # it is gone already when a module is made of one spec twice
            sys.meta_path.remove(self.finder)  # not sooner, so that whoever tries again after a failure gets the action
