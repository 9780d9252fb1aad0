"""Checks of configuration and data for the training on images with texts, and those that every training shares.

`check_config` and `check_files` import neither PyTorch nor torchreid, so that a wrong setting is reported at once.
"""

from __future__ import annotations

import functools
import operator
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from yacs.config import CfgNode

from t2ireid_plugin.config import TRANSFORMS, changed_keys, get_setting, to_dict
from t2ireid_plugin.data.annotations import find_annotation
from t2ireid_plugin.data.benchmarks import BENCHMARKS, VAL_SUFFIX
from t2ireid_plugin.data.pretraining import PRETRAINING, is_pretraining, spec_of
from t2ireid_plugin.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    InputError,
    T2IReIDError,
    check_choice,
    short_repr,
)
from t2ireid_plugin.evaluation.protocols import EVALUATORS, OFFICIAL, PROTOCOLS, with_baselines
from t2ireid_plugin.losses import LOSSES
from t2ireid_plugin.modeling.encoders.backbones import token_reader
from t2ireid_plugin.modeling.encoders.loading import IMAGE_KEY, TEXT_KEY, check_source, stored_config
from t2ireid_plugin.modeling.ranking import CAPTION, CLOTH_INSTRUCTIONS, ID_INSTRUCTIONS
from t2ireid_plugin.modeling.settings import FUSIONS, POSITIONS, check_model, check_rows

