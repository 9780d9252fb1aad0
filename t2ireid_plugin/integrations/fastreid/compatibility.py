"""Whether FastReID can be imported, and what its source needs on today's Python and PyTorch."""

from __future__ import annotations

import collections
import collections.abc
import functools
import importlib.util
import logging
from typing import Any

import torch
from torch.utils.data import DataLoader

from t2ireid_plugin.errors import DependencyError

logger = logging.getLogger(__name__)

# What FastReID's source imports besides what this package installs itself; the extra `fastreid` of pyproject.toml.
EXTRA = ("faiss", "tabulate", "termcolor")


def check_packages() -> None:
    """Refuses, by name, what is missing of FastReID and of what it imports.

    Raises:
        DependencyError: saying how to get it.
    """
    missing = [name for name in ("fastreid", *EXTRA) if not _found(name)]
    if not missing:
        return
    remedies = []
    if "fastreid" in missing:
        remedies.append("put the source of FastReID (JDAI-CV/fast-reid on GitHub, no package) on PYTHONPATH")
    if set(missing) & set(EXTRA):
        remedies.append("pip install 't2ireid-plugin[fastreid]'")
    raise DependencyError(f"FastReID needs {', '.join(missing)}, which cannot be imported: {', and '.join(remedies)}")


def _found(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None  # any folder of that name would be a package without files


check_packages()


def check_importable() -> None:
    """Refuses to go on where FastReID's source cannot be imported as it is.

    Raises:
        DependencyError: naming `enable_compatibility`.
    """
    try:
        import fastreid.engine  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            f"FastReID's source does not import on this Python and PyTorch ({error}); call "
            "t2ireid_plugin.integrations.fastreid.enable_compatibility() before it"
        ) from error


def enable_compatibility() -> None:
    """Lets the source of FastReID's main branch run on Python 3.10 and PyTorch 2 and newer; to be called before it.

    Its releases, up to 1.3.0, also want ``torch._six``, and have another trainer; they are not supported. It edits no
    file. Nothing here happens unless this function is called; calling it again does nothing. It puts

    - ``collections.Mapping`` back, which Python 3.10 removed and ``fastreid.data`` and ``fastreid.evaluation`` import;
    - an optimizer over the parameters themselves in the place of FastReID's over one contiguous copy. PyTorch 2's
      ``zero_grad`` drops the gradient of that copy instead of zeroing it, so that **no weight would ever change**, and
      no message would say so;
    - without CUDA, a plain ``DataLoader`` in the place of ``DataLoaderX``, which opens a CUDA stream;
    - FastReID's evaluator in Python in the place of the one in Cython where that is not built: it would be compiled by
      whatever ``python3`` is on the path, and end the process when that fails.
    """
    if not hasattr(collections, "Mapping"):
        collections.Mapping = collections.abc.Mapping  # type: ignore[attr-defined]

    # "from", as a package whose first import has failed lacks its modules as attributes when it is imported again.
    from fastreid import solver
    from fastreid.data import build as data_build
    from fastreid.engine import defaults
    from fastreid.evaluation import reid_evaluation
    from fastreid.solver import build as solver_build

    over_parameters = functools.partial(solver_build.build_optimizer, contiguous=False)
    solver.build_optimizer = defaults.build_optimizer = over_parameters
    if not torch.cuda.is_available():
        data_build.DataLoaderX = _PlainLoader
    reid_evaluation.compile_helper = _keep_python_evaluator


class _PlainLoader(DataLoader):
    """``DataLoaderX`` without CUDA."""

    def __init__(self, _local_rank: int, **options: Any) -> None:
        super().__init__(**{**options, "pin_memory": False})


def _keep_python_evaluator() -> None:
    logger.info("FastReID's evaluator in Cython is not built; its evaluator in Python is used")
