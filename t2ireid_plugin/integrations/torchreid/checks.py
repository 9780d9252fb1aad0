"""Checks of an image-only configuration, before anything slow happens.

What torchreid does not define is checked before torchreid and PyTorch are imported.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from t2ireid_plugin.config import MODEL_NAME, changed_keys, to_dict
from t2ireid_plugin.data.benchmarks import BENCHMARKS, VAL_SUFFIX
from t2ireid_plugin.engine.checks import check_common, check_image_size, check_weights, raise_together
from t2ireid_plugin.errors import ConfigError, DataError, check_choice
from t2ireid_plugin.integrations.torchreid.registration import HEADS, LOSSES, MODELS
from t2ireid_plugin.modeling.encoders.loading import IMAGE_KEY, check_source, stored_config
from t2ireid_plugin.modeling.settings import check_branch

# torchreid ignores a name that it does not know.
TRANSFORMS = ("random_flip", "random_crop", "random_patch", "color_jitter", "random_erase")
# Settings with an effect, by table; tables that are not listed have an effect as a whole.
_USED = {
    "model": ("name", "pretrained", "load_weights", "resume"),
    "data": (
        *("type", "root", "sources", "targets", "workers", "split_id", "height", "width", "combineall"),
        *("transforms", "k_tfm", "norm_mean", "norm_std", "save_dir"),
    ),
    "sampler": ("train_sampler", "num_instances", "num_cams", "num_datasets"),
    "video": (),
    "cuhk03": ("labeled_images", "classic_split"),
    "train": (
        *("optim", "lr", "weight_decay", "max_epoch", "start_epoch", "batch_size", "fixbase_epoch", "open_layers"),
        *("staged_lr", "new_layers", "base_lr_mult", "lr_scheduler", "stepsize", "gamma", "print_freq", "seed"),
    ),
    "adam": ("beta1", "beta2"),
    "loss": ("name", "softmax", "triplet"),
    "test": (
        *("batch_size", "dist_metric", "normalize_feature", "ranks", "evaluate", "eval_freq", "start_eval", "rerank"),
        *("visrank", "visrank_topk", "evaluator", "bootstrap"),
    ),
}
_OUR_MODELS = ("disentangle", "projection", "projection_dropout")  # more keys of the table model, for our models
_REASONS = {
    "cuhk03.use_metric_cuhk03": "torchreid's metric for CUHK03 does not run on NumPy 1.24 and later",
    "data.load_train_targets": "torchreid's softmax and triplet engines train on the sources alone",
    "data.val": "torchreid's datasets have no val split; the last epoch is tested",
}


def check_config(cfg: CfgNode) -> None:
    """Refuses unknown names, settings that cannot work and settings without effect.

    Raises:
        ConfigError: naming the key, its value and what is valid.
    """
    check_common(cfg)
    check_choice("data.type", cfg.data.type, ("image",))
    check_choice("loss.name", cfg.loss.name, LOSSES if cfg.model.name != MODEL_NAME else ("terms", *LOSSES))
    for name in cfg.data.transforms:
        check_choice("data.transforms", name, TRANSFORMS)
    check_choice("test.dist_metric", cfg.test.dist_metric, ("euclidean", "cosine"))
    weight_t, weight_x = cfg.loss.triplet.weight_t, cfg.loss.triplet.weight_x
    if cfg.loss.name == "triplet" and (min(weight_t, weight_x) < 0 or weight_t + weight_x <= 0):
        raise ConfigError(f"loss.triplet: weight_t {weight_t} and weight_x {weight_x} must be at least 0, one above")
    if cfg.loss.name == "triplet" and weight_x == 0 and cfg.train.fixbase_epoch > 0:
        raise ConfigError(
            f"train.fixbase_epoch: {cfg.train.fixbase_epoch} must be 0; with loss.triplet.weight_x 0 the classifier "
            "is not trained"
        )
    _check_names_of_torchreid(cfg)
    used = {**_USED, "model": (*_USED["model"], *_model_keys(cfg))}
    for name, value in changed_keys(cfg).items():
        table, _, key = name.partition(".")
        if table in used and key.partition(".")[0] not in used[table]:
            why = _REASONS.get(name, "it belongs to the text-image model, loss.name terms")
            raise ConfigError(
                f"{name}: {value!r} has no effect on {cfg.model.name} with loss.name {cfg.loss.name}; {why}"
            )


def _model_keys(cfg: CfgNode) -> list[str]:
    """Keys of the table model that one of our models reads, besides those of torchreid's."""
    if cfg.model.name not in MODELS:
        return []
    options = MODELS[cfg.model.name]
    check_branch(options["branch"], to_dict(cfg.model.disentangle), cfg.model.projection)
    head_name(cfg)
    backbone = [] if IMAGE_KEY in options else ["vit_pretrained", "vit_config"]
    return [*_OUR_MODELS, *backbone, *["fusion"] * (options["branch"] == "fused")]


