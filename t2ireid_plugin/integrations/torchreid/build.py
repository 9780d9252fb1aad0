"""Builders: from an image-only configuration to torchreid's datasets, model, optimizer and engine."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from PIL import Image
from torch import nn
from torchreid import data as torchreid_data
from torchreid import models as torchreid_models
from torchreid import optim as torchreid_optim
from yacs.config import CfgNode

from t2ireid_plugin.config import to_dict
from t2ireid_plugin.engine.build import (
    build_preprocess,
    build_scheduler,
    loader_options,
    optimizer_options,
    sampler_options,
)
from t2ireid_plugin.engine.record import record_settings
from t2ireid_plugin.errors import DataError, EncoderError, T2IReIDError, check_choice
from t2ireid_plugin.integrations.torchreid.checks import head_name
from t2ireid_plugin.integrations.torchreid.engine import SoftmaxEngine, TripletEngine
from t2ireid_plugin.integrations.torchreid.model import T2IReIDImageModel
from t2ireid_plugin.integrations.torchreid.registration import MODELS
from t2ireid_plugin.modeling.encoders.loading import IMAGE_KEY
from t2ireid_plugin.modeling.encoders.preprocess import Preprocess
from t2ireid_plugin.modeling.stored import preprocess_entry
from t2ireid_plugin.utils.progress import show_progress
from t2ireid_plugin.utils.text import first_line

# torchreid's default image size and ImageNet's normalisation, for torchreid's models.
_TORCHREID_PREPROCESS = Preprocess(256, 128, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def load_datasets(cfg: CfgNode) -> dict[str, Any]:
    """Sources and targets by name, with every image decoded once: torchreid's reader retries a damaged one forever.

    Raises:
        DataError: naming the dataset, and the file or torchreid's error.
    """
    datasets = {}
    for name in dict.fromkeys([*cfg.data.sources, *cfg.data.targets]):
        try:
            dataset = torchreid_data.datasets.init_image_dataset(
                name,
                root=cfg.data.root,
                mode="train",
                verbose=False,
                combineall=cfg.data.combineall,
                **_dataset_options(cfg),
            )
        except Exception as error:  # of any class: assertions, downloads, indexing
            raise DataError(f"{name}: torchreid cannot read it in '{cfg.data.root}': {first_line(error)}") from error
        _check_readable(name, [item[0] for part in ("train", "query", "gallery") for item in getattr(dataset, part)])
        datasets[name] = dataset
    return datasets


def _check_readable(name: str, paths: list[str]) -> None:
    """Decodes every image, as torchreid's reader will.

    Raises:
        DataError: naming the first image that cannot be decoded, and how many more there are.
    """

    def problem(path: str) -> str:
        try:
            with Image.open(path) as image:
                image.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return f"'{path}' ({first_line(error)})"
        return ""

    with ThreadPoolExecutor() as pool:
        results = show_progress(pool.map(problem, paths), len(paths), f"reading {name}", " images")
        problems = [result for result in results if result]
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise DataError(f"{name}: unreadable image {problems[0]}{more}")


def dataset_counts(datasets: dict[str, Any]) -> dict[str, dict[str, dict[str, int]]]:
    """Images, identities and cameras of each dataset and part."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for name, dataset in datasets.items():
        for part in ("train", "query", "gallery"):
            items = getattr(dataset, part)
            numbers = {"images": len(items), "ids": dataset.get_num_pids(items), "cameras": dataset.get_num_cams(items)}
            counts.setdefault(name, {})[part] = numbers
    return counts


