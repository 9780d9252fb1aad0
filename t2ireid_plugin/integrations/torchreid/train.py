"""torchreid's training on images alone, from its own configurations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torchreid import utils as torchreid_utils
from yacs.config import CfgNode

from t2ireid_plugin.data.item_table import digest
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
from t2ireid_plugin.integrations.torchreid.model import T2IReIDImageModel
from t2ireid_plugin.modeling.checkpoint import Checkpoint, copy_state_dict, load_weights, weights_digest
from t2ireid_plugin.modeling.stored import read_stored


def train(cfg: CfgNode, folder: Path, last: Path | None, begin: Callable[[], None]) -> Outcome:
    """Trains the model that ``cfg`` describes to the last epoch and tests it.

    Args:
        cfg: a checked image-only configuration.
        folder: of the run.
        last: the checkpoint to resume, if any. Else training starts from ``model.load_weights``, if any.
        begin: called when everything is ready to train.

    Raises:
        T2IReIDError: for every problem that the user can fix.
    """
    if cfg.test.visrank:
        raise ConfigError("test.visrank: torchreid draws ranked lists only when testing; add --eval-only")
    engine, datasets = _build(cfg, pretrained=last is None)
    if cfg.model.load_weights and last is None:
        load_weights(cfg.model.load_weights, engine.network)
    start_epoch, max_epoch = cfg.train.start_epoch, cfg.train.max_epoch
    if last is not None:
        start_epoch = engine.resume(last)
        print(f"Resuming '{last}' after epoch {start_epoch}")
    elif start_epoch >= max_epoch:
        raise ConfigError(f"train.max_epoch: {max_epoch} leaves nothing to train after {start_epoch}")
    begin()
    print("The last epoch is tested, as torchreid's datasets have no val split")
    engine.run(test_only=start_epoch >= max_epoch, start_epoch=start_epoch, **_options(cfg, folder))
    chosen = engine.save_chosen(max(start_epoch, max_epoch))
    return _outcome(engine, datasets, chosen)


def test(cfg: CfgNode, folder: Path, checkpoint: Checkpoint) -> Outcome:
    """Tests a checkpoint.

    Args:
        cfg: a checked image-only configuration.
        folder: of the test.
        checkpoint: to test.

    Raises:
        T2IReIDError: for every problem that the user can fix.
    """
    engine, datasets = _build(cfg, pretrained=False)
    copy_state_dict(checkpoint.state, engine.network, checkpoint.path).require_complete(checkpoint.path)
    if isinstance(engine.network, T2IReIDImageModel):
        engine.network.take_ranking(read_stored(checkpoint).ranking, checkpoint.path)
    engine.run(test_only=True, **_options(cfg, folder))
    return _outcome(engine, datasets, checkpoint.best)


def _build(cfg: CfgNode, pretrained: bool) -> tuple[SoftmaxEngine | TripletEngine, dict[str, Any]]:
    """The engine of a run, seeded, and its datasets by name."""
    torchreid_utils.set_random_seed(cfg.train.seed)
    use_gpu = cfg.use_gpu and torch.cuda.is_available()
    datasets = load_datasets(cfg)
    sources = [datasets[name] for name in cfg.data.sources]
    check_batch(cfg, sources)
    model = build_image_model(cfg, sum(source.num_train_pids for source in sources), pretrained)
    preprocess = image_preprocess(cfg, model)
    datamanager = build_image_datamanager(cfg, preprocess, use_gpu)
    print_parameters(cfg.model.name, model, use_gpu)
    data = {name: digest(dataset.train) for name, dataset in zip(cfg.data.sources, sources)}
    return build_image_engine(cfg, datamanager, model, preprocess, use_gpu, data), datasets


def _options(cfg: CfgNode, folder: Path) -> dict[str, Any]:
    test = {name: cfg.test[name] for name in ("dist_metric", "normalize_feature", "visrank", "visrank_topk")}
    return {**run_options(cfg, folder), **test, "ranks": list(cfg.test.ranks)}


def _outcome(engine: SoftmaxEngine | TripletEngine, datasets: dict[str, Any], chosen: dict[str, Any]) -> Outcome:
    network = engine.network
    weights = weights_digest(network.state_dict())
    return Outcome(engine.results, chosen, weights, dataset_counts(datasets), count_parameters(network))
