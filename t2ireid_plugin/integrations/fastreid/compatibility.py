"""Imports of FastReID's source, and changes with which it runs on current Python and PyTorch."""

from __future__ import annotations

import collections
import collections.abc
import functools
import importlib.util

import torch
from torch.utils.data import DataLoader

from t2ireid_plugin.errors import DependencyError

_specs = {name: importlib.util.find_spec(name) for name in ("fastreid", "faiss", "tabulate", "termcolor")}
# A mere folder of that name has a spec without origin.
if _missing := [name for name, spec in _specs.items() if spec is None or spec.origin is None]:
    raise DependencyError(
        f"FastReID: cannot import {', '.join(_missing)}; put FastReID's source (JDAI-CV/fast-reid on GitHub) on "
        "PYTHONPATH and run pip install faiss-cpu tabulate termcolor, which it imports"
    )


def enable_compatibility() -> None:
    """Makes the source of FastReID's main branch run on Python 3.10 and PyTorch 2 and later; to be called before it.

    It patches modules in memory and edits no file; a second call has no effect. FastReID's releases, up to 1.3.0, have
    another trainer and are not supported. The changes:

    - ``collections.Mapping``, which Python 3.10 removed and ``fastreid.data`` and ``fastreid.evaluation`` import, is
      restored.
    - Optimizers work on the parameters themselves instead of one contiguous copy. PyTorch 2's ``zero_grad`` drops the
      copy's gradient instead of zeroing it, so that **no weight would ever change**, without any message.
    - Without CUDA, ``DataLoaderX``, which opens a CUDA stream, is replaced by a plain ``DataLoader``.
    - The Cython evaluator is not compiled, as FastReID would do with whatever ``python3`` is on the path, exiting if
      that fails; without it FastReID uses its Python evaluator.
    """
    if not hasattr(collections, "Mapping"):
        collections.Mapping = collections.abc.Mapping  # type: ignore[attr-defined]

    # With "from": after a failed first import, a package lacks its modules as attributes.
    from fastreid import solver
    from fastreid.data import build as data_build
    from fastreid.engine import defaults
    from fastreid.evaluation import reid_evaluation
    from fastreid.solver import build as solver_build

    build_optimizer = functools.partial(solver_build.build_optimizer, contiguous=False)
    solver.build_optimizer = defaults.build_optimizer = build_optimizer
    if not torch.cuda.is_available():  # the first argument is the local rank
        data_build.DataLoaderX = lambda _rank, **options: DataLoader(**{**options, "pin_memory": False})
    reid_evaluation.compile_helper = lambda: None
