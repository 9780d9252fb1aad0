"""Builders: from a configuration to datasets, model, losses and engine. Nothing else reads the configuration."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import torch
from torchreid import utils as torchreid_utils
from transformers import PretrainedConfig, PreTrainedTokenizerBase
from yacs.config import CfgNode

from t2ireid_plugin.config import to_dict
from t2ireid_plugin.data.annotations import check_images
from t2ireid_plugin.data.benchmarks import VAL_SUFFIX
from t2ireid_plugin.data.composed import composed_queries
from t2ireid_plugin.data.dataset import CaptionDataset, warn_of_shared_images
from t2ireid_plugin.data.item_table import PATH, Item
from t2ireid_plugin.data.manager import CaptionDataManager
from t2ireid_plugin.data.noisy import noisy_order, read_order, with_captions_of
from t2ireid_plugin.data.pretraining import is_pretraining, spec_of
from t2ireid_plugin.data.transforms import TestTransform, TrainTransform, swap_sides
from t2ireid_plugin.data.words import frequent_words
from t2ireid_plugin.engine import optim
from t2ireid_plugin.engine.checks import (
    check_batch,
    check_image_size,
    check_several_photos,
    val_targets,
)
from t2ireid_plugin.engine.division import ConsensusDivision
from t2ireid_plugin.engine.failures import BadImageCounter, NonFiniteGuard
from t2ireid_plugin.engine.feature_cache import ImageFeatureCache, TextFeatureCache, default_folder
from t2ireid_plugin.engine.memory import Precision, encode_in_parts, keep_freed_memory
from t2ireid_plugin.engine.record import check_held_out, record_data, record_settings
from t2ireid_plugin.engine.text_image import TextImageEngine
from t2ireid_plugin.errors import CheckpointError, ConfigError, DataError
from t2ireid_plugin.evaluation.protocols import COMPOSED
from t2ireid_plugin.losses import LossTerms
from t2ireid_plugin.losses.base import VIEW_INPUTS, WORD_INPUTS
from t2ireid_plugin.losses.terms import reading
from t2ireid_plugin.modeling.checkpoint import Checkpoint, copy_state_dict
from t2ireid_plugin.modeling.encoders.families import set_attention_dropout
from t2ireid_plugin.modeling.encoders.loading import IMAGE_KEY, TEXT_KEY
from t2ireid_plugin.modeling.encoders.preprocess import Preprocess
from t2ireid_plugin.modeling.encoders.tokenizer import ignore_marks, learn_wordpiece, mask_word, whole_words
from t2ireid_plugin.modeling.ranking import Ranking
from t2ireid_plugin.modeling.stored import Stored, describe_model, read_stored
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel
from t2ireid_plugin.utils.distributed import is_main_process, rank, world_size

# The place in an item of each choice of data.id_instruction and data.cloth_instruction.
MAX_WORKERS = 8  # where data.workers is None
_TEXT_PLACES = {"caption": -3, "identity": -2, "clothing": -1}
# Setting that configures an encoder with random weights, in place of a folder.
_LOSSES = "losses."  # before the names of other projects' heads, see `modeling.foreign`
_INLINE = {IMAGE_KEY: "vit_config", TEXT_KEY: "bert_config"}


def build_run(cfg: CfgNode, weights: Checkpoint | None = None, described: bool = False) -> TextImageEngine:
    """The engine of a run with its model and data, seeded.

    Args:
        cfg: a checked configuration; for testing one from `for_testing`.
        weights: loaded into the model, if any. Image size and normalisation that ``cfg`` leaves open are theirs.
        described: build the model that ``weights`` describe, as for testing; for resuming.

    Raises:
        T2IReIDError: for every problem that the user can fix.
    """
    set_deterministic(cfg.train.deterministic)
    torchreid_utils.set_random_seed(cfg.train.seed)
    use_gpu = cfg.use_gpu and torch.cuda.is_available()
    stored = read_stored(weights) if weights else Stored()
    datasets = build_datasets(cfg)
    sources = {name: datasets[name] for name in cfg.data.sources}
    targets = {name: datasets[name] for name in [*cfg.data.targets, *val_targets(cfg)]}
    num_classes = sum(dataset.num_train_pids for dataset in sources.values()) or _stored_classes(weights)
    large = any(map(is_pretraining, sources))
    if large:  # a classifier of millions, which no loss reads
        num_classes = 1
    encoders = {}
    if sources:
        if not use_gpu:
            keep_freed_memory()
        check_several_photos(cfg.loss.terms, sources)
        if is_main_process() and not large:  # it reads the beginning of every image
            warn_of_shared_images(list(sources.values()), targets)
    elif weights:
        check_held_out(weights, datasets)
    if weights and (described or not sources):
        encoders = _stored_encoders(cfg, weights, stored)
    tokenizer = stored.tokenizer if TEXT_KEY in encoders else build_tokenizer(cfg, sources.values(), stored)
    model = build_model(cfg, tokenizer, num_classes, encoders)
    if cfg.model.text_dropout is not None:
        set_attention_dropout(model.text_encoder, cfg.model.text_dropout)
    if cfg.model.ignored_marks and model.text_cache.tokenizer is not stored.tokenizer:  # which has done so
        ignore_marks(model.text_cache.tokenizer, cfg.model.ignored_marks)
    read = [datasets[name].query for name in cfg.data.targets] + [dataset.train for dataset in sources.values()]
    model.text_cache.check([caption for items in read for caption in items.captions()])
    preprocess = build_preprocess(cfg, stored.preprocess or model.preprocess, model.visual_encoder.config)
    datamanager = build_datamanager(cfg, datasets, preprocess, use_gpu, model.text_cache.tokenizer)
    heads = {name: tensor for name, tensor in weights.state.items() if name.startswith(_LOSSES)} if weights else {}
    if weights:
        state = {name: tensor for name, tensor in weights.state.items() if not sources or name not in heads}
        report = copy_state_dict(state, model, weights.path)
        if not sources:
            report.require_complete(weights.path)
    model.preprocess = preprocess
    model.ranking = build_ranking(cfg, stored)
    print_parameters(cfg.model.name, model, use_gpu)
    engine = build_engine(cfg, datamanager, model, use_gpu)
    if sources and heads and weights:  # of another project's checkpoint
        own = {name.removeprefix(_LOSSES): tensor for name, tensor in heads.items()}
        if own.keys() & engine.losses.state_dict().keys():
            copy_state_dict(own, engine.losses, weights.path)
        else:
            print(f"Not used of '{weights.path}': {', '.join(sorted(heads)[:5])}, … ({len(heads)} tensors)")
    return engine


def _stored_classes(weights: Checkpoint | None) -> int:
    """Number of identities of the classifier in ``weights``; 1 without one, as testing does not use it."""
    state = weights.state if weights else {}
    return next((len(tensor) for name, tensor in state.items() if name.endswith("id_classifier.weight")), 1)


def _stored_encoders(cfg: CfgNode, weights: Checkpoint, stored: Stored) -> dict[str, Any]:
    """Encoders as the checkpoint describes them, except those that ``cfg`` takes from another folder."""
    trained = weights.content.get("config", {}).get("model", {})
    return {
        key: stored.net_config[key]
        for key in (IMAGE_KEY, TEXT_KEY)
        if key in stored.net_config
        and all(cfg.model[name] == trained.get(name, cfg.model[name]) for name in (key, _INLINE[key]))
        if key == IMAGE_KEY or stored.tokenizer is not None
    }


def set_deterministic(enabled: bool) -> None:
    """Switches PyTorch's deterministic kernels on or off; with them, an operation that has none raises.

    Also stops cuDNN from picking the fastest kernel by trial, whose choice varies from run to run, and sets
    ``CUBLAS_WORKSPACE_CONFIG``, which cuBLAS reads at its first use.
    """
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(enabled)


def build_datasets(cfg: CfgNode) -> dict[str, CaptionDataset]:
    """Sources, targets and val targets by name, without transforms; each benchmark is read once.

    Raises:
        DataError: as `read_photos`, when a split that the run reads is empty, and for composed search without outfits.
    """
    names = list(dict.fromkeys([*cfg.data.sources, *cfg.data.targets, *val_targets(cfg)]))
    datasets: dict[str, CaptionDataset] = {}
    for benchmark in dict.fromkeys(name.removesuffix(VAL_SUFFIX) for name in names):
        # Identities are held out for val only where val is evaluated.
        val = benchmark + VAL_SUFFIX
        dataset = CaptionDataset(
            cfg.data.root,
            spec=spec_of(benchmark),
            val_share=cfg.data.val_share if val in names else 0.0,
            val_seed=cfg.data.val_seed,
            combineall=cfg.data.combineall,
            verbose=False,
        )
        datasets[benchmark] = dataset
        if val in names:
            datasets[val] = dataset.with_eval_split("val")
    if any(name.startswith(COMPOSED) for name in cfg.test.protocols):
        for name in (name for name in cfg.data.targets if not datasets[name].spec.composed):
            try:
                composed_queries(datasets[name].query, datasets[name].gallery)
            except DataError as error:
                raise DataError(f"test.protocols composed, {name}: {error}") from error
    for mode, used in (("train", cfg.data.sources), ("query", [*cfg.data.targets, *val_targets(cfg)])):
        for name in used:
            datasets[name].with_mode(mode, None)  # raises for an empty split
    for name in cfg.data.sources if cfg.data.noisy_rate or cfg.data.noisy_file else ():
        _add_noise(cfg, name, datasets[name])
    return {name: datasets[name] for name in names}


def _add_noise(cfg: CfgNode, name: str, dataset: CaptionDataset) -> None:
    """Gives training images captions of others, see ``data.noisy_rate``."""
    pairs, file = len(dataset.train), cfg.data.noisy_file
    order = read_order(file, pairs) if file else noisy_order(pairs, cfg.data.noisy_rate, cfg.train.seed, name)
    dataset.train = with_captions_of(dataset.train, order)
    moved = int((order != torch.arange(pairs)).sum())
    print(f"{name}: {moved:,} of {pairs:,} training pairs have the caption of another one")


def build_model(
    cfg: CfgNode,
    tokenizer: PreTrainedTokenizerBase | None,
    num_classes: int,
    encoders: Mapping[str, PretrainedConfig] | None = None,
) -> T2IReIDModel:
    """The model that ``cfg.model`` describes.

    Args:
        cfg: the configuration.
        tokenizer: None for that of a pretrained text encoder.
        num_classes: training identities.
        encoders: configurations by `IMAGE_KEY` and `TEXT_KEY`, in place of those that ``cfg`` names.
    """
    return T2IReIDModel(
        {
            "vit_pretrained": cfg.model.vit_pretrained or to_dict(cfg.model.vit_config),
            "bert_base_path": cfg.model.bert_base_path or to_dict(cfg.model.bert_config),
            "num_classes": num_classes,
            "disentangle": to_dict(cfg.model.disentangle),
            "fusion": to_dict(cfg.model.fusion),
            "freeze_text": cfg.model.freeze_text,
            "freeze_image": cfg.model.freeze_image,
            "max_length": cfg.model.max_length,
            "projection": cfg.model.projection,
            "projection_dropout": cfg.model.projection_dropout,
            "token_selection": to_dict(cfg.model.token_selection),
            "image_grid": image_grid(cfg),
            "tokenizer": tokenizer,
            **(encoders or {}),
        }
    )


def image_grid(cfg: CfgNode) -> dict[str, Any] | None:
    """The size of images to which ``model.positions`` resizes the encoder's positions; None where it does not."""
    grid = {"height": cfg.data.height, "width": cfg.data.width, "stride": cfg.model.stride, "mode": cfg.model.positions}
    return grid if cfg.model.positions else None


