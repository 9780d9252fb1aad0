"""Registration of our models and datasets with torchreid."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from t2ireid_plugin.data.benchmarks import BENCHMARKS, VAL_SUFFIX
from t2ireid_plugin.errors import ConfigError, DependencyError, check_choice, check_keys

if TYPE_CHECKING:
    from t2ireid_plugin.data.dataset import CaptionDataset

# Model names with their options for `T2IReIDImageModel`.
MODELS: dict[str, dict[str, Any]] = {
    "t2ireid_vit_mamba": {"branch": "identity"},
    "t2ireid_vit_mamba_cloth": {"branch": "clothing"},
    "t2ireid_vit_mamba_both": {"branch": "both"},
}
LOSSES = ("softmax", "triplet")
_registered_datasets: set[str] = set()


def register() -> None:
    """Registers the models, and each benchmark as ``name`` (for its test split) and ``name_val``.

    A second call has no effect.

    Raises:
        ConfigError: when a model's name is taken by another plugin.
        DependencyError: when this version of torchreid lacks the table of models or of datasets.
        ValueError: from torchreid, when a dataset's name is taken by another plugin.
    """
    with warnings.catch_warnings():
        # On import, torchreid warns of its missing Cython evaluator, which we do not need.
        warnings.filterwarnings("ignore", message="Cython evaluation")
        from torchreid import data as torchreid_data

    for name, options in MODELS.items():
        _add_model(name, options)
    private_table(torchreid_data.datasets, "__image_datasets")  # register_image_dataset adds to it
    for spec in BENCHMARKS.values():
        for name, split in ((spec.name, "test"), (spec.name + VAL_SUFFIX, "val")):
            if name not in _registered_datasets:
                torchreid_data.register_image_dataset(name, functools.partial(_dataset, spec=spec, eval_split=split))
                _registered_datasets.add(name)


def register_model_variant(name: str, **options: Any) -> None:
    """Makes ``torchreid.models.build_model(name, …)`` build a `T2IReIDImageModel` with these options.

    The options are bound to the name because ``build_model`` cannot pass them. Registering the same name with the same
    options again has no effect.

    Args:
        name: not yet used in torchreid.
        **options: any of ``branch``, ``vit_pretrained``, ``disentangle``, see `T2IReIDImageModel`.

    Raises:
        ConfigError: for an unknown option, a value that cannot work, or a name that is taken.
        DependencyError: when this version of torchreid lacks the table of models.
    """
    from t2ireid_plugin.modeling.image_embedder import BRANCHES
    from t2ireid_plugin.modeling.settings import check_disentangle

    check_keys(f"options of model '{name}'", options, ("branch", "vit_pretrained", "disentangle"))
    try:
        check_choice("branch", options.get("branch", "identity"), BRANCHES)
        for option, kinds in (("vit_pretrained", (str, Mapping)), ("disentangle", (Mapping,))):
            if not isinstance(options.get(option, {}), kinds):
                names = " or ".join(kind.__name__ for kind in kinds)
                raise ConfigError(f"{option}: {options[option]!r} must be a {names}")
        check_disentangle(options.get("disentangle", {}))
    except ConfigError as error:
        raise ConfigError(f"model '{name}': {error}") from error
    _add_model(name, options)


def _add_model(name: str, options: Mapping[str, Any]) -> None:
    from torchreid import models

    table = private_table(models, "__model_factory")
    builder = table.setdefault(name, functools.partial(_build_model, dict(options)))
    own = isinstance(builder, functools.partial) and builder.func is _build_model
    if not own or builder.args != (options,):
        taken = f"with the options {builder.args[0]}" if own else "by torchreid"
        raise ConfigError(f"model '{name}' is already registered {taken}; choose another name")


def _build_model(
    options: Mapping[str, Any], num_classes: int, loss: str = "softmax", pretrained: bool = True, use_gpu: bool = True
) -> Any:
    """Called by torchreid's ``build_model``."""
    from t2ireid_plugin.integrations.torchreid.model import T2IReIDImageModel

    return T2IReIDImageModel(num_classes, loss, pretrained, **options)


def private_table(module: Any, name: str) -> dict[str, Any]:
    """The private dict ``name`` of a module of torchreid, for which torchreid has no public function.

    Raises:
        DependencyError: when it does not exist, with torchreid's version.
    """
    table = getattr(module, name, None)
    if not isinstance(table, dict):
        import torchreid

        version = getattr(torchreid, "__version__", "of unknown version")
        raise DependencyError(
            f"torchreid {version}: no table {module.__name__}.{name}; use version 0.2.5 (PyPI) or 1.4.0 (GitHub)"
        )
    return table


def _dataset(**arguments: Any) -> CaptionDataset:
    """A `CaptionDataset`, imported late because its module imports torchreid, which may be importing this one."""
    from t2ireid_plugin.data.dataset import CaptionDataset

    return CaptionDataset(**arguments)
