"""What cannot work in a configuration of FastReID with our parts, said before anything slow happens."""

from __future__ import annotations

import logging

import torch
from fastreid.config import CfgNode
from transformers import PretrainedConfig

from t2ireid_plugin.config import to_dict
from t2ireid_plugin.data.benchmarks import BENCHMARKS, VAL_SUFFIX
from t2ireid_plugin.errors import ConfigError, InputError, check_choice
from t2ireid_plugin.losses.terms import comparing_photos
from t2ireid_plugin.modeling.encoders.families import check_size
from t2ireid_plugin.modeling.encoders.preprocess import Preprocess

# FastReID's logger shows what is below its own name.
logger = logging.getLogger("fastreid.t2ireid_plugin")

TEXT_IMAGE = "T2IReIDBaseline"  # the meta-architecture
IDENTITY_SAMPLERS = ("NaiveIdentitySampler", "BalancedIdentitySampler")
SAMPLERS = ("TrainingSampler", *IDENTITY_SAMPLERS)


def check_pixels(cfg: CfgNode, own: Preprocess, encoder: PretrainedConfig) -> None:
    """Refuses sizes that the image encoder cannot read, and warns of a normalisation that is not its own.

    FastReID's defaults are ImageNet's, with which a ViT works, only worse; so nothing else would tell.

    Raises:
        ConfigError: naming the key.
    """
    for key in ("SIZE_TRAIN", "SIZE_TEST"):
        size = cfg.INPUT[key]
        if len(size) != 2:
            raise ConfigError(f"INPUT.{key}: {size} must be [height, width]")
        try:
            check_size(encoder, *size)
        except InputError as error:
            raise ConfigError(f"INPUT.{key}: {error}") from error
    for key, values in (("PIXEL_MEAN", own.mean), ("PIXEL_STD", own.std)):
        wanted = [round(255 * value, 3) for value in values]
        if any(abs(found - value) > 0.5 for found, value in zip(cfg.MODEL[key], wanted)):
            logger.warning(f"MODEL.{key}: {cfg.MODEL[key]} is not the image encoder's own, which is {wanted}")


def check_device(cfg: CfgNode, num_gpus: int = 1) -> None:
    """Refuses what needs a CUDA device where there is none.

    Raises:
        ConfigError: naming the key or the option.
    """
    found = torch.cuda.device_count()
    if num_gpus > max(1, found):
        raise ConfigError(f"--num-gpus {num_gpus}: there are {found} CUDA devices here")
    if cfg.MODEL.DEVICE.startswith("cuda") and not found:
        raise ConfigError(f"MODEL.DEVICE: {cfg.MODEL.DEVICE}, but there is no CUDA device here; set MODEL.DEVICE cpu")
    if cfg.SOLVER.AMP.ENABLED and not found:
        raise ConfigError("SOLVER.AMP.ENABLED: mixed precision of FastReID needs CUDA; set SOLVER.AMP.ENABLED False")


def check_text_image(cfg: CfgNode) -> None:
    """Refuses settings of FastReID that text-image training or evaluation would ignore, or that end in a hang.

    Raises:
        ConfigError: naming the key, the value and what would be right.
    """
    names = [name + suffix for name in BENCHMARKS for suffix in ("", VAL_SUFFIX)]
    for name in (*cfg.DATASETS.NAMES, *cfg.DATASETS.TESTS):
        check_choice("DATASETS", name, names)
    if any(name.endswith(VAL_SUFFIX) for name in cfg.DATASETS.NAMES):
        raise ConfigError(f"DATASETS.NAMES: {cfg.DATASETS.NAMES} names a val split; training needs the set itself")
    if cfg.DATASETS.COMBINEALL:
        raise ConfigError("DATASETS.COMBINEALL: True would train on the test identities")
    for key in ("FLIP", "AQE", "RERANK", "ROC", "PRECISE_BN"):
        if cfg.TEST[key].ENABLED:
            raise ConfigError(f"TEST.{key}.ENABLED: True is for images alone; with texts it must be False")
    if cfg.TEST.METRIC != "cosine":
        raise ConfigError(f"TEST.METRIC: {cfg.TEST.METRIC} must be cosine, which the embeddings are trained for")
    check_choice("DATALOADER.SAMPLER_TRAIN", cfg.DATALOADER.SAMPLER_TRAIN, SAMPLERS)
    batch, instances = cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_INSTANCE
    by_identity = cfg.DATALOADER.SAMPLER_TRAIN in IDENTITY_SAMPLERS
    if batch < 2:
        raise ConfigError(f"SOLVER.IMS_PER_BATCH: {batch} is too small, batch normalisation needs at least 2 samples")
    if by_identity and batch % instances:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH: {batch} is no multiple of DATALOADER.NUM_INSTANCE {instances}; FastReID's "
            f"{cfg.DATALOADER.SAMPLER_TRAIN} would never give a batch"
        )
    for name in comparing_photos(to_dict(cfg.T2IREID.LOSSES)):
        if not (by_identity and instances > 1):
            raise ConfigError(
                f"T2IREID.LOSSES.{name} compares photos of one person, and a batch has only one: set "
                f"DATALOADER.SAMPLER_TRAIN to {' or '.join(IDENTITY_SAMPLERS)} and DATALOADER.NUM_INSTANCE to 2 or more"
            )


def check_schedule(cfg: CfgNode, captions: int, identities: int) -> None:
    """Refuses a training set that is too small for a batch, and a schedule that FastReID cannot divide by.

    Raises:
        ConfigError: naming the key, the value and what would be right.
    """
    batch = cfg.SOLVER.IMS_PER_BATCH
    if captions < batch:
        raise ConfigError(f"SOLVER.IMS_PER_BATCH: {batch} is more than the {captions} captions of the training split")
    wanted = batch // cfg.DATALOADER.NUM_INSTANCE
    if cfg.DATALOADER.SAMPLER_TRAIN in IDENTITY_SAMPLERS and identities < wanted:
        raise ConfigError(
            f"the training split has {identities} identities, but a batch takes {wanted} (SOLVER.IMS_PER_BATCH {batch} "
            f"/ DATALOADER.NUM_INSTANCE {cfg.DATALOADER.NUM_INSTANCE})"
        )
    if cfg.SOLVER.SCHED == "CosineAnnealingLR":
        warmup = -(-cfg.SOLVER.WARMUP_ITERS // (captions // batch))
        if max(warmup, cfg.SOLVER.DELAY_EPOCHS) >= cfg.SOLVER.MAX_EPOCH:
            raise ConfigError(
                f"SOLVER.MAX_EPOCH: {cfg.SOLVER.MAX_EPOCH} leaves nothing after SOLVER.WARMUP_ITERS "
                f"{cfg.SOLVER.WARMUP_ITERS} ({warmup} epochs) and SOLVER.DELAY_EPOCHS {cfg.SOLVER.DELAY_EPOCHS}"
            )