def build_tokenizer(cfg: CfgNode, sources: Iterable[CaptionDataset], stored: Stored) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a text encoder with random weights; None for a pretrained one, which has its own.

    It is that of a checkpoint, or else learned from the training texts of ``sources``.

    Raises:
        CheckpointError: when there is neither.
    """
    if cfg.model.bert_base_path:
        return None
    if stored.tokenizer is not None:
        return stored.tokenizer
    texts: set[str] = set().union(*(dataset.train.all_texts() for dataset in sources))
    if not texts:
        raise CheckpointError(
            f"'{cfg.model.load_weights}' has no vocabulary and model.bert_base_path is empty; use a run's best.pth"
        )
    return learn_wordpiece(texts, cfg.model.bert_config.get("vocab_size", 2000))


def build_preprocess(cfg: CfgNode, own: Preprocess, encoder: PretrainedConfig | None) -> Preprocess:
    """Image size and normalisation: ``cfg.data`` where set, the image encoder's ``own`` values otherwise.

    Raises:
        ConfigError: when an ``encoder`` of this configuration cannot read images of that size.
    """
    preprocess = Preprocess(
        cfg.data.height or own.height,
        cfg.data.width or own.width,
        tuple(cfg.data.norm_mean or own.mean),
        tuple(cfg.data.norm_std or own.std),
    )
    check_image_size(encoder, preprocess.height, preprocess.width, to_dict(cfg.model.disentangle))
    return preprocess


def build_ranking(cfg: CfgNode, stored: Stored) -> Ranking:
    """The ranking of a model trained as ``cfg`` says, with the weight that a checkpoint's run chose on val, if any."""
    own = Ranking.of_training(cfg.data.id_instruction, cfg.data.cloth_instruction)
    if cfg.test.identity_weight is not None:
        return own._replace(weight=cfg.test.identity_weight)
    then = stored.ranking or own
    return then if (then.by, then.clothing) == (own.by, own.clothing) else own


