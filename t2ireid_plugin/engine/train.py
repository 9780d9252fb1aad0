"""The main job: train, choose on val, test, and write what a run leaves behind."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from pathlib import Path

import torch
from torchreid import utils as torchreid_utils
from yacs.config import CfgNode

from t2ireid_plugin.config import dump, image_only
from t2ireid_plugin.data.manager import explain_dead_workers
from t2ireid_plugin.engine.build import (
    build_datamanager,
    build_engine,
    build_model,
    build_sources,
    build_tokenizer,
    check_files,
    check_several_photos,
    dataset_counts,
)
from t2ireid_plugin.engine.checks import check_config, check_shares
from t2ireid_plugin.engine.text_cache import remember_texts
from t2ireid_plugin.engine.text_image import TextImageEngine
from t2ireid_plugin.engine.training_state import newest_checkpoint, save_json
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.evaluation.metrics import Metrics, format_table
from t2ireid_plugin.evaluation.protocols import IMAGE_QUERY_PROTOCOLS, OFFICIAL, PROTOCOLS
from t2ireid_plugin.evaluation.query_records import QueryRecord, query_keys, save_records
from t2ireid_plugin.modeling.checkpoint import read_checkpoint
from t2ireid_plugin.synthetic.parts import is_drawn
from t2ireid_plugin.utils.atomic_io import atomic_write_text, explain_write_errors
from t2ireid_plugin.utils.deterministic import set_deterministic
from t2ireid_plugin.utils.distributed import broadcast_object, is_main_process, process_group
from t2ireid_plugin.utils.file_lock import lock_folder
from t2ireid_plugin.utils.logging import describe_environment, git_revision, log_to, versions
from t2ireid_plugin.utils.signals import stop_on_signal
from t2ireid_plugin.visualization.drawing import draw_ranked_lists
from t2ireid_plugin.visualization.ranked_lists import evenly_spaced, ranked_lists
from t2ireid_plugin.visualization.report import Run
from t2ireid_plugin.visualization.visualize import Target, visualize


def run_job(
    cfg: CfgNode, command: str, eval_only: bool = False, resume: bool = False, pictures: bool = False
) -> dict[str, dict[str, Metrics]]:
    """Trains (or with ``eval_only`` only tests) what ``cfg`` describes; returns metrics by target and protocol.

    An image-only configuration goes to `image_job`.

    Writes to ``data.save_dir``: ``config.yaml``, ``env.txt``, ``train.log`` (``test.log``), ``metrics.jsonl``,
    TensorBoard events, ``last.pth``, ``last.prev.pth``, ``best.pth``, ``results.json``, ``queries_<target>.npz``,
    ``ranked_<target>.png`` and, if asked for, ``visualize_<target>/``.

    Args:
        cfg: the configuration.
        command: what the user typed, for ``results.json``.
        eval_only: test ``model.load_weights``, or else ``best.pth`` of the run's folder.
        resume: go on from the newest checkpoint of the run's folder that is whole, when there is one.
        pictures: draw what was found and where the model looked, see `evaluation.visualize`; not of an image-only
            configuration, whose test.visrank draws torchreid's pictures.

    Raises:
        T2IReIDError: for all that a user can mend.
    """
    with process_group(cfg.use_gpu), explain_dead_workers():
        return _run_in_folder(cfg, command, eval_only or cfg.test.evaluate, resume, pictures)


def _run_in_folder(
    cfg: CfgNode, command: str, eval_only: bool, resume: bool, pictures: bool
) -> dict[str, dict[str, Metrics]]:
    """Checks what can be checked at once, takes hold of the folder, and runs; only the first process writes there."""
    check_config(cfg)
    if not eval_only:
        check_shares(cfg)
    if pictures and image_only(cfg):
        raise ConfigError("--visualize draws what sentences find; without sentences use test.visrank True --eval-only")
    folder = Path(cfg.data.save_dir)
    weights = weights_to_test(cfg, folder) if eval_only else cfg.model.load_weights
    check_files(cfg)
    if not is_main_process():
        logging.getLogger("t2ireid_plugin").addHandler(logging.NullHandler())  # the first one tells
        with stop_on_signal(), open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
            return _run(cfg, weights, folder, command, eval_only, resume, pictures)
    make_folder(folder)
    with stop_on_signal(), explain_write_errors(folder, ConfigError), lock_folder(folder):
        atomic_write_text(folder / "config.yaml", dump(cfg), ConfigError)
        atomic_write_text(folder / "env.txt", describe_environment(), ConfigError)
        with log_to(folder / ("test.log" if eval_only else "train.log"), append=resume or bool(cfg.model.resume)):
            return _run(cfg, weights, folder, command, eval_only, resume, pictures)


def _run(
    cfg: CfgNode, weights: str | Path, folder: Path, command: str, eval_only: bool, resume: bool, pictures: bool
) -> dict[str, dict[str, Metrics]]:
    """As `run_job`, once the folder is there and is ours."""
    started = time.time()
    last = broadcast_object(_checkpoint_to_resume(cfg, folder, resume) if is_main_process() and not eval_only else None)
    if image_only(cfg):
        from t2ireid_plugin.integrations.torchreid.train import run_image_job  # which needs this module

        return run_image_job(cfg, command, folder, weights, last, eval_only)
    if not eval_only:
        check_several_photos(cfg)
    engine = build_run(cfg, weights)
    if eval_only:
        print(f"Testing '{weights}'")
        engine.best = read_checkpoint(weights).get("best", {})
    else:
        _train(cfg, engine, folder, last)
    metrics = engine.evaluate_protocols(
        engine.test_targets, cfg.test.protocols, samples=cfg.test.bootstrap, rerank=cfg.test.rerank
    )
    if not is_main_process():
        return metrics
    _report(cfg, engine, metrics, folder, command, time.time() - started)
    if pictures:  # last, since all figures are safe by now
        _visualize(cfg, engine, folder)
    return metrics


def build_run(cfg: CfgNode, weights: str | Path | None) -> TextImageEngine:
    """The engine of a run with its model and data, seeded; ``weights`` are loaded where given.

    Raises:
        T2IReIDError: for all that a user can mend.
    """
    set_deterministic(cfg.train.deterministic)
    torchreid_utils.set_random_seed(cfg.train.seed)
    use_gpu = cfg.use_gpu and torch.cuda.is_available()
    num_classes = sum(dataset.num_train_pids for dataset in build_sources(cfg).values())
    model = build_model(cfg, build_tokenizer(cfg, weights), num_classes)
    datamanager = build_datamanager(cfg, model.preprocess, use_gpu, model.text_cache.tokenizer.mask_token)
    if weights:
        model.load_param(weights)
    counts, device = count_parameters(model), "cuda" if use_gpu else "cpu"
    print(f"{cfg.model.name}: {counts['all']:,} parameters, {counts['trained']:,} trained, on {device}")
    return build_engine(cfg, datamanager, model, use_gpu)


def _train(cfg: CfgNode, engine: TextImageEngine, folder: Path, last: Path | None) -> None:
    best = folder / "best.pth"
    epochs, steps = cfg.train.start_epoch, 0
    if last is not None:
        epochs, steps = engine.resume(last)
        within = f" and {steps} steps of the next" if steps else ""
        print(f"Resuming '{last}' after epoch {epochs}{within}")
        if not broadcast_object(best.is_file()):  # it stayed in another folder; choose again from here on
            engine.best = {}
    if epochs >= cfg.train.max_epoch and engine.evaluated and not engine.best:
        raise ConfigError(f"train.max_epoch: {cfg.train.max_epoch} leaves nothing to train after {epochs}")
    remember_texts(cfg, engine.model, engine.datamanager.train_loader.dataset.train)
    engine.run(
        save_dir=str(folder),
        max_epoch=cfg.train.max_epoch,
        start_epoch=epochs,
        print_freq=cfg.train.print_freq,
        fixbase_epoch=cfg.train.fixbase_epoch,
        open_layers=cfg.train.open_layers,
        start_eval=cfg.test.start_eval,
        eval_freq=cfg.test.eval_freq,
    )
    chosen = "chosen on val" if engine.val_targets else "the last, as there is no val split"
    print(f"Testing epoch {engine.best['epoch']}, {chosen}")
    engine.load_chosen(best)


def _report(
    cfg: CfgNode,
    engine: TextImageEngine,
    metrics: dict[str, dict[str, Metrics]],
    folder: Path,
    command: str,
    seconds: float,
) -> None:
    """The table on the console, ``results.json``, each query's figures, and a picture of ranked lists a target."""
    for name in metrics:
        _save_queries(engine, name, folder / f"queries_{name}.npz")
        if cfg.test.pictures > 0:
            _draw_examples(engine, name, folder / f"ranked_{name}.png", cfg.test.pictures)
    save_json(
        {
            "metrics": metrics,
            "chosen": engine.best,
            "datasets": dataset_counts(cfg),
            "parameters": count_parameters(engine.model),
            "command": command,
            "seed": cfg.train.seed,
            "versions": versions(),
            "revision": git_revision(),
            "seconds": round(seconds, 1),
        },
        folder / "results.json",
    )
    print(f"\n{format_table(metrics)}\n\nResults, log and pictures are in '{folder}'")