# The setting that a sampler divides a batch by.
BATCH_DIVISORS = {
    "RandomIdentitySampler": "num_instances",
    "RandomDomainSampler": "num_cams",
    "RandomDatasetSampler": "num_datasets",
}
SAMPLERS = ("RandomSampler", "SequentialSampler", *BATCH_DIVISORS)  # torchreid's; a test compares them with its list
# The entry of a batch for each choice of data.id_instruction and data.cloth_instruction.
TEXT_FIELDS = {"caption": "caption", "identity": "id_text", "clothing": "cloth_text"}
# Fields of `LossInputs` that only both branches give, and those of the fusion.
_OF_BRANCHES = {"cloth_embeds", "cloth_image_embeds", "composed_embeds", "gate"}
_OF_FUSION = {"fused_embeds", "gate_weights", "composed_embeds"}
# The type in PyTorch of the forward pass.
PRECISIONS = {"fp32": None, "bf16": "bfloat16", "fp16": "float16"}
PICTURE_FORMATS = ("png", "svg", "pdf")  # of plots, see `visualization.plots.plot_file`
FEATURE_CACHES = ("off", "memory", "disk")
# Transforms that make another text or image every time, which no cache can store.
_CHANGING = {
    "text": ("drop_words", "mask_words", "change_words"),
    "image": ("random_crop", "random_patch", "color_jitter", "random_erase", "two_of_six"),
}
# Settings by the limits of their values, which are also the words of the message.
_LIMITS = {
    "at least 0": (
        *("data.workers", "data.val_seed", "test.bootstrap", "test.pictures", "train.lr", "train.weight_decay"),
        *("train.warmup_epochs", "train.clip_grad", "train.bias_lr_mult", "train.base_lr_mult", "train.gamma"),
        *("train.final_lr_mult", "train.start_epoch", "train.fixbase_epoch", "train.encode_at_once"),
        *("train.save_minutes", "train.save_steps", "train.power", "model.stride"),
        *("sgd.momentum", "sgd.dampening", "rmsprop.alpha", "adam.eps", "loss.ccd.tol", "loss.ccd.reg_covar"),
    ),
    "at least 1": (
        *("sampler.num_instances", "sampler.num_cams", "sampler.num_datasets", "train.nonfinite_patience"),
        *("train.stepsize", "train.print_freq", "test.batch_size", "test.ranks", "data.min_word_count"),
        "loss.ccd.max_iter",
    ),
    "at least 2": ("train.batch_size",),  # for batch normalisation
    "at least 1 and below 4097": ("data.height", "data.width"),
    "at least 0 and below 4294967296": ("train.seed",),
    "at least 0 and at most 1": ("data.bad_image_share", "test.identity_weight", "data.crop_fill", "data.erase_fill"),
    "at least 0 and below 1": (
        *("adam.beta1", "adam.beta2", "train.ema_decay", "model.projection_dropout", "model.text_dropout"),
        "data.noisy_rate",
    ),
    "above 0": ("data.norm_std", "data.text_feature_cache_gb", "data.image_feature_cache_gb"),
    "above 0 and at most 1": ("train.layer_decay", "train.warmup_start", "data.word_share"),
    "above 0 and below 1": ("data.val_share",),
}
_COMPARISONS = {"at least": operator.ge, "above": operator.gt, "at most": operator.le, "below": operator.lt}
OPTIMIZERS = ("adamw", "adam", "amsgrad", "radam", "sgd", "rmsprop")  # PyTorch's AdamW, and torchreid's
_ADAMS = OPTIMIZERS[:4]
SCHEDULERS = ("warmup_cosine", "single_step", "multi_step", "cosine", "poly", "linear")
_CLASSIFYING = ("cls", "id", "id_features", "cmpc")  # losses with a class per training identity
# Settings that only some choices of another setting read.
_READ_BY = {
    **dict.fromkeys(("adam.beta1", "adam.beta2", "adam.eps"), ("train.optim", _ADAMS)),
    **dict.fromkeys(("sgd.dampening", "sgd.nesterov"), ("train.optim", ("sgd",))),
    "sgd.momentum": ("train.optim", ("sgd", "rmsprop")),
    "rmsprop.alpha": ("train.optim", ("rmsprop",)),
    **dict.fromkeys(("train.stepsize", "train.gamma"), ("train.lr_scheduler", ("single_step", "multi_step"))),
    "train.final_lr_mult": ("train.lr_scheduler", ("warmup_cosine", "linear")),
    "train.power": ("train.lr_scheduler", ("poly",)),
    **dict.fromkeys(("loss.ccd.max_iter", "loss.ccd.tol", "loss.ccd.reg_covar"), ("loss.ccd.enabled", (True,))),
    **dict.fromkeys(("train.base_lr_mult", "train.new_layers"), ("train.staged_lr", (True,))),
    "model.text_dropout": ("model.freeze_text", (False,)),
}
# torchreid's settings without effect on the text-image model, by prefix, with the reason. The embeddings have unit
# norm, so test.dist_metric and test.normalize_feature cannot change a ranking; any value of these is accepted.
_WITHOUT_EFFECT = {
    "model.pretrained": "for random weights set model.vit_pretrained '' and model.bert_base_path ''",
    "data.type": "it trains on images, not videos",
    "data.split_id": "the benchmarks have one split",
    "data.load_train_targets": "it trains on data.sources alone",
    "sampler.train_sampler_t": "it trains on data.sources alone",
    "test.visrank": "--visualize draws ranked lists",
    **dict.fromkeys(("market1501.", "cuhk03.", "video."), "it is for torchreid's own datasets"),
    **dict.fromkeys(("loss.softmax.", "loss.triplet."), "loss.terms are the losses"),
}