def build_datamanager(
    cfg: CfgNode,
    datasets: Mapping[str, CaptionDataset],
    preprocess: Preprocess,
    use_gpu: bool,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> CaptionDataManager:
    """Loaders over the sources, the targets and the val targets; ``tokenizer`` is for transforms of texts.

    Raises:
        DataError: as `check_images`, and when there are too few identities or captions for a batch.
    """
    targets = [*cfg.data.targets, *val_targets(cfg)]
    sources = [datasets[name] for name in cfg.data.sources]
    if sources:
        check_batch(cfg, sources)
    # Every image, so that a truncated download does not show in epoch 40; except training images that may be replaced.
    parts = [part for name in targets for part in (datasets[name].gallery, datasets[name].references)]
    if cfg.data.on_bad_image != "skip" and not any(map(is_pretraining, cfg.data.sources)):
        parts += [source.train for source in sources]
    check_images(list(dict.fromkeys(path for part in parts for path in part.paths())))
    height, width, mean, std = preprocess
    changes = {
        "names": cfg.data.transforms,
        "mask_token": mask_word(tokenizer) if tokenizer else None,
        "words": whole_words(tokenizer) if tokenizer and "change_words" in cfg.data.transforms else (),
        "word_share": cfg.data.word_share,
        "views": [entry for field, entry in VIEW_INPUTS.items() if reading(to_dict(cfg.loss.terms), [field])],
        "crop_fill": cfg.data.crop_fill,
        "erase_fill": cfg.data.erase_fill,
    }
    return CaptionDataManager(
        datasets,
        list(cfg.data.sources),
        targets,
        TrainTransform(height, width, mean, std, **changes),
        TestTransform(height, width, mean, std),
        **loader_options(cfg, use_gpu),
        sampler=sampler_options(cfg),
        keep_images=cfg.data.keep_images,
        seed=cfg.train.seed,
        replace_bad_images=cfg.data.on_bad_image == "skip",
        share=(rank(), world_size()),
    )


def loader_options(cfg: CfgNode, use_gpu: bool) -> dict[str, Any]:
    """Arguments of the loaders, by the names that torchreid's data manager and ours share."""
    return {
        "batch_size_train": cfg.train.batch_size,
        "batch_size_test": cfg.test.batch_size,
        # More than the cores that the process may use would only wait.
        "workers": min(MAX_WORKERS if cfg.data.workers is None else cfg.data.workers, joblib.cpu_count()),
        "use_gpu": use_gpu,
    }


def sampler_options(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of torchreid's ``build_train_sampler``."""
    return {name: cfg.sampler[name] for name in ("train_sampler", "num_instances", "num_cams", "num_datasets")}


def build_engine(cfg: CfgNode, datamanager: CaptionDataManager, model: T2IReIDModel, use_gpu: bool) -> TextImageEngine:
    """Losses, optimizer, schedule and engine for a model and its data."""
    device = torch.device("cuda" if use_gpu else "cpu")
    model.to(device)
    if cfg.train.compile:
        model.compile_parts()
    words = build_words(cfg, datamanager)
    losses = LossTerms(
        to_dict(cfg.loss.terms),
        feature_dim=model.id_classifier.in_features,
        embed_dim=model.embed_dim,
        num_classes=model.id_classifier.out_features,
        vocab_size=model.text_encoder.config.vocab_size,
        num_words=len(words) or 1,
    )
    losses.to(device)
    if cfg.train.layer_decay < 1 and not hasattr(model.visual_encoder.config, "num_hidden_layers"):
        kind = model.visual_encoder.config.model_type
        raise ConfigError(f"train.layer_decay: {cfg.train.layer_decay} needs equal blocks, not {kind}; set it to 1")
    optimizer = build_optimizer(cfg, model, losses)
    settings = record_settings(cfg, model.preprocess)
    data = record_data(datamanager.datasets, datamanager.sources, val_targets(cfg))
    encoders = {IMAGE_KEY: model.visual_encoder.config, TEXT_KEY: model.text_encoder.config}
    structure = {**settings["model"], "num_classes": model.id_classifier.out_features}
    tokenizer = model.text_cache.tokenizer
    described = describe_model(model.preprocess, tokenizer, encoders, structure, data.pop("classes"))
    train_images = sum(datamanager.datasets[name].train.distinct(PATH) for name in datamanager.sources)
    engine = TextImageEngine(
        datamanager,
        model,
        losses,
        optimizer,
        build_scheduler(cfg, optimizer),
        use_gpu=use_gpu,
        precision=Precision(cfg.train.precision, device.type),
        val_targets=val_targets(cfg),
        choose_on_test=cfg.test.choose_on == "test",
        id_instruction=cfg.data.id_instruction,
        cloth_instruction=cfg.data.cloth_instruction,
        clip_grad=cfg.train.clip_grad,
        division=build_division(cfg),
        ema=optim.build_ema(model, cfg.train.ema_decay) if cfg.train.ema_decay > 0 else None,
        evaluator=cfg.test.evaluator,
        ranks=cfg.test.ranks,
        identity_weight=cfg.test.identity_weight,
        protocols=cfg.test.protocols,
        seed=cfg.train.seed,
        words=words,
        record={"config": settings, **({"words": words} if words else {}), **data, **described},
        non_finite=NonFiniteGuard(cfg.train.nonfinite_patience),
        bad_images=BadImageCounter(train_images, cfg.data.bad_image_share),
        save_minutes=cfg.train.save_minutes,
        save_steps=cfg.train.save_steps,
    )
    if any(isinstance(module, torch.nn.BatchNorm2d) for module in model.visual_encoder.modules()):
        for name in ("encode_at_once", "checkpoint_encoders"):  # batch normalisation needs the whole batch, once
            if cfg.train[name]:
                kind = model.visual_encoder.config.model_type
                raise ConfigError(f"train.{name}: {cfg.train[name]} excludes the image encoder {kind}")
    # Last, because the moving average is a copy that does not need it.
    frozen = model.frozen_encoders
    for encoder in (encoder for encoder in (model.visual_encoder, model.text_encoder) if encoder not in frozen):
        if cfg.train.checkpoint_encoders and getattr(encoder.config, "num_hidden_layers", 1):
            if not encoder.supports_gradient_checkpointing:
                raise ConfigError(f"train.checkpoint_encoders: True excludes the encoder {encoder.config.model_type}")
            encoder.gradient_checkpointing_enable({"use_reentrant": False})
        if cfg.train.encode_at_once:
            encode_in_parts(encoder, cfg.train.encode_at_once)
    return engine


def build_division(cfg: CfgNode) -> ConsensusDivision | None:
    """The division of pairs that ``loss.ccd`` asks for."""
    mixture = {key: value for key, value in to_dict(cfg.loss.ccd).items() if key != "enabled"}
    return ConsensusDivision(**mixture) if cfg.loss.ccd.enabled else None


def training_texts(cfg: CfgNode, items: Iterable[Item]) -> Iterator[str]:
    """The identity and the clothing text of each training item, as the configuration chooses them."""
    places = [_TEXT_PLACES[cfg.data.id_instruction], _TEXT_PLACES[cfg.data.cloth_instruction]]
    return (str(item[place]) for item in items for place in places)


def build_words(cfg: CfgNode, datamanager: CaptionDataManager) -> list[str]:
    """The frequent words of the training texts, if a loss reads them.

    Raises:
        DataError: when there is none.
    """
    names = reading(to_dict(cfg.loss.terms), WORD_INPUTS)
    if not names or not datamanager.sources:
        return []
    items = itertools.chain.from_iterable(datamanager.datasets[name].train for name in datamanager.sources)
    words = frequent_words(training_texts(cfg, items), cfg.data.min_word_count)
    if not words:
        raise DataError(
            f"loss '{names[0]}' needs words that the training texts have data.min_word_count "
            f"{cfg.data.min_word_count} times, and there is none; set a lower number"
        )
    return words


def build_text_features(cfg: CfgNode, model: T2IReIDModel, items: Sequence[Item]) -> TextFeatureCache | None:
    """The cache that ``data.text_feature_cache`` asks for; ``disk`` is filled from the training ``items`` here.

    Raises:
        DataError: when its file cannot be written.
    """
    data, max_bytes = cfg.data, int(1e9 * cfg.data.text_feature_cache_gb)
    if data.text_feature_cache == "off":
        return None
    if data.text_feature_cache == "memory":
        return TextFeatureCache(max_bytes)
    texts = dict.fromkeys(training_texts(cfg, items))
    if "random_flip" in data.transforms:
        texts.update(dict.fromkeys(map(swap_sides, list(texts))))
    folder = Path(data.text_feature_cache_dir or default_folder("text"))
    cache: Any = model.text_cache
    return TextFeatureCache.on_disk(folder, max_bytes, model.text_encoder, cache.ids(list(texts)), cache.pad)


def build_image_features(cfg: CfgNode, engine: TextImageEngine) -> ImageFeatureCache | None:
    """The cache that ``data.image_feature_cache`` asks for; ``disk`` is filled from training and val images here.

    Raises:
        DataError: when its file cannot be written.
    """
    data, max_bytes = cfg.data, int(1e9 * cfg.data.image_feature_cache_gb)
    if data.image_feature_cache == "off":
        return None
    if data.image_feature_cache == "memory":
        return ImageFeatureCache(max_bytes)
    flips = not {"random_flip", "random_flip_image"}.isdisjoint(data.transforms)
    parts = [(engine.train_loader.dataset, flips)]
    parts += [(engine.test_loader[name]["gallery"].dataset, False) for name in engine.val_targets]
    images = [
        functools.partial(dataset.tensor, path, mirrored)
        for dataset, mirrors in parts
        for path in dataset.data.paths()
        for mirrored in ((False, True) if mirrors else (False,))
    ]
    folder = Path(data.image_feature_cache_dir or default_folder("image"))
    return ImageFeatureCache.on_disk(folder, max_bytes, engine.model.visual_encoder, images)


def build_optimizer(cfg: CfgNode, model: T2IReIDModel, losses: LossTerms) -> torch.optim.Optimizer:
    """The optimizer that ``cfg.train`` describes, see `optim.build_optimizer`."""
    train = cfg.train
    return optim.build_optimizer(
        model,
        losses,
        optim=train.optim,
        lr=train.lr,
        weight_decay=train.weight_decay,
        base_lr_mult=train.base_lr_mult if train.staged_lr else 1.0,
        new_layers=None if train.new_layers == ["classifier"] else train.new_layers,
        bias_lr_mult=train.bias_lr_mult,
        lr_factors=to_dict(train.lr_factors),
        decay_vectors=train.decay_vectors,
        layer_decay=train.layer_decay,
        eps=cfg.adam.eps,
        **optimizer_options(cfg),
    )


def build_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
    """The schedule that ``train.lr_scheduler`` names."""
    names = ("max_epoch", "warmup_epochs", "warmup_start", "final_lr_mult", "power", "stepsize", "gamma")
    return optim.build_scheduler(optimizer, cfg.train.lr_scheduler, **{name: cfg.train[name] for name in names})


def optimizer_options(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of torchreid's ``build_optimizer`` for the kinds of Adam, SGD and RMSprop."""
    return {
        "momentum": cfg.sgd.momentum,
        "sgd_dampening": cfg.sgd.dampening,
        "sgd_nesterov": cfg.sgd.nesterov,
        "rmsprop_alpha": cfg.rmsprop.alpha,
        "adam_beta1": cfg.adam.beta1,
        "adam_beta2": cfg.adam.beta2,
    }


def run_options(cfg: CfgNode, folder: Path) -> dict[str, Any]:
    """Arguments of ``Engine.run`` that torchreid's engines and ours share, without ``start_epoch``."""
    return {
        "save_dir": str(folder),
        "max_epoch": cfg.train.max_epoch,
        "print_freq": cfg.train.print_freq,
        "fixbase_epoch": cfg.train.fixbase_epoch,
        "open_layers": cfg.train.open_layers,
        "start_eval": cfg.test.start_eval,
        "eval_freq": cfg.test.eval_freq,
    }


def count_parameters(model: torch.nn.Module) -> dict[str, int]:
    """Numbers of all parameters of a model and of those that are trained."""
    return {
        "all": sum(p.numel() for p in model.parameters()),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def print_parameters(name: str, model: torch.nn.Module, use_gpu: bool) -> None:
    """Prints the model's size and device."""
    counts = count_parameters(model)
    print(f"{name}: {counts['all']:,} parameters, {counts['trained']:,} trained, on {'cuda' if use_gpu else 'cpu'}")