def _visualize(cfg: CfgNode, engine: TextImageEngine, folder: Path) -> None:
    """What was found and where the model looked, target by target, in pictures and on a page with ``results.json``."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    told = {name: str(results[name]) for name in ("command", "seed", "revision") if results[name] is not None}
    if engine.best:
        told["epoch"] = str(engine.best["epoch"])
    if engine.best.get("val"):
        told["R@1 on val"] = f"{100 * engine.best['score']:.2f} %"
    for name, metrics in results["metrics"].items():
        captions, images = (engine.test_loader[name][part].dataset for part in ("query", "gallery"))
        target = Target(
            name,
            captions.data,
            images.data,
            engine.embeddings[name],
            engine.scores[name],
            engine.identity_weight,
            drawn_root=cfg.data.root if is_drawn(cfg.data.root, images.spec.folder) else None,
            split=images.eval_split,
        )
        run = Run(metrics, results["datasets"], {**told, **results["versions"]}, dump(cfg))
        page = visualize(folder, target, engine.model, engine.datamanager.transform_te, run, cfg.test.pictures)
        print(f"What was found, and where the model looked: '{page}'")


def count_parameters(model: torch.nn.Module) -> dict[str, int]:
    """All parameters of a model, and those that are trained."""
    return {
        "all": sum(p.numel() for p in model.parameters()),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def _save_queries(engine: TextImageEngine, target: str, path: Path) -> None:
    """What `compare` needs of another run later."""
    loader, embeddings = engine.test_loader[target], engine.embeddings[target]
    texts = [(photo, caption) for photo, _, _, _, caption, *_ in loader["query"].dataset.data]
    images = [(photo, "") for photo, *_ in loader["gallery"].dataset.data]
    records = {}
    for protocol, scores in engine.scores[target].items():
        comparison = PROTOCOLS[protocol].build_task(embeddings, engine.identity_weight)
        asked = images if protocol in IMAGE_QUERY_PROTOCOLS else texts
        records[protocol] = QueryRecord.of(scores, comparison.q_pids, query_keys(asked))
    save_records(path, target, records)


def _draw_examples(engine: TextImageEngine, target: str, path: Path, number: int) -> None:
    queries, gallery = (engine.test_loader[target][part].dataset.data for part in ("query", "gallery"))
    comparison = PROTOCOLS[OFFICIAL].build_task(engine.embeddings[target], engine.identity_weight)
    chosen = evenly_spaced(len(queries), number)
    draw_ranked_lists(ranked_lists(OFFICIAL, comparison, queries, gallery, chosen), path)


def weights_to_test(cfg: CfgNode, folder: Path) -> Path:
    """``model.load_weights``, or else the run's ``best.pth``.

    Raises:
        ConfigError: when there is neither.
    """
    if cfg.model.load_weights:
        return Path(cfg.model.load_weights)
    best = folder / "best.pth"
    if not best.is_file():
        raise ConfigError(f"nothing to test: model.load_weights is empty and there is no '{best}'")
    return best


def _checkpoint_to_resume(cfg: CfgNode, folder: Path, resume: bool) -> Path | None:
    if cfg.model.resume:
        return Path(cfg.model.resume)
    return newest_checkpoint(folder) if resume else None


def make_folder(folder: Path) -> None:
    """Creates ``data.save_dir``.

    Raises:
        ConfigError: when it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"data.save_dir: cannot create '{folder}' ({error.strerror})") from error
