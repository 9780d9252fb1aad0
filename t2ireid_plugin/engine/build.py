"""From a configuration to data, model, losses and engine. Only builders see the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torchreid import data as torchreid_data
from torchreid import optim as torchreid_optim
from transformers import PreTrainedTokenizerBase
from yacs.config import CfgNode

from t2ireid_plugin.config import MODEL_NAME, choose, to_dict
from t2ireid_plugin.data.annotations import count, find_annotation, read_photos
from t2ireid_plugin.data.benchmarks import BENCHMARKS, BenchmarkSpec
from t2ireid_plugin.data.transforms import TRANSFORMS
from t2ireid_plugin.engine.optim import WarmupCosine, build_adamw
from t2ireid_plugin.engine.text_image import TEXT_FIELDS, TextImageEngine
from t2ireid_plugin.errors import ConfigError, DataError, EncoderError
from t2ireid_plugin.evaluation.metrics import EVALUATORS
from t2ireid_plugin.losses import LossTerms
from t2ireid_plugin.modeling.checkpoint import read_checkpoint
from t2ireid_plugin.modeling.encoders import Preprocess, check_source
from t2ireid_plugin.modeling.fusion import FUSIONS
from t2ireid_plugin.modeling.t2ireid import EMBED_DIM, T2IReIDModel
from t2ireid_plugin.modeling.tokenizer import learn_wordpiece, tokenizer_from_json, tokenizer_to_json
from t2ireid_plugin.registration import VAL_SUFFIX

SAMPLERS = (
    "RandomSampler",
    "SequentialSampler",
    "RandomIdentitySampler",
    "RandomDomainSampler",
    "RandomDatasetSampler",
)
# What a sampler divides a batch by.
_BATCH_DIVISORS = {
    "RandomIdentitySampler": "num_instances",
    "RandomDomainSampler": "num_cams",
    "RandomDatasetSampler": "num_datasets",
}
_LEAST = {
    "data.workers": 0,
    "sampler.num_instances": 1,
    "sampler.num_cams": 1,
    "sampler.num_datasets": 1,
    "train.lr": 0,
    "train.weight_decay": 0,
    "train.warmup_epochs": 0,
    "train.clip_grad": 0,
    "train.print_freq": 1,
    "train.seed": 0,
    "test.batch_size": 1,
}
SCHEDULERS = ("warmup_cosine", "single_step", "multi_step", "cosine")


def check_config(cfg: CfgNode) -> None:
    """Refuses, before anything is loaded, names that do not exist and settings that cannot work.

    Raises:
        ConfigError: naming the key, the value and what would be right.
    """
    datasets = [name + suffix for name in BENCHMARKS for suffix in ("", VAL_SUFFIX)]
    choose("model.name", cfg.model.name, (MODEL_NAME,))
    choose("model.fusion.type", cfg.model.fusion.type, tuple(FUSIONS))
    for key in ("sources", "targets", "val"):
        for name in cfg.data[key]:
            choose(f"data.{key}", name, datasets)
    for name in cfg.data.transforms:
        choose("data.transforms", name, TRANSFORMS)
    choose("data.id_instruction", cfg.data.id_instruction, tuple(TEXT_FIELDS))
    choose("data.cloth_instruction", cfg.data.cloth_instruction, tuple(TEXT_FIELDS))
    choose("sampler.train_sampler", cfg.sampler.train_sampler, SAMPLERS)
    choose("train.optim", cfg.train.optim, ("adamw",))
    choose("train.lr_scheduler", cfg.train.lr_scheduler, SCHEDULERS)
    choose("test.evaluator", cfg.test.evaluator, EVALUATORS)
    choose("loss.name", cfg.loss.name, ("terms",))
    for key, least in _LEAST.items():
        table, name = key.split(".")
        if not cfg[table][name] >= least:  # so that nan is refused too
            raise ConfigError(f"{key}: {cfg[table][name]} must be at least {least}")
    if cfg.data.k_tfm != 1:
        raise ConfigError(f"data.k_tfm: {cfg.data.k_tfm} views of an image are not supported, only 1")
    if not cfg.data.sources or not cfg.data.targets:
        raise ConfigError("data.sources and data.targets must each name a dataset")
    if cfg.train.batch_size < 2:
        raise ConfigError(
            f"train.batch_size: {cfg.train.batch_size} is too small, batch normalisation needs at least 2 samples"
        )
    divisor = _BATCH_DIVISORS.get(cfg.sampler.train_sampler)
    if divisor and cfg.train.batch_size % cfg.sampler[divisor]:
        raise ConfigError(
            f"train.batch_size {cfg.train.batch_size} is no multiple of sampler.{divisor} {cfg.sampler[divisor]}"
        )
    if not cfg.test.ranks or min(cfg.test.ranks) < 1 or 1 not in cfg.test.ranks:
        raise ConfigError(f"test.ranks: {cfg.test.ranks} must be positive and include 1, which chooses the checkpoint")
    LossTerms(to_dict(cfg.loss.terms), feature_dim=2, embed_dim=2)


def check_files(cfg: CfgNode) -> None:
    """Refuses missing datasets and encoders, all of them in one message, before anything slow happens.

    Raises:
        DataError: when datasets, and perhaps encoders, are missing.
        EncoderError: when only encoders are missing.
    """
    problems: list[DataError | EncoderError] = []
    for spec in _specs(cfg):
        try:
            find_annotation(cfg.data.root, spec)
        except DataError as error:
            problems.append(error)
    for key in ("vit_pretrained", "bert_base_path"):
        try:
            if cfg.model[key]:
                check_source(cfg.model[key], key)
        except EncoderError as error:
            problems.append(error)
    if problems:
        raise type(problems[0])("\n".join(map(str, problems)))


def build_model(cfg: CfgNode, tokenizer: PreTrainedTokenizerBase | None, num_classes: int) -> T2IReIDModel:
    """The model that ``cfg.model`` describes; ``tokenizer`` is for a text encoder with random weights."""
    return T2IReIDModel(
        {
            "vit_pretrained": cfg.model.vit_pretrained or to_dict(cfg.model.vit_config),
            "bert_base_path": cfg.model.bert_base_path or to_dict(cfg.model.bert_config),
            "num_classes": num_classes,
            "fusion": to_dict(cfg.model.fusion),
            "freeze_text": cfg.model.freeze_text,
            "max_length": cfg.model.max_length,
            "tokenizer": tokenizer,
        }
    )


def build_tokenizer(cfg: CfgNode, weights: str | Path | None = None) -> PreTrainedTokenizerBase | None:
    """For a text encoder without a vocabulary: the one stored beside ``weights``, else one learned from the captions.

    A pretrained text encoder brings its own, so None.
    """
    if cfg.model.bert_base_path:
        return None
    if weights:
        stored = read_checkpoint(weights).get("tokenizer")
        if stored is not None:
            return tokenizer_from_json(stored)
    captions = [
        text
        for spec in _specs(cfg, "sources")
        for photo in read_photos(cfg.data.root, spec)
        if photo.split == "train"
        for text in (*photo.captions, *photo.id_texts, *photo.cloth_texts)
    ]
    return learn_wordpiece(captions, cfg.model.bert_config.get("vocab_size", 2000))


def build_datamanager(cfg: CfgNode, preprocess: Preprocess, use_gpu: bool) -> Any:
    """torchreid's ``ImageDataManager`` over the sources, the targets and the val targets.

    What the configuration leaves empty, size and normalisation, is the image encoder's own.

    Raises:
        DataError: as `read_photos`, and when there are too few identities or captions for one batch.
    """
    _check_batch(cfg)
    height, width, mean, std = _preprocess(cfg, preprocess)
    manager = torchreid_data.ImageDataManager(
        root=cfg.data.root,
        sources=list(cfg.data.sources),
        targets=[*cfg.data.targets, *val_targets(cfg)],
        height=height,
        width=width,
        transforms=list(cfg.data.transforms),
        k_tfm=cfg.data.k_tfm,
        norm_mean=list(mean),
        norm_std=list(std),
        use_gpu=use_gpu,
        combineall=cfg.data.combineall,
        batch_size_train=cfg.train.batch_size,
        batch_size_test=cfg.test.batch_size,
        workers=cfg.data.workers,
        num_instances=cfg.sampler.num_instances,
        num_cams=cfg.sampler.num_cams,
        num_datasets=cfg.sampler.num_datasets,
        train_sampler=cfg.sampler.train_sampler,
    )
    if cfg.data.keep_images:
        for loader in (manager.train_loader, *(loaders["gallery"] for loaders in manager.test_loader.values())):
            loader.dataset.keep_images(width, height)
    return manager


def build_engine(cfg: CfgNode, datamanager: Any, model: T2IReIDModel, use_gpu: bool) -> TextImageEngine:
    """Losses, optimizer, schedule and engine for a model and its data."""
    device = torch.device("cuda" if use_gpu else "cpu")
    model.to(device)
    losses = LossTerms(
        to_dict(cfg.loss.terms), feature_dim=model.disentangle.id_linear.out_features, embed_dim=EMBED_DIM
    )
    losses.to(device)
    encoder_mult = cfg.train.base_lr_mult if cfg.train.staged_lr else 1.0
    optimizer = build_adamw(
        model,
        losses,
        lr=cfg.train.lr,
        encoder_lr=cfg.train.lr * encoder_mult,
        weight_decay=cfg.train.weight_decay,
        betas=(cfg.adam.beta1, cfg.adam.beta2),
    )
    return TextImageEngine(
        datamanager,
        model,
        losses,
        optimizer,
        _build_scheduler(cfg, optimizer),
        use_gpu=use_gpu,
        val_targets=val_targets(cfg),
        id_instruction=cfg.data.id_instruction,
        cloth_instruction=cfg.data.cloth_instruction,
        clip_grad=cfg.train.clip_grad,
        evaluator=cfg.test.evaluator,
        ranks=cfg.test.ranks,
        extra_state=_extra_state(cfg, model),
    )


def val_targets(cfg: CfgNode) -> list[str]:
    """Val targets that are not test targets as well."""
    return [name for name in cfg.data.val if name not in cfg.data.targets]


def dataset_counts(cfg: CfgNode) -> dict[str, dict[str, dict[str, int]]]:
    """Images, identities and captions of each dataset and split in use."""
    return {
        spec.name: {
            split: count(p for p in read_photos(cfg.data.root, spec) if p.split == split)._asdict()
            for split in ("train", "val", "test")
        }
        for spec in _specs(cfg)
    }


def _specs(cfg: CfgNode, *keys: str) -> list[BenchmarkSpec]:
    names = [name for key in keys or ("sources", "targets", "val") for name in cfg.data[key]]
    return [BENCHMARKS[name] for name in dict.fromkeys(name.removesuffix(VAL_SUFFIX) for name in names)]


def _check_batch(cfg: CfgNode) -> None:
    """torchreid's sampler would stop with a bare assertion, or an epoch would have no batch at all."""
    pids: set[tuple[str, int]] = set()
    captions = 0
    for spec in _specs(cfg, "sources"):
        train = [p for p in read_photos(cfg.data.root, spec) if p.split == "train"]
        pids |= {(spec.name, p.pid) for p in train}
        captions += sum(len(p.captions) for p in train)
    wanted = cfg.train.batch_size // cfg.sampler.num_instances
    if cfg.sampler.train_sampler == "RandomIdentitySampler" and len(pids) < wanted:
        raise DataError(
            f"the training split has {len(pids)} identities, but a batch takes {wanted} "
            f"(train.batch_size {cfg.train.batch_size} / sampler.num_instances {cfg.sampler.num_instances})"
        )
    if captions < cfg.train.batch_size:
        raise DataError(
            f"the training split has {captions} captions, fewer than train.batch_size {cfg.train.batch_size}"
        )