def build_image_model(cfg: CfgNode, num_classes: int, pretrained: bool = True) -> nn.Module:
    """torchreid's model, or `T2IReIDImageModel` with the settings of ``cfg.model``.

    Args:
        cfg: a checked configuration.
        num_classes: training identities.
        pretrained: False ignores ``model.pretrained``, because other weights will be loaded.

    Raises:
        EncoderError: when weights are missing and cannot be downloaded.
        ConfigError: for layers that the model does not have.
    """
    pretrained = pretrained and cfg.model.pretrained
    if cfg.model.name in MODELS:
        options = {
            IMAGE_KEY: cfg.model.vit_pretrained or to_dict(cfg.model.vit_config),
            "head": head_name(cfg),
            "disentangle": to_dict(cfg.model.disentangle),
            "projection_dropout": cfg.model.projection_dropout,
            **MODELS[cfg.model.name],
        }
        if options["branch"] == "fused":
            options["fusion"] = to_dict(cfg.model.fusion)
        model: nn.Module = T2IReIDImageModel(num_classes, cfg.loss.name, pretrained, **options)
    else:
        try:
            use_gpu = cfg.use_gpu and torch.cuda.is_available()  # some models create tensors there
            model = torchreid_models.build_model(cfg.model.name, num_classes, cfg.loss.name, pretrained, use_gpu)
        except T2IReIDError:
            raise
        except Exception as error:
            if not pretrained:
                raise
            raise EncoderError(
                f"model.pretrained: torchreid cannot get the weights of {cfg.model.name} ({first_line(error)}); set "
                "it to False to start from random weights"
            ) from error
    # torchreid would ignore the name of a missing layer or fail with an assertion.
    children = [name for name, _ in model.named_children()]
    for key, used in (("open_layers", cfg.train.fixbase_epoch > 0), ("new_layers", cfg.train.staged_lr)):
        for name in cfg.train[key] or () if used else ():
            check_choice(f"train.{key}", name, children)
    return model


def image_preprocess(cfg: CfgNode, model: nn.Module) -> Preprocess:
    """Size and normalisation: ``cfg.data`` where set, the model's own values otherwise.

    Raises:
        ConfigError: when our model cannot read images of that size.
    """
    if isinstance(model, T2IReIDImageModel):
        return build_preprocess(cfg, model.preprocess, model.visual_encoder.config)
    return build_preprocess(cfg, _TORCHREID_PREPROCESS, None)


def build_image_datamanager(cfg: CfgNode, preprocess: Preprocess, use_gpu: bool) -> Any:
    """torchreid's data manager, which builds the datasets again by name."""
    return torchreid_data.ImageDataManager(
        root=cfg.data.root,
        sources=list(cfg.data.sources),
        targets=list(cfg.data.targets),
        height=preprocess.height,
        width=preprocess.width,
        transforms=list(cfg.data.transforms),
        norm_mean=list(preprocess.mean),
        norm_std=list(preprocess.std),
        combineall=cfg.data.combineall,
        **loader_options(cfg, use_gpu),
        **sampler_options(cfg),
        **_dataset_options(cfg),
    )


def _dataset_options(cfg: CfgNode) -> dict[str, Any]:
    return {
        "split_id": cfg.data.split_id,
        "cuhk03_labeled": cfg.cuhk03.labeled_images,
        "cuhk03_classic_split": cfg.cuhk03.classic_split,
        "market1501_500k": cfg.market1501.use_500k_distractors,
    }


def build_image_engine(
    cfg: CfgNode,
    datamanager: Any,
    model: nn.Module,
    preprocess: Preprocess,
    use_gpu: bool,
    data: Mapping[str, str],
) -> SoftmaxEngine | TripletEngine:
    """torchreid's optimizer, schedule and engine; ``data`` are digests of the sources."""
    if use_gpu:
        model = model.cuda()
        model = nn.DataParallel(model) if torch.cuda.device_count() > 1 else model
    optimizer = torchreid_optim.build_optimizer(
        model,
        optim=cfg.train.optim,
        lr=cfg.train.lr,
        weight_decay=cfg.train.weight_decay,
        **optimizer_options(cfg),
        staged_lr=cfg.train.staged_lr,
        new_layers=list(cfg.train.new_layers),
        base_lr_mult=cfg.train.base_lr_mult,
    )
    options: dict[str, Any] = {
        "optimizer": optimizer,
        "scheduler": build_scheduler(cfg, optimizer),
        "use_gpu": use_gpu,
        "label_smooth": cfg.loss.softmax.label_smooth,
        "seed": cfg.train.seed,
        "evaluator": cfg.test.evaluator,
        "samples": cfg.test.bootstrap,
        "rerank": cfg.test.rerank,
        "record": {
            "config": record_settings(cfg, preprocess),
            "preprocess": preprocess_entry(preprocess),
            "held_out": {},
            "data": dict(data),
        },
    }
    if cfg.loss.name == "softmax":
        return SoftmaxEngine(datamanager, model, **options)
    weights = {key: cfg.loss.triplet[key] for key in ("margin", "weight_t", "weight_x")}
    return TripletEngine(datamanager, model, **weights, **options)
