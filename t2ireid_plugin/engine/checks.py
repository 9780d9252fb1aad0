"""What is wrong with a configuration, said before anything is loaded; image_check.py has what only images have."""

from __future__ import annotations

from yacs.config import CfgNode

from t2ireid_plugin.config import changed_keys, image_only, to_dict
from t2ireid_plugin.data.benchmarks import BENCHMARKS, VAL_SUFFIX
from t2ireid_plugin.data.transforms import TRANSFORMS
from t2ireid_plugin.engine.memory import PRECISIONS
from t2ireid_plugin.engine.text_cache import check_text_cache
from t2ireid_plugin.engine.text_image import TEXT_FIELDS
from t2ireid_plugin.errors import ConfigError, check_choice
from t2ireid_plugin.evaluation.metrics import EVALUATORS
from t2ireid_plugin.evaluation.protocols import OFFICIAL, PROTOCOLS
from t2ireid_plugin.integrations.torchreid.checks import check_image_config, image_datasets
from t2ireid_plugin.losses import LossTerms
from t2ireid_plugin.modeling.disentangle import build_disentangle
from t2ireid_plugin.modeling.fusion import FUSIONS, check_fusion_dim
from t2ireid_plugin.modeling.t2ireid import EMBED_DIM
from t2ireid_plugin.utils.distributed import world_size

SAMPLERS = (
    "RandomSampler",
    "SequentialSampler",
    "RandomIdentitySampler",
    "RandomDomainSampler",
    "RandomDatasetSampler",
)
# What a sampler divides a batch by.
BATCH_DIVISORS = {
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
    "train.nonfinite_patience": 1,
    "train.bias_lr_mult": 0,
    "train.print_freq": 1,
    "data.val_seed": 0,
    "train.seed": 0,
    "train.encode_at_once": 0,
    "train.save_minutes": 0,
    "train.save_steps": 0,
    "test.batch_size": 1,
    "test.bootstrap": 0,
    "test.pictures": 0,
}
SCHEDULERS = ("warmup_cosine", "single_step", "multi_step", "cosine")
# torchreid's settings that do nothing for the text-image model, by their beginning. Its embeddings have unit norm, so
# test.dist_metric and test.normalize_feature change nothing either; whatever they say is true.
_WITHOUT_EFFECT = {
    "model.pretrained": "random weights are had with model.vit_pretrained '' and model.bert_base_path ''",
    "data.type": "there is no video here",
    "data.split_id": "the benchmarks have one split",
    "data.load_train_targets": "it trains on data.sources alone",
    "sampler.train_sampler_t": "it trains on data.sources alone",
    "train.new_layers": "with train.staged_lr the encoders learn slower than all else",
    "test.visrank": "--visualize draws ranked lists",
    **dict.fromkeys(("market1501.", "cuhk03.", "video."), "it is for torchreid's own datasets"),
    **dict.fromkeys(("sgd.", "rmsprop."), "train.optim is adamw"),
    **dict.fromkeys(("loss.softmax.", "loss.triplet."), "loss.terms are the losses"),
}


def check_config(cfg: CfgNode) -> None:
    """Refuses, before anything is loaded, names that do not exist and settings that cannot work.

    Raises:
        ConfigError: naming the key, the value and what would be right.
    """
    _check_common(cfg)
    (check_image_config if image_only(cfg) else _check_text_image)(cfg)


def check_shares(cfg: CfgNode) -> None:
    """Refuses training batches that the processes of this run cannot share; a test takes any number of processes.

    Raises:
        ConfigError: naming the key, the value and what would be right.
    """
    if cfg.train.batch_size % world_size() or cfg.train.batch_size < 2 * world_size():
        raise ConfigError(
            f"train.batch_size: {cfg.train.batch_size}, of all {world_size()} processes together, must give each the "
            "same number of samples, at least 2"
        )
    if cfg.sampler.train_sampler == "RandomIdentitySampler":
        share = cfg.train.batch_size // world_size()
        if share % cfg.sampler.num_instances:
            raise ConfigError(
                f"train.batch_size {cfg.train.batch_size} gives each of {world_size()} processes {share} samples, no "
                f"multiple of sampler.num_instances {cfg.sampler.num_instances}: a person would be divided"
            )