def _build_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
    if cfg.train.lr_scheduler == "warmup_cosine":
        return WarmupCosine(optimizer, cfg.train.max_epoch, cfg.train.warmup_epochs, cfg.train.final_lr_mult)
    return torchreid_optim.build_lr_scheduler(
        optimizer,
        lr_scheduler=cfg.train.lr_scheduler,
        stepsize=cfg.train.stepsize,
        gamma=cfg.train.gamma,
        max_epoch=cfg.train.max_epoch,
    )


def _preprocess(cfg: CfgNode, own: Preprocess) -> Preprocess:
    """What the configuration sets of size and normalisation, and the image encoder's own for the rest."""
    return Preprocess(
        cfg.data.height or own.height,
        cfg.data.width or own.width,
        tuple(cfg.data.norm_mean or own.mean),
        tuple(cfg.data.norm_std or own.std),
    )


def _extra_state(cfg: CfgNode, model: T2IReIDModel) -> dict[str, Any]:
    """What a checkpoint needs besides weights to be used right: the preprocessing and a learned vocabulary."""
    height, width, mean, std = _preprocess(cfg, model.preprocess)
    extra: dict[str, Any] = {"preprocess": {"height": height, "width": width, "mean": list(mean), "std": list(std)}}
    if not cfg.model.bert_base_path:
        extra["tokenizer"] = tokenizer_to_json(model.text_cache.tokenizer)
    return extra
