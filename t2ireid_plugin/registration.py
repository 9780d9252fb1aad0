"""Puts our datasets into torchreid's tables."""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any

from t2ireid_plugin.data.benchmarks import BENCHMARKS

if TYPE_CHECKING:
    from t2ireid_plugin.data.dataset import CaptionDataset

VAL_SUFFIX = "_val"
_registered: set[str] = set()


def register() -> None:
    """Registers each benchmark as ``name`` (evaluates on test) and ``name_val`` (on val); again does nothing.

    Raises:
        ValueError: torchreid's, when another plugin has taken a name.
    """
    with warnings.catch_warnings():
        # torchreid warns of its missing Cython evaluator when it is first imported; it is not needed.
        warnings.filterwarnings("ignore", message="Cython evaluation")
        from torchreid import data as torchreid_data

    for spec in BENCHMARKS.values():
        for name, split in ((spec.name, "test"), (spec.name + VAL_SUFFIX, "val")):
            if name not in _registered:
                torchreid_data.register_image_dataset(name, functools.partial(_dataset, spec=spec, eval_split=split))
                _registered.add(name)


def _dataset(**arguments: Any) -> CaptionDataset:
    """`CaptionDataset`, whose module is not loaded while torchreid is: it may be the one that loads torchreid."""
    from t2ireid_plugin.data.dataset import CaptionDataset

    return CaptionDataset(**arguments)