def check_config(cfg: CfgNode) -> None:
    """Refuses unknown names and settings that cannot work, before anything is loaded.

    Raises:
        ConfigError: naming the key, its value and what is valid.
    """
    check_common(cfg)
    check_choice("model.fusion.type", cfg.model.fusion.type, (*FUSIONS, "none"))
    check_model(to_dict(cfg.model))
    _check_positions(cfg)
    _check_data(cfg)
    _check_parts(cfg)
    _check_selection(cfg)
    if cfg.model.fusion.type == "residual" and cfg.data.id_instruction != "identity":
        raise ConfigError(
            f"model.fusion.type: residual fuses both branches, and data.id_instruction '{cfg.data.id_instruction}' "
            "ranks by one; set it to identity"
        )
    for kind, transforms in _CHANGING.items():
        _check_feature_cache(cfg, kind, transforms)
    _check_training(cfg)
    check_choice("test.choose_on", cfg.test.choose_on, ("val", "test"))
    _check_answers(cfg)
    for name in cfg.test.protocols:
        check_choice("test.protocols", name, tuple(PROTOCOLS))
    if OFFICIAL not in cfg.test.protocols:
        raise ConfigError(f"test.protocols: {cfg.test.protocols} must include {OFFICIAL}, the official protocol")
    for name in cfg.loss.terms:
        check_choice("loss", name, LOSSES)
    for name, value in changed_keys(cfg).items():
        for prefix, reason in _WITHOUT_EFFECT.items():
            if name.startswith(prefix):
                raise ConfigError(f"{name}: {value!r} has no effect on {cfg.model.name} with loss.name terms; {reason}")


def check_recipe(cfg: CfgNode) -> None:
    """Checks what training alone reads: optimizer, schedule, and the losses, whose classes import PyTorch.

    Raises:
        ConfigError: naming the key or the loss.
    """
    for name, value in changed_keys(cfg).items():
        chooser, readers = _READ_BY.get(name, ("", ()))
        if chooser and (choice := get_setting(cfg, chooser)) not in readers:
            valid = ", ".join(map(str, readers))
            raise ConfigError(f"{name}: {value!r} has no effect with {chooser} {choice}; it is for {valid}")
    if cfg.train.lr_scheduler != "warmup_cosine" and cfg.train.warmup_epochs % 1:
        raise ConfigError(
            f"train.warmup_epochs: {cfg.train.warmup_epochs} must be a whole number with train.lr_scheduler "
            f"{cfg.train.lr_scheduler}, which sets the rate once per epoch; warmup_cosine sets it at every step"
        )
    from t2ireid_plugin.losses.base import SELECTED, VIEW_INPUTS
    from t2ireid_plugin.losses.terms import LossTerms, comparing_photos, read_weight, reading

    for loss, own in cfg.loss.terms.items():
        if loss in _CLASSIFYING and read_weight(loss, own) > 0 and any(map(is_pretraining, cfg.data.sources)):
            raise ConfigError(
                f"loss '{loss}' would need a classifier of the millions of identities of {cfg.data.sources[0]}; set "
                f"loss.terms.{loss}.weight 0"
            )
    terms = LossTerms(to_dict(cfg.loss.terms), feature_dim=2, embed_dim=2, num_classes=2, vocab_size=2, num_words=2)
    if cfg.loss.ccd.enabled and not terms.weighing_pairs:
        raise ConfigError("loss.ccd.enabled: True divides the pairs by tal or tal_selected; give one of them a weight")
    missing = _OF_BRANCHES if cfg.model.disentangle.type == "none" else set()
    missing = missing | _OF_FUSION if cfg.model.fusion.type == "none" else missing
    if names := reading(cfg.loss.terms, missing):
        raise ConfigError(f"loss.terms: {', '.join(names)} read {_left_out(cfg)}; set their weights to 0")
    for name in reading(cfg.loss.terms, VIEW_INPUTS) if cfg.data.image_feature_cache != "off" else ():
        raise ConfigError(
            f"data.image_feature_cache: '{cfg.data.image_feature_cache}' cannot store the further views of images that "
            f"loss '{name}' reads; set it to off, or the weight to 0"
        )
    for name in reading(cfg.loss.terms, ("composed_embeds",)):
        if cfg.model.fusion.type != "residual":
            raise ConfigError(f"loss '{name}' needs model.fusion.type residual, not {cfg.model.fusion.type}")
    if cfg.loss.terms.get("irr", {"weight": 0})["weight"] > 0 and cfg.model.projection != "encoder":
        raise ConfigError(f"loss 'irr' needs model.projection encoder, not {cfg.model.projection}, and CLIP's encoders")
    selecting = reading(cfg.loss.terms, SELECTED)
    if selecting and not cfg.model.token_selection.ratio:
        raise ConfigError(f"loss '{selecting[0]}' needs model.token_selection.ratio above 0; RDE has 0.3")
    if selecting and (hiding := reading(cfg.loss.terms, ("hidden_words",))):
        raise ConfigError(f"loss '{selecting[0]}' excludes '{hiding[0]}', which reads other texts; set one weight to 0")
    if cfg.sampler.train_sampler != "RandomIdentitySampler" or cfg.sampler.num_instances < 2:
        for name in comparing_photos(cfg.loss.terms):
            raise ConfigError(
                f"loss '{name}' compares photos of one person, and a batch has only one: it would always be 0; set "
                "sampler.train_sampler RandomIdentitySampler and sampler.num_instances to at least 2, or its weight 0"
            )


