"""``tools/train_fastreid.py``: training and evaluation with FastReID and its command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from fastreid.config import CfgNode, get_cfg
from fastreid.engine import default_argument_parser, default_setup, launch

from t2ireid_plugin.config import config_path
from t2ireid_plugin.errors import ConfigError, T2IReIDError
from t2ireid_plugin.integrations.fastreid import add_t2ireid_config, register
from t2ireid_plugin.integrations.fastreid.checkpointer import T2IReIDCheckpointer
from t2ireid_plugin.integrations.fastreid.checks import check_text_image, logger, warn_of_preprocess
from t2ireid_plugin.integrations.fastreid.loaders import check_data
from t2ireid_plugin.integrations.fastreid.parts import TEXT_IMAGE, check_parts
from t2ireid_plugin.integrations.fastreid.trainer import T2IReIDTrainer, TextImageTrainer
from t2ireid_plugin.modeling.checkpoint import Checkpoint
from t2ireid_plugin.modeling.stored import read_stored


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit status: 0 for success, 2 for an error that the user can fix."""
    arguments = default_argument_parser().parse_args(argv)
    try:
        setup(arguments)  # also here, where an error is one line; then in each process
        launch(
            run,
            arguments.num_gpus,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
            args=(arguments,),
        )
    except T2IReIDError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def setup(arguments: argparse.Namespace) -> CfgNode:
    """Builds, checks and freezes the configuration.

    Raises:
        ConfigError: for a missing or broken file, an unknown key, or a value that cannot work.
    """
    register()
    cfg = get_cfg()
    add_t2ireid_config(cfg)
    try:
        if arguments.config_file:
            cfg.merge_from_file(str(config_path(arguments.config_file)))
        cfg.merge_from_list(arguments.opts)
    except (KeyError, AssertionError, ValueError, OSError, yaml.YAMLError) as error:
        # unknown keys, wrong types, options after the settings, files that are missing or not YAML
        message = error.args[0] if isinstance(error, KeyError) else error
        raise ConfigError(" ".join(str(message).split())) from error
    devices = torch.cuda.device_count()
    if cfg.MODEL.DEVICE.startswith("cuda") and not devices:
        raise ConfigError(
            f"MODEL.DEVICE: {cfg.MODEL.DEVICE}, but this machine has no CUDA device; set MODEL.DEVICE cpu"
        )
    if cfg.SOLVER.AMP.ENABLED and not devices:
        raise ConfigError("SOLVER.AMP.ENABLED: True, but this machine has no CUDA device; set it to False")
    if arguments.num_gpus > max(1, devices):
        raise ConfigError(f"--num-gpus: {arguments.num_gpus}, but this machine has {devices} CUDA devices")
    check_parts(cfg)
    if cfg.MODEL.META_ARCHITECTURE == TEXT_IMAGE:
        check_text_image(cfg)
    weights = cfg.MODEL.WEIGHTS
    if weights and "://" not in weights and not Path(weights).is_file():
        raise ConfigError(f"MODEL.WEIGHTS: no checkpoint at '{weights}'")
    if arguments.eval_only and not weights:
        raise ConfigError("--eval-only needs MODEL.WEIGHTS, the checkpoint to test")
    if arguments.eval_only:
        cfg.MODEL.BACKBONE.PRETRAIN = False  # would be overwritten; FastReID's own tool does the same
    cfg.freeze()
    return cfg


def run(arguments: argparse.Namespace) -> Any:
    """Trains in each process, or with ``--eval-only`` evaluates ``MODEL.WEIGHTS``; returns FastReID's results.

    Raises:
        T2IReIDError: for any problem that the user can fix.
    """
    cfg = setup(arguments)
    trainer_class = T2IReIDTrainer
    if cfg.MODEL.META_ARCHITECTURE == TEXT_IMAGE:
        trainer_class = TextImageTrainer
        check_data(cfg)
    default_setup(cfg, arguments)
    if arguments.eval_only:
        model = trainer_class.build_model(cfg)
        checkpointer = T2IReIDCheckpointer(model)
        checkpointer.load(cfg.MODEL.WEIGHTS)
        checkpointer.report.require_complete(cfg.MODEL.WEIGHTS)
        stored = read_stored(Checkpoint.read(cfg.MODEL.WEIGHTS))
        warn_of_preprocess(cfg, stored.preprocess)
        if cfg.MODEL.META_ARCHITECTURE == TEXT_IMAGE:
            model.backbone.ranking = ranking = stored.ranking or model.backbone.ranking
            whose = "the checkpoint's" if stored.ranking else "of T2IREID.ID_INSTRUCTION, as the checkpoint has none"
            logger.info(f"ranking, {whose}: {ranking}")
        return trainer_class.test(cfg, model)
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume=arguments.resume)
    return trainer.train()
