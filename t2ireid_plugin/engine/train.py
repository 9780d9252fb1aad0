"""Training on images with texts: trains, chooses the checkpoint on val, and tests it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from yacs.config import CfgNode

from t2ireid_plugin.engine.build import build_feature_cache, build_run, count_parameters, run_options
from t2ireid_plugin.engine.text_image import TextImageEngine
from t2ireid_plugin.engine.training_state import BEST
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.evaluation.metrics import metrics_by_target
from t2ireid_plugin.evaluation.result import Metrics, RetrievalResult
from t2ireid_plugin.modeling.checkpoint import read_checkpoint
from t2ireid_plugin.utils.distributed import broadcast_object


class Outcome(NamedTuple):
    """The outcome of a run; the first four are entries of ``results.json``."""

    metrics: dict[str, dict[str, Metrics]]  # by target and protocol; empty except in the main process
    chosen: dict[str, Any]  # epoch, score and val metrics of the tested checkpoint
    datasets: dict[str, dict[str, dict[str, int]]]  # counts by dataset and split
    parameters: dict[str, int]  # counts
    results: Sequence[RetrievalResult] = ()
    engine: TextImageEngine | None = None  # None for images without texts


def train_and_test(
    cfg: CfgNode, folder: Path, weights: str | Path | None, last: Path | None, eval_only: bool
) -> Outcome:
    """Trains and tests, or with ``eval_only`` only tests.

    Args:
        cfg: a checked configuration.
        folder: of the run.
        weights: to start from, or to test.
        last: the checkpoint to resume, if any.
        eval_only: only test.

    Raises:
        T2IReIDError: for every problem that the user can fix.
    """
    engine = build_run(cfg, weights, for_training=not eval_only)
    if eval_only:
        print(f"Testing '{weights}'")
        engine.best = read_checkpoint(str(weights)).get("best", {})
    else:
        _train(cfg, engine, folder, last)
    results = engine.evaluate_protocols(
        engine.test_targets, cfg.test.protocols, samples=cfg.test.bootstrap, rerank=cfg.test.rerank
    )
    return Outcome(
        metrics=metrics_by_target(results),
        chosen=engine.best,
        datasets={
            dataset.spec.name: {split: counts._asdict() for split, counts in dataset.counts.items()}
            for dataset in engine.datamanager.datasets.values()
        },
        parameters=count_parameters(engine.model),
        results=results,
        engine=engine,
    )


def _train(cfg: CfgNode, engine: TextImageEngine, folder: Path, last: Path | None) -> None:
    """Trains from the start or from ``last``, and loads the chosen weights."""
    best = folder / BEST
    epochs, steps = cfg.train.start_epoch, 0
    if last is not None:
        epochs, steps = engine.resume(last)
        within = f" and {steps} steps of the next" if steps else ""
        print(f"Resuming '{last}' after epoch {epochs}{within}")
        if not broadcast_object(best.is_file()):  # resumed into another folder, where the choice starts again
            engine.best = {}
    if epochs >= cfg.train.max_epoch and engine.evaluated and not engine.best:
        raise ConfigError(f"train.max_epoch: {cfg.train.max_epoch} leaves nothing to train after {epochs}; raise it")
    engine.model.text_features = build_feature_cache(cfg, engine.model, engine.train_loader.dataset.train)
    engine.run(start_epoch=epochs, **run_options(cfg, folder))
    chosen = "chosen on val" if engine.val_targets else "the last, as there is no val split"
    print(f"Testing epoch {engine.best['epoch']}, {chosen}")
    engine.load_chosen(best)
