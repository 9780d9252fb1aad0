"""A run in its folder: lock, log, signals and processes around the training that the configuration names."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from yacs.config import CfgNode

from t2ireid_plugin.config import dump, image_only
from t2ireid_plugin.data.manager import explain_dead_workers
from t2ireid_plugin.engine import checks as text_image_checks
from t2ireid_plugin.engine.build import count_parameters
from t2ireid_plugin.engine.text_image import TextImageEngine
from t2ireid_plugin.engine.train import dataset_counts, train_and_test
from t2ireid_plugin.engine.training_state import make_folder, newest_checkpoint, save_json, weights_to_test
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.evaluation.metrics import format_table, metrics_by_target
from t2ireid_plugin.evaluation.protocols import OFFICIAL
from t2ireid_plugin.evaluation.query_records import records_path, save_records
from t2ireid_plugin.evaluation.result import Metrics, RetrievalResult
from t2ireid_plugin.integrations.torchreid import checks as image_checks
from t2ireid_plugin.integrations.torchreid.train import run_image_only
from t2ireid_plugin.synthetic.parts import is_drawn
from t2ireid_plugin.utils.atomic_io import atomic_write_text, explain_write_errors
from t2ireid_plugin.utils.distributed import broadcast_object, is_main_process, process_group
from t2ireid_plugin.utils.file_lock import lock_folder
from t2ireid_plugin.utils.logging import describe_environment, git_revision, log_to, versions
from t2ireid_plugin.utils.signals import stop_on_signal
from t2ireid_plugin.visualization.drawing import draw_ranked_lists
from t2ireid_plugin.visualization.ranked_lists import evenly_spaced, ranked_lists
from t2ireid_plugin.visualization.report import Run
from t2ireid_plugin.visualization.visualize import Target, visualize

Results = dict[str, dict[str, Metrics]]  # metrics by target and protocol


class Job(NamedTuple):
    """A run as its training sees it."""

    cfg: CfgNode
    command: str  # typed by the user
    folder: Path
    weights: str | Path | None  # to start from, or to test
    last: Path | None  # checkpoint to resume
    eval_only: bool
    pictures: bool


class Training(NamedTuple):
    """One of the two trainings: on images with texts, or torchreid's on images alone."""

    uses_texts: bool
    check_config: Callable[[CfgNode], None]
    check_files: Callable[[CfgNode], None]
    run: Callable[[Job], Results]


def run_job(
    cfg: CfgNode, command: str, eval_only: bool = False, resume: bool = False, pictures: bool = False
) -> Results:
    """Trains and tests, or with ``eval_only`` only tests; returns metrics by target and protocol.

    Writes to ``data.save_dir``: ``config.yaml``, ``env.txt``, ``train.log`` (``test.log``), ``metrics.jsonl``,
    TensorBoard events, ``last.pth``, ``last.prev.pth``, ``best.pth``, ``results.json``, ``queries_<target>.npz``,
    ``ranked_<target>.png`` and with ``pictures`` ``visualize_<target>/``.

    Args:
        cfg: the configuration, of a training on images with texts or on images alone.
        command: typed by the user; stored in ``results.json``.
        eval_only: test ``model.load_weights``, or else ``best.pth`` of the run's folder.
        resume: continue from the newest intact checkpoint of the run's folder, if there is one.
        pictures: draw rankings and attention, see `visualize`; not for images alone.

    Raises:
        T2IReIDError: for every problem that the user can fix.
    """
    training = training_for(cfg)
    with process_group(cfg.use_gpu), explain_dead_workers():
        eval_only = eval_only or cfg.test.evaluate
        training.check_config(cfg)
        if not eval_only:
            text_image_checks.check_shares(cfg)
        if pictures and not training.uses_texts:
            raise ConfigError("--visualize needs texts; without texts use test.visrank True --eval-only")
        folder = Path(cfg.data.save_dir)
        weights = weights_to_test(cfg.model.load_weights, folder) if eval_only else cfg.model.load_weights
        training.check_files(cfg)
        with _opened(cfg, folder, "test.log" if eval_only else "train.log", append=resume or bool(cfg.model.resume)):
            last = None
            if not eval_only and is_main_process():
                last = Path(cfg.model.resume) if cfg.model.resume else newest_checkpoint(folder) if resume else None
            return training.run(Job(cfg, command, folder, weights, broadcast_object(last), eval_only, pictures))


