"""torchreid's training on images alone, from its own configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torchreid import utils as torchreid_utils
from yacs.config import CfgNode

from t2ireid_plugin.engine.build import count_parameters, print_parameters, run_options
from t2ireid_plugin.engine.checks import check_batch
from t2ireid_plugin.engine.train import Outcome
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.integrations.torchreid.build import (
    build_image_datamanager,
    build_image_engine,
    build_image_model,
    dataset_counts,
    image_preprocess,
    load_datasets,
)
from t2ireid_plugin.integrations.torchreid.engine import SoftmaxEngine, TripletEngine
from t2ireid_plugin.modeling.checkpoint import load_weights, read_checkpoint


def train_and_test(
    cfg: CfgNode, folder: Path, weights: str | Path | None, last: Path | None, eval_only: bool
) -> Outcome:
    """Trains and tests, or with ``eval_only`` only tests, the model that ``cfg`` describes.

    Args:
        cfg: a checked image-only configuration.
        folder: of the run.
        weights: to start from, or to test.
        last: the checkpoint to resume, if any.
        eval_only: only test.

    Raises:
        T2IReIDError: for every problem that the user can fix.
    """
    if cfg.test.visrank and not eval_only:
        raise ConfigError("test.visrank: torchreid draws ranked lists only when testing; add --eval-only")
    torchreid_utils.set_random_seed(cfg.train.seed)
    use_gpu = cfg.use_gpu and torch.cuda.is_available()
    datasets = load_datasets(cfg)
    sources = [datasets[name] for name in cfg.data.sources]
    check_batch(cfg, sources)
    num_classes = sum(source.num_train_pids for source in sources)
    model = build_image_model(cfg, num_classes, pretrained=not eval_only and last is None)
    preprocess = image_preprocess(cfg, model)
    datamanager = build_image_datamanager(cfg, preprocess, use_gpu)
    if weights:
        load_weights(weights, model)
    print_parameters(cfg.model.name, model, use_gpu)
    engine = build_image_engine(cfg, datamanager, model, preprocess, use_gpu)
    test = {name: cfg.test[name] for name in ("dist_metric", "normalize_feature", "visrank", "visrank_topk")}
    options = {**run_options(cfg, folder), **test, "ranks": list(cfg.test.ranks)}
    if eval_only:
        print(f"Testing '{weights}'")
        chosen = read_checkpoint(str(weights)).get("best", {})
        engine.run(test_only=True, **options)
    else:
        chosen = _train(engine, last, cfg.train.start_epoch, options)
    return Outcome(engine.results, chosen, dataset_counts(datasets), count_parameters(model))


def _train(
    engine: SoftmaxEngine | TripletEngine, last: Path | None, start_epoch: int, options: dict[str, Any]
) -> dict[str, Any]:
    """Trains to the last epoch and tests it; returns it as the chosen one."""
    max_epoch = options["max_epoch"]
    if last is not None:
        start_epoch = engine.resume(last)
        print(f"Resuming '{last}' after epoch {start_epoch}")
    elif start_epoch >= max_epoch:
        raise ConfigError(f"train.max_epoch: {max_epoch} leaves nothing to train after {start_epoch}")
    print("The last epoch is tested, as torchreid's datasets have no val split")
    engine.run(test_only=start_epoch >= max_epoch, start_epoch=start_epoch, **options)
    epoch = max(start_epoch, max_epoch)
    engine.save_chosen(epoch)
    return {"epoch": epoch, "val": {}}