def check_common(cfg: CfgNode) -> None:
    """Checks the settings that every training has, on images with texts or on images alone.

    Raises:
        ConfigError: naming the key, its value and what is valid.
    """
    check_choice("sampler.train_sampler", cfg.sampler.train_sampler, SAMPLERS)
    check_choice("test.evaluator", cfg.test.evaluator, EVALUATORS)
    check_choice("test.picture_format", cfg.test.picture_format, PICTURE_FORMATS)
    for limits, keys in _LIMITS.items():
        bounds = [limit.rsplit(" ", 1) for limit in limits.split(" and ")]
        for key in keys:
            value = get_setting(cfg, key)
            numbers = value if isinstance(value, list) else [] if value is None else [value]
            if not all(_COMPARISONS[words](number, int(bound)) for number in numbers for words, bound in bounds):
                raise ConfigError(f"{key}: {value} must be {limits}")
    if cfg.train.lr_scheduler == "single_step" and not cfg.train.stepsize:
        raise ConfigError("train.stepsize: [] must name the epoch of train.lr_scheduler single_step")
    if cfg.train.optim == "sgd" and cfg.sgd.nesterov and (cfg.sgd.momentum == 0 or cfg.sgd.dampening != 0):
        raise ConfigError("sgd.nesterov: True needs sgd.momentum above 0 and sgd.dampening 0")
    for key in ("norm_mean", "norm_std", "crop_fill", "erase_fill"):
        if cfg.data[key] is not None and len(cfg.data[key]) != 3:
            raise ConfigError(f"data.{key}: {cfg.data[key]} must be three numbers")
    if cfg.data.k_tfm != 1:
        raise ConfigError(f"data.k_tfm: {cfg.data.k_tfm} must be 1; training reads one view of an image")
    if not cfg.data.sources or not cfg.data.targets:
        raise ConfigError("data.sources and data.targets must each name a dataset")
    divisor = BATCH_DIVISORS.get(cfg.sampler.train_sampler)
    if divisor and cfg.train.batch_size % cfg.sampler[divisor]:
        raise ConfigError(
            f"train.batch_size: {cfg.train.batch_size} must be a multiple of sampler.{divisor} {cfg.sampler[divisor]}"
        )
    if 1 not in cfg.test.ranks:
        raise ConfigError(f"test.ranks: {cfg.test.ranks} must include 1, which chooses the checkpoint")


def check_shares(cfg: CfgNode) -> None:
    """Refuses training batches that cannot be divided among the processes of this run.

    Raises:
        ConfigError: naming the key, its value and what is valid.
    """
    from t2ireid_plugin.utils.distributed import world_size

    if cfg.train.batch_size % world_size() or cfg.train.batch_size < 2 * world_size():
        raise ConfigError(
            f"train.batch_size: {cfg.train.batch_size} is the batch of all {world_size()} processes together; it must "
            "give each the same number of samples, at least 2"
        )
    share = cfg.train.batch_size // world_size()
    if cfg.sampler.train_sampler == "RandomIdentitySampler" and share % cfg.sampler.num_instances:
        raise ConfigError(
            f"train.batch_size: {cfg.train.batch_size} gives each of {world_size()} processes {share} samples, which "
            f"is not a multiple of sampler.num_instances {cfg.sampler.num_instances}; the images of one identity must "
            "stay in one process"
        )


