"""Registration of our models and datasets with torchreid."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from t2ireid_plugin.data.benchmarks import BENCHMARKS, VAL_SUFFIX
from t2ireid_plugin.errors import ConfigError, check_choice, check_keys
from t2ireid_plugin.modeling.encoders.sources import check_library_model, library_model
from t2ireid_plugin.modeling.settings import check_branch

if TYPE_CHECKING:
    from t2ireid_plugin.data.dataset import CaptionDataset

# Model names with their options for `T2IReIDImageModel`; the backbone is ViT-B/16 unless they name one.
MODELS: dict[str, dict[str, Any]] = {
    "t2ireid_vit_mamba": {"branch": "identity"},
    "t2ireid_vit_mamba_cloth": {"branch": "clothing"},
    "t2ireid_vit_mamba_both": {"branch": "both"},
    "t2ireid_vit_mamba_fused": {"branch": "fused"},
    "t2ireid_resnet50": {"branch": "fused", "vit_pretrained": "torchreid:resnet50"},
    "t2ireid_osnet_x1_0": {"branch": "fused", "vit_pretrained": "torchreid:osnet_x1_0"},
}
# Heads by name, with disentangle.type and projection: the whole head, a projection of the backbone's own pooled token,
# and that token itself.
HEADS = {"disentangle": ("attention", "mlp"), "projection": ("none", "mlp"), "none": ("none", "none")}
LOSSES = ("softmax", "triplet")
IMAGE_KEY = "vit_pretrained"


def register() -> None:
    """Registers the models, LTCC and PRCC, and each benchmark as ``name`` (for its test split) and ``name_val``.

    A second call has no effect.

    Raises:
        ConfigError: when a model's name is taken by another plugin.
        ValueError: from torchreid, when a dataset's name is taken by another plugin.
    """
    from torchreid import data as torchreid_data

    for name, options in MODELS.items():
        _add_model(name, options)
    datasets = vars(torchreid_data.datasets)["__image_datasets"]  # torchreid has no public function
    for spec in BENCHMARKS.values():
        for name, split in ((spec.name, "test"), (spec.name + VAL_SUFFIX, "val")):
            if getattr(datasets.get(name), "func", None) is not _dataset:
                torchreid_data.register_image_dataset(name, functools.partial(_dataset, spec=spec, eval_split=split))
    from t2ireid_plugin.integrations.torchreid.clothes import DATASETS  # here, as it imports torchreid

    for name, dataset in DATASETS.items():
        if name not in datasets:  # other plugins register these too
            torchreid_data.register_image_dataset(name, dataset)


def register_model_variant(name: str, **options: Any) -> None:
    """Makes ``torchreid.models.build_model(name, …)`` build a `T2IReIDImageModel` with these options.

    The options are bound to the name because ``build_model`` cannot pass them. Registering the same name with the same
    options again has no effect.

    Args:
        name: not yet used in torchreid.
        **options: any of ``backbone``, ``head``, ``branch``, ``disentangle``, ``projection_dropout`` and ``fusion``,
            see `T2IReIDImageModel`, where the backbone is ``vit_pretrained``, which is accepted too.

    Raises:
        ConfigError: for an unknown option, backbone, head or branch, a combination that cannot work, or a name that is
            taken; the other values are checked when the model is built.
    """
    valid = ("backbone", "head", "branch", "disentangle", "projection_dropout", "fusion", "vit_pretrained")
    check_keys(f"options of model '{name}'", options, valid)
    if "backbone" in options:
        options = {IMAGE_KEY: options.pop("backbone"), **options}
    if model := library_model(options.get(IMAGE_KEY)):
        check_library_model(*model)
    check_choice("head", options.get("head", "disentangle"), HEADS)
    kind, projection = HEADS[options.get("head", "disentangle")]
    check_branch(options.get("branch", "identity"), {**options.get("disentangle", {}), "type": kind}, projection)
    _add_model(name, options)


def _add_model(name: str, options: Mapping[str, Any]) -> None:
    from torchreid import models

    builder = vars(models)["__model_factory"].setdefault(name, functools.partial(_build_model, dict(options)))
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


def _dataset(**arguments: Any) -> CaptionDataset:
    """A `CaptionDataset`, imported late because its module imports torchreid, which may be importing this one."""
    from t2ireid_plugin.data.dataset import CaptionDataset

    return CaptionDataset(**arguments)
