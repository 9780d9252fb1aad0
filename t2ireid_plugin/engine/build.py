"""From a configuration to data, model, losses and engine. Only builders see the configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torchreid import optim as torchreid_optim
from transformers import PreTrainedTokenizerBase
from yacs.config import CfgNode

from t2ireid_plugin.config import image_only, to_dict
from t2ireid_plugin.data.annotations import check_images, find_annotation
from t2ireid_plugin.data.benchmarks import BENCHMARKS, VAL_SUFFIX, BenchmarkSpec
from t2ireid_plugin.data.dataset import CaptionDataset
from t2ireid_plugin.data.item_table import CAMID, DSETID, PATH, PID, labels
from t2ireid_plugin.data.manager import CaptionDataManager
from t2ireid_plugin.data.transforms import TestTransform, TrainTransform
from t2ireid_plugin.engine.checks import BATCH_DIVISORS
from t2ireid_plugin.engine.ema import build_ema
from t2ireid_plugin.engine.failures import BadImageCounter, NonFiniteGuard
from t2ireid_plugin.engine.memory import Precision, encode_in_parts, keep_block_inputs_only
from t2ireid_plugin.engine.optim import WarmupCosine, build_adamw
from t2ireid_plugin.engine.text_image import TextImageEngine
from t2ireid_plugin.errors import ConfigError, DataError, EncoderError, InputError
from t2ireid_plugin.integrations.torchreid.checks import check_image_files
from t2ireid_plugin.losses import LossTerms
from t2ireid_plugin.losses.terms import comparing_photos
from t2ireid_plugin.modeling.checkpoint import read_vocabulary
from t2ireid_plugin.modeling.encoders.families import check_size
from t2ireid_plugin.modeling.encoders.loading import check_source
from t2ireid_plugin.modeling.encoders.preprocess import Preprocess
from t2ireid_plugin.modeling.encoders.tokenizer import learn_wordpiece, tokenizer_from_json, tokenizer_to_json
from t2ireid_plugin.modeling.t2ireid import EMBED_DIM, T2IReIDModel
from t2ireid_plugin.utils.distributed import rank, world_size

# What a sampler that divides the data does that by: the column of an item that tells it, and its name.
_GROUPS = {"RandomDomainSampler": (CAMID, "cameras"), "RandomDatasetSampler": (DSETID, "datasets")}


def check_files(cfg: CfgNode) -> None:
    """Refuses missing datasets and encoders, all of them in one message, before anything slow happens.

    Raises:
        DataError: when datasets, and perhaps encoders, are missing.
        EncoderError: when only encoders are missing.
    """
    if image_only(cfg):
        return check_image_files(cfg)
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
    """The model that ``cfg.model`` describes; ``tokenizer`` is for a text encoder with random weights.

    Raises:
        ConfigError: when the image encoder cannot read images of ``data.height`` x ``data.width``.
    """
    model = T2IReIDModel(
        {
            "vit_pretrained": cfg.model.vit_pretrained or to_dict(cfg.model.vit_config),
            "bert_base_path": cfg.model.bert_base_path or to_dict(cfg.model.bert_config),
            "num_classes": num_classes,
            "disentangle": to_dict(cfg.model.disentangle),
            "fusion": to_dict(cfg.model.fusion),
            "freeze_text": cfg.model.freeze_text,
            "max_length": cfg.model.max_length,
            "tokenizer": tokenizer,
        }
    )
    size = _preprocess(cfg, model.preprocess)[:2]
    try:
        check_size(model.visual_encoder.config, *size)
    except InputError as error:
        raise ConfigError(f"data.height {size[0]}, data.width {size[1]}: {error}") from error
    return model


def build_tokenizer(cfg: CfgNode, weights: str | Path | None = None) -> PreTrainedTokenizerBase | None:
    """For a text encoder without a vocabulary: the one stored beside ``weights``, else one learned from the captions.

    A pretrained text encoder brings its own, so None.
    """
    if cfg.model.bert_base_path:
        return None
    if weights:
        stored = read_vocabulary(weights)
        if stored is not None:
            return tokenizer_from_json(stored)
    texts = set().union(*(dataset.train.all_texts() for dataset in build_sources(cfg).values()))
    return learn_wordpiece(texts, cfg.model.bert_config.get("vocab_size", 2000))


def build_sources(cfg: CfgNode) -> dict[str, CaptionDataset]:
    """The training datasets by name, without transforms."""
    return {name: _dataset(cfg, name) for name in cfg.data.sources}


def build_datasets(cfg: CfgNode) -> dict[str, CaptionDataset]:
    """Sources, targets and val targets by name, without transforms; each benchmark is read once."""
    datasets: dict[str, CaptionDataset] = {}
    for name in dict.fromkeys([*cfg.data.sources, *cfg.data.targets, *val_targets(cfg)]):
        base = name.removesuffix(VAL_SUFFIX)
        if base not in datasets:
            datasets[base] = _dataset(cfg, base)
        if name != base:
            datasets[name] = datasets[base].with_eval_split("val")
    return {name: datasets[name] for name in [*cfg.data.sources, *cfg.data.targets, *val_targets(cfg)]}


def build_datamanager(
    cfg: CfgNode, preprocess: Preprocess, use_gpu: bool, mask_token: str | None = None
) -> CaptionDataManager:
    """Loaders over the sources, the targets and the val targets.

    What the configuration leaves empty, size and normalisation, is the image encoder's own.

    Raises:
        DataError: as `read_photos` and `check_images`, and when there are too few identities or captions for a batch.
    """
    targets = [*cfg.data.targets, *val_targets(cfg)]
    datasets = build_datasets(cfg)
    sources = [datasets[name] for name in cfg.data.sources]
    check_batch(cfg, sources, "the training split has", "identities", "captions")
    _check_all_images(cfg, datasets)
    height, width, mean, std = _preprocess(cfg, preprocess)
    return CaptionDataManager(
        datasets,
        list(cfg.data.sources),
        targets,
        TrainTransform(height, width, mean, std, cfg.data.transforms, mask_token),
        TestTransform(height, width, mean, std),
        batch_size_train=cfg.train.batch_size,
        batch_size_test=cfg.test.batch_size,
        workers=cfg.data.workers,
        use_gpu=use_gpu,
        sampler={
            "train_sampler": cfg.sampler.train_sampler,
            "num_instances": cfg.sampler.num_instances,
            "num_cams": cfg.sampler.num_cams,
            "num_datasets": cfg.sampler.num_datasets,
        },
        keep_images=cfg.data.keep_images,
        seed=cfg.train.seed,
        replace_bad_images=cfg.data.on_bad_image == "skip",
        share=(rank(), world_size()),
    )


def build_engine(cfg: CfgNode, datamanager: Any, model: T2IReIDModel, use_gpu: bool) -> TextImageEngine:
    """Losses, optimizer, schedule and engine for a model and its data."""
    device = torch.device("cuda" if use_gpu else "cpu")
    model.to(device)
    if cfg.train.compile:
        model.compile_parts()
    losses = LossTerms(
        to_dict(cfg.loss.terms),
        feature_dim=model.disentangle.id_linear.out_features,
        embed_dim=EMBED_DIM,
        num_classes=model.id_classifier.out_features,
        vocab_size=model.text_encoder.config.vocab_size,
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
        bias_lr_mult=cfg.train.bias_lr_mult,
        layer_decay=cfg.train.layer_decay,
    )
    engine = TextImageEngine(
        datamanager,
        model,
        losses,
        optimizer,
        _build_scheduler(cfg, optimizer),
        use_gpu=use_gpu,
        precision=Precision(cfg.train.precision, device.type),
        val_targets=val_targets(cfg),
        id_instruction=cfg.data.id_instruction,
        cloth_instruction=cfg.data.cloth_instruction,
        clip_grad=cfg.train.clip_grad,
        ema=build_ema(model, cfg.train.ema_decay) if cfg.train.ema_decay > 0 else None,
        evaluator=cfg.test.evaluator,
        ranks=cfg.test.ranks,
        identity_weight=cfg.test.identity_weight,
        sequence=_sequence(cfg, len(datamanager.train_loader.dataset)),
        non_finite=NonFiniteGuard(cfg.train.nonfinite_patience),
        bad_images=BadImageCounter(datamanager.train_loader.dataset.train.distinct(PATH), cfg.data.bad_image_share),
        save_minutes=cfg.train.save_minutes,
        save_steps=cfg.train.save_steps,
        extra_state=_extra_state(cfg, model),
    )
    _save_memory(cfg, model)  # last, for the moving average is a copy that does not need it
    return engine


def _save_memory(cfg: CfgNode, model: T2IReIDModel) -> None:
    for encoder in [model.visual_encoder] + ([] if cfg.model.freeze_text else [model.text_encoder]):
        if cfg.train.checkpoint_encoders:
            keep_block_inputs_only(encoder)
        if cfg.train.encode_at_once:
            encode_in_parts(encoder, cfg.train.encode_at_once)


def _sequence(cfg: CfgNode, captions: int) -> dict[str, Any]:
    """What the sequence of training batches follows from."""
    sampler = cfg.sampler.train_sampler
    names = ["train.seed", "train.batch_size", "sampler.train_sampler", "data.sources", "data.transforms"]
    names += ["data.height", "data.width", "data.val_share", "data.val_seed"]  # the last two say who is held out
    names += [f"sampler.{BATCH_DIVISORS[sampler]}"] if sampler in BATCH_DIVISORS else []
    tables = (name.split(".") for name in names)
    return {**{f"{table}.{name}": cfg[table][name] for table, name in tables}, "training captions": captions}


def val_targets(cfg: CfgNode) -> list[str]:
    """Val targets that are not test targets as well; without ``data.val`` the val split of each source."""
    names = [name + VAL_SUFFIX for name in cfg.data.sources] if cfg.data.val is None else cfg.data.val
    return [name for name in names if name not in cfg.data.targets]


def dataset_counts(cfg: CfgNode) -> dict[str, dict[str, dict[str, int]]]:
    """Images, identities and captions of each dataset and split in use."""
    datasets = {spec.name: _dataset(cfg, spec.name) for spec in _specs(cfg)}
    return {
        name: {split: counts._asdict() for split, counts in dataset.counts.items()}
        for name, dataset in datasets.items()
    }


def _specs(cfg: CfgNode) -> list[BenchmarkSpec]:
    names = [*cfg.data.sources, *cfg.data.targets, *val_targets(cfg)]
    return [BENCHMARKS[name] for name in dict.fromkeys(name.removesuffix(VAL_SUFFIX) for name in names)]


def _dataset(cfg: CfgNode, name: str) -> CaptionDataset:
    return CaptionDataset(cfg.data.root, spec=BENCHMARKS[name], verbose=False, **_dataset_options(cfg, name))


def _dataset_options(cfg: CfgNode, name: str) -> dict[str, Any]:
    """Identities are held out only of a set whose val split is evaluated on."""
    has_val = name.removesuffix(VAL_SUFFIX) + VAL_SUFFIX in (*cfg.data.targets, *val_targets(cfg))
    return {
        "val_share": cfg.data.val_share if has_val else 0.0,
        "val_seed": cfg.data.val_seed,
        "combineall": cfg.data.combineall,
    }


def _check_all_images(cfg: CfgNode, datasets: dict[str, CaptionDataset]) -> None:
    """Once before a run, every image of every set in use: a download that broke off shows here, not in epoch 40.

    Where bad training images are replaced, only those that must be there: figures are of all images or of none.
    """
    skip: set[str] = set()
    if cfg.data.on_bad_image == "skip":
        skip.update(*(datasets[name].train.paths() for name in cfg.data.sources))
    paths = dict.fromkeys(path for dataset in datasets.values() for path in dataset.image_paths())
    check_images([path for path in paths if path not in skip])


def check_batch(cfg: CfgNode, sources: Iterable[Any], owner: str, ids_are: str, items_are: str) -> None:
    """torchreid's sampler would stop with a bare assertion, or an epoch would have no batch at all.

    Args:
        cfg: with sizes of batches.
        sources: the datasets that are trained on.
        owner, ids_are, items_are: for messages, such as "the training split has", "identities" and "captions".

    Raises:
        DataError: when there are too few identities or items for a batch, or too few cameras or datasets.
    """
    ids, items = (sum(numbers) for numbers in zip(*((source.num_train_pids, len(source.train)) for source in sources)))
    wanted = cfg.train.batch_size // cfg.sampler.num_instances
    if cfg.sampler.train_sampler == "RandomIdentitySampler" and ids < wanted:
        raise DataError(
            f"{owner} {ids} {ids_are}, but a batch takes {wanted} "
            f"(train.batch_size {cfg.train.batch_size} / sampler.num_instances {cfg.sampler.num_instances})"
        )
    if items < cfg.train.batch_size:
        raise DataError(f"{owner} {items} {items_are}, fewer than train.batch_size {cfg.train.batch_size}")
    if cfg.sampler.train_sampler in _GROUPS:
        key, (column, groups_are) = BATCH_DIVISORS[cfg.sampler.train_sampler], _GROUPS[cfg.sampler.train_sampler]
        wanted, share = cfg.sampler[key], cfg.train.batch_size // cfg.sampler[key]
        sizes = [n for source in sources for n in Counter(item[column] for item in labels(source.train)).values()]
        if len(sizes) < wanted or min(sizes) < share:
            raise DataError(
                f"{owner} {len(sizes)} {groups_are}, the smallest of {min(sizes)} {items_are}, but "
                f"{cfg.sampler.train_sampler} takes {wanted} for a batch (sampler.{key}), {share} {items_are} of each"
            )


def check_several_photos(cfg: CfgNode) -> None:
    """A term that compares photos of one person would always be 0 where everybody has one.

    Raises:
        DataError: naming the term.
    """
    sources = build_sources(cfg)
    tables = [dataset.train.columns for dataset in sources.values()]
    if any(len(table[:, [PATH, PID]].unique(dim=0)) > len(table[:, PID].unique()) for table in tables):
        return
    for name in comparing_photos(cfg.loss.terms):
        raise DataError(
            f"loss '{name}' compares photos of one person, and nobody in {', '.join(sources)} has two to train on: "
            f"it would always be 0; set loss.terms.{name}.weight 0"
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