def _check_data(cfg: CfgNode) -> None:
    datasets = [name + suffix for name in BENCHMARKS for suffix in ("", VAL_SUFFIX)]
    for key in ("sources", "targets", "val"):
        valid = [*datasets, *PRETRAINING] if key == "sources" else datasets
        for name in cfg.data[key] or ():
            if name not in valid:
                raise ConfigError(
                    f"data.{key}: unknown '{name}'; valid: {', '.join(valid)}; to train on images without texts set "
                    "loss.name softmax or triplet"
                )
    _check_pretraining(cfg)
    if any(name.endswith(VAL_SUFFIX) for name in cfg.data.sources):
        raise ConfigError(f"data.sources: {cfg.data.sources} has a val split; training takes the dataset itself")
    for name in cfg.data.transforms:
        check_choice("data.transforms", name, TRANSFORMS)
    if cfg.data.noisy_file and (cfg.data.noisy_rate or len(cfg.data.sources) > 1):
        raise ConfigError(
            f"data.noisy_file: '{cfg.data.noisy_file}' says by itself which pairs of one set are noisy; set "
            "data.noisy_rate 0 and name one dataset in data.sources"
        )
    check_choice("data.on_bad_image", cfg.data.on_bad_image, ("error", "skip"))
    check_choice("data.id_instruction", cfg.data.id_instruction, ID_INSTRUCTIONS)
    check_choice("data.cloth_instruction", cfg.data.cloth_instruction, CLOTH_INSTRUCTIONS)


def _check_answers(cfg: CfgNode) -> None:
    """Checks that test sets without labels are tested by an answer file, and that it is for one of them."""
    unlabelled = [name for name, spec in BENCHMARKS.items() if not spec.labelled]
    tested = [name for name in cfg.data.targets if name in unlabelled]
    file = cfg.test.answer_file
    if file and len(tested) != 1:
        raise ConfigError(
            f"test.answer_file: '{file}' is for the answers to {' or '.join(unlabelled)}, and data.targets is "
            f"{cfg.data.targets}; name it there"
        )
    if file and not os.path.isdir(os.path.dirname(file) or "."):
        raise ConfigError(f"test.answer_file: there is no folder for '{file}'; make it first")
    for name in tested:
        if not file or cfg.test.choose_on == "test":
            raise ConfigError(
                f"data.targets: {name} has no public labels to evaluate with; set test.answer_file, for the answers to "
                "send to its organisers, and test.choose_on val"
            )


def _check_pretraining(cfg: CfgNode) -> None:
    """Checks what sets of millions of images, most of them with an identity of their own, cannot do."""
    for name in filter(is_pretraining, cfg.data.sources):
        if len(cfg.data.sources) > 1:
            raise ConfigError(f"data.sources: {cfg.data.sources} must name {name} alone, a pre-training set")
        if cfg.data.val is None and cfg.test.choose_on == "val":
            raise ConfigError(f"data.val: {name} has no val split; set it to [], or to that of another set")
        if cfg.sampler.train_sampler != "RandomSampler":
            raise ConfigError(
                f"sampler.train_sampler: '{cfg.sampler.train_sampler}' would need several photos of a person, which "
                f"most pre-training sets do not have; set it to RandomSampler for {name}"
            )
        for key in ("data.noisy_rate", "data.noisy_file", "loss.ccd.enabled"):
            if get_setting(cfg, key):
                raise ConfigError(f"{key}: {get_setting(cfg, key)} is not for {name}, a pre-training set")


def _check_positions(cfg: CfgNode) -> None:
    check_choice("model.positions", cfg.model.positions, POSITIONS)
    if cfg.model.positions and not (cfg.data.height and cfg.data.width):
        raise ConfigError(f"model.positions: {cfg.model.positions} resizes to data.height x data.width; set both")
    if cfg.model.stride and not cfg.model.positions:
        raise ConfigError(f"model.stride: {cfg.model.stride} has no effect without model.positions; set it to bilinear")


