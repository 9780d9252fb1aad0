"""Puts our models and datasets into torchreid's tables."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from t2ireid_plugin.data.benchmarks import BENCHMARKS, VAL_SUFFIX
from t2ireid_plugin.errors import ConfigError, DependencyError

if TYPE_CHECKING:
    from t2ireid_plugin.data.dataset import CaptionDataset

# Models by name, with the options of `T2IReIDImageModel`.
MODELS: dict[str, dict[str, Any]] = {
    "t2ireid_vit_mamba": {"branch": "identity"},
    "t2ireid_vit_mamba_cloth": {"branch": "clothing"},
    "t2ireid_vit_mamba_both": {"branch": "both"},
}
_registered: set[str] = set()


def register() -> None:
    """Registers the models, and each benchmark as ``name`` (evaluates on test) and ``name_val``; again does nothing.

    Raises:
        ConfigError: when another plugin has taken a model's name.
        DependencyError: when this version of torchreid has no table for models or for datasets.
        ValueError: torchreid's, when another plugin has taken a dataset's name.
    """
    with warnings.catch_warnings():
        # torchreid warns of its missing Cython evaluator when it is first imported; it is not needed.
        warnings.filterwarnings("ignore", message="Cython evaluation")
        from torchreid import data as torchreid_data

    for name, options in MODELS.items():
        _add_model(name, options)
    private_table(torchreid_data.datasets, "__image_datasets")  # register_image_dataset adds to it
    for spec in BENCHMARKS.values():
        for name, split in ((spec.name, "test"), (spec.name + VAL_SUFFIX, "val")):
            if name not in _registered:
                torchreid_data.register_image_dataset(name, functools.partial(_dataset, spec=spec, eval_split=split))
                _registered.add(name)


def register_model_variant(name: str, **options: Any) -> None:
    """Makes ``torchreid.models.build_model(name, …)`` build a `T2IReIDImageModel` with these options.

    torchreid passes a builder no options of ours, so they are bound to the name. The same name with the same options
    again does nothing.

    Args:
        name: new to torchreid.
        **options: any of ``branch``, ``vit_pretrained``, ``disentangle``, see `T2IReIDImageModel`.

    Raises:
        ConfigError: for an unknown option, a value that cannot work, or a name that is taken.
        DependencyError: when this version of torchreid has no table for models.
    """
    from t2ireid_plugin.integrations.torchreid.model import check_options

    try:
        check_options(options)
    except ConfigError as error:
        raise ConfigError(f"model '{name}': {error}") from error
    _add_model(name, options)


def _add_model(name: str, options: Mapping[str, Any]) -> None:
    from torchreid import models

    table = private_table(models, "__model_factory")
    builder = _Builder(options)
    if table.setdefault(name, builder) != builder:
        taken = f"with the options {table[name].options}" if isinstance(table[name], _Builder) else "by torchreid"
        raise ConfigError(f"model '{name}' is already registered {taken}; choose another name")


def private_table(module: Any, name: str) -> dict[str, Any]:
    """The dict ``name`` of a module of torchreid, which has no function for what we need of it.

    Raises:
        DependencyError: when it is not there; the message names torchreid's version and the table.
    """
    table = getattr(module, name, None)
    if not isinstance(table, dict):
        import torchreid

        version = getattr(torchreid, "__version__", "of unknown version")
        raise DependencyError(
            f"torchreid {version} has no table {module.__name__}.{name}; 0.2.5 (PyPI) and 1.4.0 (GitHub) have it"
        )
    return table


class _Builder:
    """What torchreid calls to build a model; equal to another one with the same options."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = dict(options)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Builder) and self.options == other.options

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, num_classes: int, loss: str = "softmax", pretrained: bool = True, use_gpu: bool = True) -> Any:
        from t2ireid_plugin.integrations.torchreid.model import T2IReIDImageModel

        return T2IReIDImageModel(num_classes, loss, pretrained, **self.options)


def _dataset(**arguments: Any) -> CaptionDataset:
    """`CaptionDataset`, whose module is not loaded while torchreid is: it may be the one that loads torchreid."""
    from t2ireid_plugin.data.dataset import CaptionDataset

    return CaptionDataset(**arguments)
