"""Checks of a FastReID configuration that uses our parts, before anything slow happens."""

from __future__ import annotations

import logging

from fastreid.config import CfgNode
from transformers import PretrainedConfig

from t2ireid_plugin.config import to_dict
from t2ireid_plugin.data.benchmarks import BENCHMARKS, VAL_SUFFIX
from t2ireid_plugin.errors import ConfigError, InputError, check_choice
from t2ireid_plugin.losses.base import RUN_INPUTS
from t2ireid_plugin.losses.terms import comparing_photos, reading
from t2ireid_plugin.modeling.encoders.backbones import image_reader
from t2ireid_plugin.modeling.encoders.preprocess import Preprocess

# A child of FastReID's logger, which prints its messages.
logger = logging.getLogger("fastreid.t2ireid_plugin")

IDENTITY_SAMPLERS = ("NaiveIdentitySampler", "BalancedIdentitySampler")
SAMPLERS = ("TrainingSampler", *IDENTITY_SAMPLERS)


def check_image_encoder(cfg: CfgNode, own: Preprocess, encoder: PretrainedConfig, width: int) -> None:
    """Checks that ``FEAT_DIM`` is ``width`` and the encoder can read the sizes; warns of another normalisation.

    Raises:
        ConfigError: naming the key.
    """
    feat_dim = cfg.MODEL.BACKBONE.FEAT_DIM
    if feat_dim != width:
        raise ConfigError(f"MODEL.BACKBONE.FEAT_DIM: {feat_dim} must be {width}, the width of the backbone's features")
    for key in ("SIZE_TRAIN", "SIZE_TEST"):
        size = cfg.INPUT[key]
        if len(size) != 2:
            raise ConfigError(f"INPUT.{key}: {size} must be [height, width]")
        try:
            image_reader(encoder).check_size(*size)
        except InputError as error:
            raise ConfigError(f"INPUT.{key}: {error}") from error
    warn_of_normalisation(cfg, own, "the image encoder's")


def warn_of_normalisation(cfg: CfgNode, expected: Preprocess, whose: str) -> None:
    """Warns of pixel values that differ, as FastReID's, which are ImageNet's: a ViT works a little worse with them."""
    for key, values in (("PIXEL_MEAN", expected.mean), ("PIXEL_STD", expected.std)):
        pixels = [round(255 * value, 3) for value in values]
        if any(abs(a - b) > 0.5 for a, b in zip(cfg.MODEL[key], pixels)):
            logger.warning(f"MODEL.{key}: {cfg.MODEL[key]} differs from {whose}, {pixels}")


def warn_of_preprocess(cfg: CfgNode, trained: Preprocess | None) -> None:
    """Warns of another image size or normalisation than the weights to evaluate were trained with, where known."""
    if trained is not None:
        warn_of_normalisation(cfg, trained, "the training's")
        size = [trained.height, trained.width]
        if list(cfg.INPUT.SIZE_TEST) != size:
            logger.warning(f"INPUT.SIZE_TEST: {cfg.INPUT.SIZE_TEST} differs from the training's, {size}")


def check_text_image(cfg: CfgNode) -> None:
    """Checks settings that training or evaluation with texts would ignore, or with which FastReID would hang.

    Raises:
        ConfigError: naming the key, the value and the fix.
    """
    for name in cfg.DATASETS.NAMES:
        check_choice("DATASETS.NAMES", name, BENCHMARKS)
    for name in cfg.DATASETS.TESTS:
        check_choice("DATASETS.TESTS", name, [test for own in BENCHMARKS for test in (own, own + VAL_SUFFIX)])
    if cfg.DATASETS.COMBINEALL:
        raise ConfigError("DATASETS.COMBINEALL: True would train on the test identities; set it to False")
    for key in ("FLIP", "AQE", "RERANK", "ROC", "PRECISE_BN"):
        if cfg.TEST[key].ENABLED:
            raise ConfigError(f"TEST.{key}.ENABLED: True works on images alone; set it to False")
    if cfg.TEST.METRIC != "cosine":
        raise ConfigError(f"TEST.METRIC: {cfg.TEST.METRIC} must be cosine, for which the embeddings are trained")
    by_one = cfg.T2IREID.ID_INSTRUCTION == "caption"
    if cfg.T2IREID.DISENTANGLE.TYPE == "none" and not by_one:
        raise ConfigError("T2IREID.DISENTANGLE.TYPE: none has no clothing branch; set T2IREID.ID_INSTRUCTION caption")
    if cfg.T2IREID.FUSION.TYPE == "residual" and by_one:
        raise ConfigError("T2IREID.FUSION.TYPE: residual fuses both branches; set T2IREID.ID_INSTRUCTION identity")
    check_choice("DATALOADER.SAMPLER_TRAIN", cfg.DATALOADER.SAMPLER_TRAIN, SAMPLERS)
    batch, instances = cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_INSTANCE
    by_identity = cfg.DATALOADER.SAMPLER_TRAIN in IDENTITY_SAMPLERS
    if by_identity and batch % instances:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH: {batch} is not a multiple of DATALOADER.NUM_INSTANCE {instances}; FastReID's "
            f"{cfg.DATALOADER.SAMPLER_TRAIN} would never yield a batch"
        )
    for name in reading(to_dict(cfg.T2IREID.LOSSES), RUN_INPUTS):
        raise ConfigError(
            f"T2IREID.LOSSES.{name} reads outfits, words or further views, which FastReID's batches do not have; "
            "train with t2ireid, or set its weight to 0"
        )
    for name in comparing_photos(to_dict(cfg.T2IREID.LOSSES)):
        if not (by_identity and instances > 1):
            raise ConfigError(
                f"T2IREID.LOSSES.{name} compares images of the same identity, but a batch has one per identity; set "
                f"DATALOADER.SAMPLER_TRAIN to {' or '.join(IDENTITY_SAMPLERS)} and DATALOADER.NUM_INSTANCE to 2 or more"
            )


def check_schedule(cfg: CfgNode, captions: int, identities: int) -> None:
    """Checks that the training set fills a batch, and that warm-up leaves epochs for FastReID's cosine schedule.

    Raises:
        ConfigError: naming the key and the value.
    """
    batch = cfg.SOLVER.IMS_PER_BATCH
    if captions < batch:
        raise ConfigError(f"SOLVER.IMS_PER_BATCH: {batch} exceeds the {captions} captions of the training split")
    per_batch = batch // cfg.DATALOADER.NUM_INSTANCE
    if cfg.DATALOADER.SAMPLER_TRAIN in IDENTITY_SAMPLERS and identities < per_batch:
        raise ConfigError(
            f"the training split has {identities} identities, a batch needs {per_batch} (SOLVER.IMS_PER_BATCH {batch} "
            f"/ DATALOADER.NUM_INSTANCE {cfg.DATALOADER.NUM_INSTANCE})"
        )
    if cfg.SOLVER.SCHED == "CosineAnnealingLR":
        warmup = -(-cfg.SOLVER.WARMUP_ITERS // (captions // batch))
        if max(warmup, cfg.SOLVER.DELAY_EPOCHS) >= cfg.SOLVER.MAX_EPOCH:
            raise ConfigError(
                f"SOLVER.MAX_EPOCH: {cfg.SOLVER.MAX_EPOCH} leaves no epoch after SOLVER.WARMUP_ITERS "
                f"{cfg.SOLVER.WARMUP_ITERS} ({warmup} epochs) and SOLVER.DELAY_EPOCHS {cfg.SOLVER.DELAY_EPOCHS}"
            )
