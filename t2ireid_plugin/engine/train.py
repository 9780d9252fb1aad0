"""Training and testing on images with texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from yacs.config import CfgNode

from t2ireid_plugin.engine.build import (
    build_image_features,
    build_run,
    build_text_features,
    count_parameters,
    run_options,
)
from t2ireid_plugin.engine.checks import report_image_size
from t2ireid_plugin.engine.text_image import TextImageEngine
from t2ireid_plugin.engine.training_state import BEST, load_training_state
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.evaluation.metrics import metrics_by_target
from t2ireid_plugin.evaluation.result import Metrics, RetrievalResult
from t2ireid_plugin.modeling.checkpoint import Checkpoint, weights_digest
from t2ireid_plugin.utils.distributed import broadcast_object


class Outcome(NamedTuple):
    """The outcome of a run; the first five are entries of ``results.json``."""

    metrics: dict[str, dict[str, Metrics]]  # by target and protocol; empty except in the main process
    chosen: dict[str, Any]  # epoch, score and val metrics of the tested checkpoint
    weights: str  # digest of the tested weights
    datasets: dict[str, dict[str, dict[str, int]]]  # counts by dataset and split
    parameters: dict[str, int]  # counts
    results: Sequence[RetrievalResult] = ()
    engine: TextImageEngine | None = None  # None for images without texts


def train(cfg: CfgNode, folder: Path, last: Path | None, begin: Callable[[], None]) -> Outcome:
    """Trains, chooses the checkpoint on val and tests it.

    Args:
        cfg: a checked configuration.
        folder: of the run.
        last: the checkpoint to resume, if any; it describes its model. Else training starts from
            ``model.load_weights``, if any.
        begin: called when everything is ready to train.

    Raises:
        T2IReIDError: for every problem that the user can fix.
    """
    if last is None:
        report_image_size(cfg)
    engine = build_run(cfg, _start(cfg, last), described=last is not None)
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
    begin()
    engine.model.text_features = build_text_features(cfg, engine.model, engine.train_loader.dataset.train)
    engine.use_image_features(build_image_features(cfg, engine))
    engine.run(start_epoch=epochs, **run_options(cfg, folder))
    chosen = f"chosen on {cfg.test.choose_on}" if engine.choosing_targets else "the last, as there is no val split"
    print(f"Testing epoch {engine.best['epoch']}, {chosen}")
    engine.load_chosen(best)
    engine.use_image_features(None)  # the final test is that of `t2ireid test`, to the last bit
    return _evaluate(cfg, engine)


def _start(cfg: CfgNode, last: Path | None) -> Checkpoint | None:
    """The checkpoint that a training starts from; nothing keeps it in memory once the engine is built."""
    if last is not None:
        return load_training_state(last)
    return Checkpoint.read(cfg.model.load_weights) if cfg.model.load_weights else None


def test(cfg: CfgNode, folder: Path, checkpoint: Checkpoint) -> Outcome:
    """Tests a checkpoint.

    Args:
        cfg: a checked configuration, from `for_testing`.
        folder: of the test.
        checkpoint: to test.

    Raises:
        T2IReIDError: for every problem that the user can fix.
    """
    engine = build_run(cfg, checkpoint)
    engine.best = checkpoint.best
    return _evaluate(cfg, engine)


def _evaluate(cfg: CfgNode, engine: TextImageEngine) -> Outcome:
    labelled = {name: engine.datamanager.datasets[name].spec.labelled for name in engine.test_targets}
    for name in (name for name in labelled if not labelled[name]):
        engine.write_answers(name, Path(cfg.test.answer_file))
    results = engine.evaluate_protocols(
        [name for name in labelled if labelled[name]],
        cfg.test.protocols,
        samples=cfg.test.bootstrap,
        rerank=cfg.test.rerank,
    )
    return Outcome(
        metrics=metrics_by_target(results),
        chosen=engine.best,
        weights=weights_digest(engine.model.state_dict()),
        datasets={
            dataset.spec.name: {split: counts._asdict() for split, counts in dataset.counts.items()}
            for dataset in engine.datamanager.datasets.values()
        },
        parameters=count_parameters(engine.model),
        results=results,
        engine=engine,
    )