@contextlib.contextmanager
def _opened(cfg: CfgNode, folder: Path, log: str, append: bool) -> Iterator[None]:
    """Within, the folder is locked and written to by the main process alone, and a signal to end stops the run."""
    if not is_main_process():
        logging.getLogger("t2ireid_plugin").addHandler(logging.NullHandler())
        with stop_on_signal(), open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
        return
    make_folder(folder)
    with stop_on_signal(), explain_write_errors(folder, ConfigError), lock_folder(folder):
        atomic_write_text(folder / "config.yaml", dump(cfg), ConfigError)
        atomic_write_text(folder / "env.txt", describe_environment(), ConfigError)
        with log_to(folder / log, append=append):
            yield


def _run_text_image(job: Job) -> Results:
    started = time.time()
    engine, results = train_and_test(job.cfg, job.folder, job.weights, job.last, job.eval_only)
    if is_main_process():
        _report(job.cfg, engine, results, job.folder, job.command, time.time() - started)
        if job.pictures:  # last, when all figures are saved
            _visualize(job.cfg, engine, results, job.folder)
    return metrics_by_target(results)


def _run_image_only(job: Job) -> Results:
    return run_image_only(job.cfg, job.command, job.folder, job.weights, job.last, job.eval_only)


def training_for(cfg: CfgNode) -> Training:
    """The training that a configuration describes."""
    if image_only(cfg):
        return Training(False, image_checks.check_config, image_checks.check_files, _run_image_only)
    return Training(True, text_image_checks.check_config, text_image_checks.check_files, _run_text_image)


def _report(
    cfg: CfgNode,
    engine: TextImageEngine,
    results: Sequence[RetrievalResult],
    folder: Path,
    command: str,
    seconds: float,
) -> None:
    """Prints the table and writes ``results.json``, each query's figures and ``ranked_<target>.png``."""
    metrics = metrics_by_target(results)
    for target in metrics:
        own = [result for result in results if result.target == target]
        save_records(records_path(folder, target), own)
        if cfg.test.pictures > 0:
            (official,) = (result for result in own if result.protocol == OFFICIAL)
            queries, gallery = (engine.test_loader[target][side].dataset.data for side in ("query", "gallery"))
            examples = ranked_lists(official, queries, gallery, evenly_spaced(len(queries), cfg.test.pictures))
            draw_ranked_lists(examples, folder / f"ranked_{target}.png")
    save_json(
        {
            "metrics": metrics,
            "chosen": engine.best,
            "datasets": dataset_counts(engine),
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


def _visualize(cfg: CfgNode, engine: TextImageEngine, results: Sequence[RetrievalResult], folder: Path) -> None:
    """Draws the results of each target and writes a page with them and ``results.json``."""
    summary = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    facts = {name: str(summary[name]) for name in ("command", "seed", "revision") if summary[name] is not None}
    if engine.best:
        facts["epoch"] = str(engine.best["epoch"])
    if engine.best.get("val"):
        facts["R@1 on val"] = f"{100 * engine.best['score']:.2f} %"
    for name, metrics in summary["metrics"].items():
        captions, images = (engine.test_loader[name][side].dataset for side in ("query", "gallery"))
        target = Target(
            name,
            captions.data,
            images.data,
            [result for result in results if result.target == name],
            drawn_root=cfg.data.root if is_drawn(cfg.data.root, images.spec.folder) else None,
            split=images.eval_split,
        )
        run = Run(metrics, summary["datasets"], {**facts, **summary["versions"]}, dump(cfg))
        page = visualize(folder, target, engine.model, engine.datamanager.transform_te, run, cfg.test.pictures)
        print(f"Report with pictures: '{page}'")