def _check_parts(cfg: CfgNode) -> None:
    """Checks that nothing reads parts that ``disentangle.type none`` and ``fusion.type none`` leave out."""
    no_branches, no_fusion = cfg.model.disentangle.type == "none", cfg.model.fusion.type == "none"
    if no_branches and cfg.data.id_instruction != CAPTION:
        raise ConfigError(
            f"data.id_instruction: {cfg.data.id_instruction} ranks by both branches, and model.disentangle.type none "
            f"has one; set it to {CAPTION}"
        )
    missing = ["cloth_images"] * no_branches + ["fused", "composed_fused"] * no_fusion
    for name in with_baselines(name for name in cfg.test.protocols if name in PROTOCOLS):
        if not {*missing}.isdisjoint(PROTOCOLS[name].needs):
            raise ConfigError(f"test.protocols: {name} reads {_left_out(cfg)}")


def _check_selection(cfg: CfgNode) -> None:
    """Checks that nothing excludes ``model.token_selection``, whose embedding is part of the score."""
    if not cfg.model.token_selection.ratio:
        return
    setting = f"model.token_selection.ratio: {cfg.model.token_selection.ratio}"
    if cfg.data.id_instruction != CAPTION:
        raise ConfigError(f"{setting} ranks by whole captions; set data.id_instruction to {CAPTION}")
    for name in ("data.text_feature_cache", "data.image_feature_cache"):
        if (cache := get_setting(cfg, name)) != "off":
            raise ConfigError(f"{setting} reads attention, which {name} '{cache}' does not store; set it to off")
    if cfg.train.compile:
        raise ConfigError(f"{setting} excludes train.compile True")
    for name in (name for name in cfg.test.protocols if name in PROTOCOLS):
        if "cloth_images" in PROTOCOLS[name].needs:
            raise ConfigError(f"test.protocols: {name} reads the clothing branch, which {setting} does not rank by")


def _left_out(cfg: CfgNode) -> str:
    kinds = f"model.disentangle.type {cfg.model.disentangle.type} and model.fusion.type {cfg.model.fusion.type}"
    return f"a part that {kinds} leave out"


def _check_feature_cache(cfg: CfgNode, kind: str, transforms: Sequence[str]) -> None:
    name = f"data.{kind}_feature_cache"
    choice = get_setting(cfg, name)
    check_choice(name, choice, FEATURE_CACHES)
    if choice == "off":
        return
    if not cfg.model[f"freeze_{kind}"]:
        raise ConfigError(
            f"{name}: '{choice}' needs model.freeze_{kind} True; the features of an encoder that is trained change "
            "every step"
        )
    for transform in transforms:
        if transform in cfg.data.transforms:
            raise ConfigError(
                f"{name}: '{choice}' cannot store {kind}s that {transform} of data.transforms changes every time; set "
                "it to off, or remove that transform"
            )


def _check_training(cfg: CfgNode) -> None:
    check_choice("train.optim", cfg.train.optim, OPTIMIZERS)
    for part, factor in cfg.train.lr_factors.items():
        if type(factor) not in (int, float) or factor < 0:
            raise ConfigError(f"train.lr_factors.{part}: {short_repr(factor)} must be a number of at least 0")
    check_choice("train.lr_scheduler", cfg.train.lr_scheduler, SCHEDULERS)
    check_choice("train.precision", cfg.train.precision, tuple(PRECISIONS))
    if cfg.train.compile and (cfg.train.encode_at_once or cfg.train.checkpoint_encoders):
        raise ConfigError("train.compile: True excludes train.encode_at_once and train.checkpoint_encoders")
    if cfg.train.compile and cfg.model.fusion.type == "sequence_mamba":
        raise ConfigError(
            "train.compile: True excludes model.fusion.type sequence_mamba, which would compile anew for each length"
        )


