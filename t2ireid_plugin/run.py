"""A run in its folder: lock, log, signals and processes around the training that the configuration names."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from t2ireid_plugin.config import dump, image_only
from t2ireid_plugin.data.manager import explain_dead_workers
from t2ireid_plugin.engine import checks as text_checks
from t2ireid_plugin.engine import train as text_train
from t2ireid_plugin.engine.evaluation import describe_undecided
from t2ireid_plugin.engine.train import Outcome
from t2ireid_plugin.engine.training_state import make_folder, newest_checkpoint, save_json, weights_to_test
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.evaluation.metrics import format_table
from t2ireid_plugin.evaluation.protocols import OFFICIAL
from t2ireid_plugin.evaluation.query_records import records_path, save_records
from t2ireid_plugin.evaluation.result import Metrics
from t2ireid_plugin.integrations.torchreid import checks as image_checks
from t2ireid_plugin.integrations.torchreid import train as image_train
from t2ireid_plugin.synthetic.folder import is_drawn
from t2ireid_plugin.utils.atomic_io import atomic_write_text, explain_write_errors
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
    # The one decision between training on images with texts and torchreid's training on images alone.
    checks, training = (image_checks, image_train) if image_only(cfg) else (text_checks, text_train)
    with process_group(cfg.use_gpu), explain_dead_workers():
        eval_only = eval_only or cfg.test.evaluate
        checks.check_config(cfg)
        if not eval_only:
            text_checks.check_shares(cfg)
        if pictures and image_only(cfg):
            raise ConfigError("--visualize needs texts; without texts use test.visrank True --eval-only")
        folder = Path(cfg.data.save_dir)
        weights = weights_to_test(cfg.model.load_weights, folder) if eval_only else cfg.model.load_weights
        used = text_checks.for_testing(cfg) if eval_only and not image_only(cfg) else cfg
        checks.check_files(used)
        if not image_only(cfg):
            text_checks.check_losses(cfg)
        with _opened(cfg, folder, "test.log" if eval_only else "train.log", append=resume or bool(cfg.model.resume)):
            last = None
            if not eval_only and is_main_process():
                last = Path(cfg.model.resume) if cfg.model.resume else newest_checkpoint(folder) if resume else None
            started = time.time()
            outcome: Outcome = training.train_and_test(used, folder, weights, broadcast_object(last), eval_only)
            if is_main_process():
                about = {"command": command, "seed": cfg.train.seed, "versions": versions(), "revision": git_revision()}
                _save_results(folder, outcome, {**about, "seconds": round(time.time() - started, 1)})
                print(f"\n{format_table(outcome.metrics)}")
                if undecided := describe_undecided(outcome.chosen):
                    print(undecided)
                _draw_results(cfg, folder, outcome, about, pictures)  # last, when all numbers are saved
                print(f"\nResults, log and pictures are in '{folder}'")
            return outcome.metrics


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


def _save_results(folder: Path, outcome: Outcome, about: Mapping[str, Any]) -> None:
    """Writes ``results.json``, and the figures of each query as ``queries_<target>.npz``."""
    for target in outcome.metrics:
        own = [result for result in outcome.results if result.target == target]
        if own:
            save_records(records_path(folder, target), own)
    numbers = {name: getattr(outcome, name) for name in ("metrics", "chosen", "datasets", "parameters")}
    save_json({**numbers, **about}, folder / "results.json")


def _draw_results(cfg: CfgNode, folder: Path, outcome: Outcome, about: Mapping[str, Any], pictures: bool) -> None:
    """Draws ``ranked_<target>.png``, and with ``pictures`` the report in ``visualize_<target>/``."""
    engine = outcome.engine
    if engine is None:
        return
    for name, metrics in outcome.metrics.items():
        captions, images = (engine.test_loader[name][side].dataset for side in ("query", "gallery"))
        results = [result for result in outcome.results if result.target == name]
        if cfg.test.pictures > 0:
            (official,) = (result for result in results if result.protocol == OFFICIAL)
            chosen = evenly_spaced(len(captions.data), cfg.test.pictures)
            draw_ranked_lists(ranked_lists(official, captions.data, images.data, chosen), folder / f"ranked_{name}.png")
        if pictures:
            drawn_root = cfg.data.root if is_drawn(cfg.data.root, images.spec.folder) else None
            target = Target(name, captions.data, images.data, results, drawn_root, images.eval_split)
            run = Run(metrics, outcome.datasets, _facts(outcome, about), dump(cfg))
            page = visualize(folder, target, engine.model, engine.datamanager.transform_te, run, cfg.test.pictures)
            print(f"Report with pictures: '{page}'")


def _facts(outcome: Outcome, about: Mapping[str, Any]) -> dict[str, str]:
    """Names and values for the head of a report."""
    facts = {name: str(about[name]) for name in ("command", "seed", "revision") if about[name] is not None}
    if outcome.chosen:
        facts["epoch"] = str(outcome.chosen["epoch"])
    if outcome.chosen.get("val"):
        facts["R@1 on val"] = f"{100 * outcome.chosen['score']:.2f} %"
    return {**facts, **about["versions"]}