def head_name(cfg: CfgNode) -> str:
    """The name in `HEADS` of the head that a configuration describes.

    Raises:
        ConfigError: for a combination without a name.
    """
    pair = cfg.model.disentangle.type, cfg.model.projection
    for name, valid in HEADS.items():
        if valid == pair:
            return name
    raise ConfigError(f"model.projection: {pair[1]} needs model.disentangle.type none, not {pair[0]}")


def _check_names_of_torchreid(cfg: CfgNode) -> None:
    from torchreid import models, optim

    from t2ireid_plugin.utils.distributed import world_size

    if world_size() > 1:
        raise ConfigError(
            f"torchrun: torchreid's engines train in one process, not {world_size()}; start without torchrun, or set "
            "loss.name terms"
        )
    check_choice("model.name", cfg.model.name, tuple(vars(models)["__model_factory"]))
    for key in ("sources", "targets"):
        for name in cfg.data[key]:
            if name.removesuffix(VAL_SUFFIX) in BENCHMARKS:
                raise ConfigError(
                    f"data.{key}: '{name}' has texts as queries, which {cfg.model.name} with loss.name "
                    f"{cfg.loss.name} does not read; valid: {', '.join(image_datasets())}"
                )
            check_choice(f"data.{key}", name, tuple(image_datasets()))
    check_choice("train.optim", cfg.train.optim, tuple(optim.optimizer.AVAI_OPTIMS))
    check_choice("train.lr_scheduler", cfg.train.lr_scheduler, tuple(optim.lr_scheduler.AVAI_SCH))


def image_datasets() -> list[str]:
    """Names of torchreid's image datasets, including those of other plugins; ours have texts as queries."""
    return [name for name in _datasets() if name.removesuffix(VAL_SUFFIX) not in BENCHMARKS]


def check_files(cfg: CfgNode, encoders: bool = True) -> None:
    """Refuses missing datasets and, with ``encoders``, a missing encoder, all in one message, before anything slow.

    Raises:
        DataError: when a dataset is missing that torchreid cannot download, and perhaps the image encoder.
        EncoderError: when only the image encoder is missing.
        ConfigError: for a size that the encoder's patches do not divide.
    """
    names = dict.fromkeys([*cfg.data.sources, *cfg.data.targets])
    checks = [functools.partial(_check_folder, cfg, name) for name in names]
    if encoders:
        checks.append(functools.partial(check_weights, cfg))
    if cfg.model.vit_pretrained and cfg.model.pretrained and encoders:
        checks.append(functools.partial(check_source, cfg.model.vit_pretrained, IMAGE_KEY))
    raise_together(checks)
    if cfg.model.name in MODELS and IMAGE_KEY not in MODELS[cfg.model.name]:
        encoder = stored_config(cfg.model.vit_pretrained or to_dict(cfg.model.vit_config), IMAGE_KEY)
        check_image_size(encoder, cfg.data.height, cfg.data.width, to_dict(cfg.model.disentangle))


def _check_folder(cfg: CfgNode, name: str) -> None:
    dataset = _datasets()[name]
    folder = Path(cfg.data.root, getattr(dataset, "dataset_dir", None) or "")  # not every dataset class has one
    if not folder.is_dir() and not getattr(dataset, "dataset_url", None):
        raise DataError(f"{name}: no folder '{folder}'; torchreid's documentation of datasets describes its content")


def _datasets() -> dict[str, Any]:
    from torchreid import data

    return vars(data.datasets)["__image_datasets"]