def check_files(cfg: CfgNode, encoders: bool = True) -> None:
    """Refuses missing datasets, encoders and checkpoints, all in one message, and images that the encoder cannot read.

    Args:
        cfg: the configuration.
        encoders: False where a checkpoint to resume or to test (`for_testing`) may describe them.

    Raises:
        DataError, EncoderError, CheckpointError: for missing datasets, encoders and checkpoints, by the first of them.
        ConfigError: for a size that the encoder's patches do not divide.
    """
    names = [*cfg.data.sources, *cfg.data.targets, *val_targets(cfg)]
    benchmarks = dict.fromkeys(name.removesuffix(VAL_SUFFIX) for name in names)
    encoders = encoders and bool(cfg.data.sources)
    sources = [key for key in (IMAGE_KEY, TEXT_KEY) if cfg.model[key] and encoders]
    raise_together(
        [functools.partial(find_annotation, cfg.data.root, spec_of(name)) for name in benchmarks]
        + [functools.partial(check_source, cfg.model[key], key) for key in sources]
        + [functools.partial(_check_noisy_file, cfg)] * bool(cfg.data.sources)
        + [functools.partial(check_weights, cfg)] * (encoders or not cfg.data.sources)
    )
    if encoders:
        stored_config(cfg.model.bert_base_path or to_dict(cfg.model.bert_config), TEXT_KEY)
        encoder = stored_config(cfg.model.vit_pretrained or to_dict(cfg.model.vit_config), IMAGE_KEY)
        check_image_size(encoder, cfg.data.height, cfg.data.width, to_dict(cfg.model.disentangle))


def report_image_size(cfg: CfgNode) -> None:
    """Prints another size than the image encoder's own, for which its position embeddings are interpolated."""
    encoder = stored_config(cfg.model.vit_pretrained or to_dict(cfg.model.vit_config), IMAGE_KEY)
    reader, size = token_reader(encoder) if encoder else None, (cfg.data.height, cfg.data.width)
    if not (reader and all(size) and hasattr(encoder, "image_size")) or reader.feature_map:
        return
    if reader.own_size != size:
        own = " x ".join(map(str, reader.own_size))
        print(f"Images of {size[0]} x {size[1]} pixels (height x width); the image encoder was built for {own}")


def _check_noisy_file(cfg: CfgNode) -> None:
    if cfg.data.noisy_file and not os.path.isfile(cfg.data.noisy_file):
        raise DataError(f"data.noisy_file: no file '{cfg.data.noisy_file}'")


def check_weights(cfg: CfgNode) -> None:
    """Refuses a missing checkpoint.

    Raises:
        CheckpointError: naming the setting and the file.
    """
    for key in ("load_weights", "resume"):
        if cfg.model[key] and not os.path.exists(cfg.model[key]):
            raise CheckpointError(f"model.{key}: no checkpoint at '{cfg.model[key]}'")


def raise_together(checks: Iterable[Callable[[], object]]) -> None:
    """Runs all ``checks`` of files and raises their errors as one, of the class of the first.

    Raises:
        T2IReIDError: with a line per problem.
    """
    problems: list[T2IReIDError] = []
    for check in checks:
        try:
            check()
        except T2IReIDError as error:
            problems.append(error)
    if problems:
        raise type(problems[0])("\n".join(map(str, problems)))


def check_image_size(encoder: Any, height: int | None, width: int | None, disentangle: Mapping[str, Any]) -> None:
    """Checks the size of images against an image encoder's configuration and its stripes, where both are known.

    Raises:
        ConfigError: as `check_size` and `check_rows`.
    """
    reader = None if encoder is None else token_reader(encoder)
    if reader is None or not height or not width:
        return
    try:
        reader.check_size(height, width)
        grid = reader.grid(height, width)
    except InputError as error:
        raise ConfigError(f"data.height {height}, data.width {width}: {error}") from error
    except AttributeError:  # a file may leave out what its family has by default
        return
    if grid is not None:
        check_rows(disentangle, grid[0])


