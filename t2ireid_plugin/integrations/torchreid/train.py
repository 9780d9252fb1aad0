"""torchreid's own training on images, from its own configurations: what a run does and leaves behind."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torchreid import utils as torchreid_utils
from yacs.config import CfgNode

from t2ireid_plugin.engine.build import count_parameters, print_parameters, run_options
from t2ireid_plugin.engine.checks import check_batch
from t2ireid_plugin.engine.training_state import save_json
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.evaluation.metrics import format_table
from t2ireid_plugin.evaluation.result import Metrics
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
from t2ireid_plugin.utils.logging import git_revision, versions


def run_image_only(
    cfg: CfgNode, command: str, folder: Path, weights: str | Path | None, last: Path | None, eval_only: bool
) -> dict[str, dict[str, Metrics]]:
    """Trains, or with ``eval_only`` only tests, the model that ``cfg`` describes; metrics by target and protocol.

    Writes ``last.pth``, ``best.pth``, ``metrics.jsonl``, TensorBoard events and ``results.json`` to ``folder``.

    Args:
        cfg: an image-only configuration, checked.
        command: what the user typed.
        folder: of the run.
        weights: to start from, or to test.
        last: the checkpoint to resume.
        eval_only: test only.

    Raises:
        T2IReIDError: for all that a user can mend.
    """
    if cfg.test.visrank and not eval_only:
        raise ConfigError("test.visrank: torchreid draws ranked lists when it only tests; add --eval-only")
    started = time.time()
    torchreid_utils.set_random_seed(cfg.train.seed)
    use_gpu = cfg.use_gpu and torch.cuda.is_available()
    datasets = load_datasets(cfg)
    num_classes = sum(datasets[name].num_train_pids for name in cfg.data.sources)
    sources = [datasets[name] for name in cfg.data.sources]
    check_batch(cfg, sources)
    model = build_image_model(cfg, num_classes, pretrained=not eval_only and last is None)
    preprocess = image_preprocess(cfg, model)
    datamanager = build_image_datamanager(cfg, preprocess, use_gpu)
    if weights:
        load_weights(weights, model)
    print_parameters(cfg.model.name, model, use_gpu)
    engine = build_image_engine(cfg, datamanager, model, preprocess, use_gpu)
    if eval_only:
        print(f"Testing '{weights}'")
        chosen = read_checkpoint(str(weights)).get("best", {})
        _run(cfg, engine, folder, test_only=True)
    else:
        chosen = _train(cfg, engine, folder, last)
    content = {
        "metrics": engine.results,
        "chosen": chosen,
        "datasets": dataset_counts(datasets),
        "parameters": count_parameters(model),
        "command": command,
        "seed": cfg.train.seed,
        "versions": versions(),
        "revision": git_revision(),
        "seconds": round(time.time() - started, 1),
    }
    save_json(content, folder / "results.json")
    print(f"\n{format_table(engine.results)}\n\nResults and log are in '{folder}'")
    return engine.results


def _train(cfg: CfgNode, engine: SoftmaxEngine | TripletEngine, folder: Path, last: Path | None) -> dict[str, Any]:
    """Trains up to ``train.max_epoch`` and tests that epoch; says which one it was."""
    start_epoch = cfg.train.start_epoch
    if last is not None:
        start_epoch = engine.resume(last)
        print(f"Resuming '{last}' after epoch {start_epoch}")
    elif start_epoch >= cfg.train.max_epoch:
        raise ConfigError(f"train.max_epoch: {cfg.train.max_epoch} leaves nothing to train after {start_epoch}")
    print("The last epoch is tested, as there is no val split to choose another one on")
    _run(cfg, engine, folder, test_only=start_epoch >= cfg.train.max_epoch, start_epoch=start_epoch)
    epoch = max(start_epoch, cfg.train.max_epoch)
    engine.save_chosen(epoch)
    return {"epoch": epoch, "val": {}}


def _run(
    cfg: CfgNode, engine: SoftmaxEngine | TripletEngine, folder: Path, test_only: bool, start_epoch: int = 0
) -> None:
    engine.run(
        start_epoch=start_epoch,
        **run_options(cfg, folder),
        test_only=test_only,
        dist_metric=cfg.test.dist_metric,
        normalize_feature=cfg.test.normalize_feature,
        visrank=cfg.test.visrank,
        visrank_topk=cfg.test.visrank_topk,
        ranks=list(cfg.test.ranks),
    )