def _check_text_image(cfg: CfgNode) -> None:
    """What only our own training with texts knows."""
    datasets = [name + suffix for name in BENCHMARKS for suffix in ("", VAL_SUFFIX)]
    check_choice("model.fusion.type", cfg.model.fusion.type, tuple(FUSIONS))
    check_fusion_dim(cfg.model.fusion, EMBED_DIM)
    build_disentangle(to_dict(cfg.model.disentangle), 4, 1)
    for key in ("sources", "targets", "val"):
        for name in cfg.data[key] or ():
            if name not in datasets and name in image_datasets():
                raise ConfigError(
                    f"data.{key}: '{name}' has no sentences, which loss.name terms trains with; for images alone set "
                    f"loss.name softmax or triplet; with sentences: {', '.join(datasets)}"
                )
            check_choice(f"data.{key}", name, datasets)
    if any(name.endswith(VAL_SUFFIX) for name in cfg.data.sources):
        raise ConfigError(f"data.sources: {cfg.data.sources} names a val split; training needs the set itself")
    if not 0 < cfg.data.val_share < 1:
        raise ConfigError(f"data.val_share: {cfg.data.val_share} must be between 0 and 1; for no val set data.val []")
    for name in cfg.data.transforms:
        check_choice("data.transforms", name, TRANSFORMS)
    check_choice("data.on_bad_image", cfg.data.on_bad_image, ("error", "skip"))
    if not 0 <= cfg.data.bad_image_share <= 1:
        raise ConfigError(f"data.bad_image_share: {cfg.data.bad_image_share} must be from 0 to 1")
    check_choice("data.id_instruction", cfg.data.id_instruction, tuple(TEXT_FIELDS))
    check_choice("data.cloth_instruction", cfg.data.cloth_instruction, tuple(TEXT_FIELDS))
    check_text_cache(cfg)
    check_choice("train.optim", cfg.train.optim, ("adamw",))
    check_choice("train.lr_scheduler", cfg.train.lr_scheduler, SCHEDULERS)
    check_choice("train.precision", cfg.train.precision, tuple(PRECISIONS))
    if cfg.train.compile and (cfg.train.encode_at_once or cfg.train.checkpoint_encoders):
        raise ConfigError("train.compile: not together with train.encode_at_once or train.checkpoint_encoders")
    if cfg.train.compile and cfg.model.fusion.type == "sequence_mamba":
        raise ConfigError(
            "train.compile: sequence_mamba scans sequences of ever new lengths, each of which would compile"
        )
    for name in cfg.test.protocols:
        check_choice("test.protocols", name, tuple(PROTOCOLS))
    if OFFICIAL not in cfg.test.protocols:
        raise ConfigError(f"test.protocols: {cfg.test.protocols} must include {OFFICIAL}, the official protocol")
    if not 0 <= cfg.test.identity_weight <= 1:
        raise ConfigError(f"test.identity_weight: {cfg.test.identity_weight} must be from 0 to 1")
    if not 0 < cfg.train.layer_decay <= 1:
        raise ConfigError(f"train.layer_decay: {cfg.train.layer_decay} must be above 0 and at most 1, which is off")
    if not 0 <= cfg.train.ema_decay < 1:
        raise ConfigError(f"train.ema_decay: {cfg.train.ema_decay} must be from 0, which is off, to below 1")
    if cfg.data.k_tfm != 1:
        raise ConfigError(f"data.k_tfm: {cfg.data.k_tfm} views of an image are not supported, only 1")
    losses = LossTerms(to_dict(cfg.loss.terms), feature_dim=2, embed_dim=2, num_classes=2, vocab_size=2)
    losses.check_batches(cfg.sampler.train_sampler == "RandomIdentitySampler" and cfg.sampler.num_instances > 1)
    for name, value in changed_keys(cfg).items():
        for beginning, why in _WITHOUT_EFFECT.items():
            if name.startswith(beginning):
                raise ConfigError(f"{name}: {value!r} has no effect on {cfg.model.name} with loss.name terms; {why}")


def _check_common(cfg: CfgNode) -> None:
    """What holds for every training."""
    check_choice("sampler.train_sampler", cfg.sampler.train_sampler, SAMPLERS)
    check_choice("test.evaluator", cfg.test.evaluator, EVALUATORS)
    for key, least in _LEAST.items():
        table, name = key.split(".")
        if not cfg[table][name] >= least:  # so that nan is refused too
            raise ConfigError(f"{key}: {cfg[table][name]} must be at least {least}")
    if not cfg.data.sources or not cfg.data.targets:
        raise ConfigError("data.sources and data.targets must each name a dataset")
    if cfg.train.batch_size < 2:
        raise ConfigError(
            f"train.batch_size: {cfg.train.batch_size} is too small, batch normalisation needs at least 2 samples"
        )
    divisor = BATCH_DIVISORS.get(cfg.sampler.train_sampler)
    if divisor and cfg.train.batch_size % cfg.sampler[divisor]:
        raise ConfigError(
            f"train.batch_size {cfg.train.batch_size} is no multiple of sampler.{divisor} {cfg.sampler[divisor]}"
        )
    if not cfg.test.ranks or min(cfg.test.ranks) < 1 or 1 not in cfg.test.ranks:
        raise ConfigError(f"test.ranks: {cfg.test.ranks} must be positive and include 1, which chooses the checkpoint")