def for_testing(cfg: CfgNode) -> CfgNode:
    """The configuration without the datasets that only training reads."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.data.sources, cfg.data.val = [], []
    return cfg


def val_targets(cfg: CfgNode) -> list[str]:
    """Val targets that are not test targets as well; without ``data.val`` the val split of each source.

    None with ``test.choose_on: test``, where nobody is held out of the training set either.
    """
    if cfg.test.choose_on == "test":
        return []
    names = [name + VAL_SUFFIX for name in cfg.data.sources] if cfg.data.val is None else cfg.data.val
    return [name for name in names if name not in cfg.data.targets]


def check_batch(cfg: CfgNode, sources: Sequence[Any]) -> None:
    """Checks that the training datasets fill a batch; torchreid's samplers would fail with a bare assertion.

    Raises:
        DataError: when there are too few identities, samples, cameras or datasets for a batch.
    """
    from t2ireid_plugin.data.item_table import CAMID, DSETID, labels

    ids = sum(source.num_train_pids for source in sources)
    samples = sum(len(source.train) for source in sources)
    batch_size, sampler = cfg.train.batch_size, cfg.sampler.train_sampler
    needed = batch_size // cfg.sampler.num_instances
    if sampler == "RandomIdentitySampler" and ids < needed:
        raise DataError(
            f"data.sources: {ids} training identities, but a batch takes {needed} "
            f"(train.batch_size {batch_size} / sampler.num_instances {cfg.sampler.num_instances})"
        )
    if samples < batch_size:
        raise DataError(f"data.sources: {samples} training samples, fewer than train.batch_size {batch_size}")
    # Samplers that draw equal shares of a batch from groups of items: the column of the group, and the name of groups.
    by_group = {"RandomDomainSampler": (CAMID, "cameras"), "RandomDatasetSampler": (DSETID, "datasets")}
    if sampler in by_group:
        key, (column, groups) = BATCH_DIVISORS[sampler], by_group[sampler]
        needed, share = cfg.sampler[key], batch_size // cfg.sampler[key]
        sizes = [n for source in sources for n in Counter(item[column] for item in labels(source.train)).values()]
        if len(sizes) < needed or min(sizes) < share:
            raise DataError(
                f"data.sources: {len(sizes)} {groups}, the smallest with {min(sizes)} training samples, but {sampler} "
                f"takes {share} of each of {needed} per batch (sampler.{key})"
            )


def check_several_photos(terms: Mapping[str, Mapping[str, Any]], sources: Mapping[str, Any]) -> None:
    """Refuses a loss that compares photos, or outfits, of one identity where every identity has a single one.

    Raises:
        DataError: naming the loss.
    """
    from t2ireid_plugin.data.annotations import UNKNOWN_OUTFIT
    from t2ireid_plugin.data.item_table import OUTFIT, PATH, PID
    from t2ireid_plugin.losses.terms import comparing_photos, reading

    if not reading(terms, ["outfits"]) and not comparing_photos(terms):
        return
    tables = [dataset.train.columns for dataset in sources.values()]
    numbered = [table[table[:, OUTFIT] != UNKNOWN_OUTFIT] for table in tables]
    if all(len(table[:, [PID, OUTFIT]].unique(dim=0)) == len(table[:, PID].unique()) for table in numbered):
        for name in reading(terms, ["outfits"]):
            raise DataError(
                f"loss '{name}' compares outfits of one identity, but the annotation of {', '.join(sources)} numbers "
                f"no two of one; add 'outfit' to its rows, or set loss.terms.{name}.weight 0"
            )
    if any(len(table[:, [PATH, PID]].unique(dim=0)) > len(table[:, PID].unique()) for table in tables):
        return
    for name in comparing_photos(terms):
        raise DataError(
            f"loss '{name}' compares photos of one identity, but no identity of {', '.join(sources)} has two to train "
            f"on, so it would always be 0; set loss.terms.{name}.weight 0"
        )
