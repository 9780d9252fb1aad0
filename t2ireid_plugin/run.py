"""A run in its folder: lock, log, signals and processes around the training that the configuration names."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from t2ireid_plugin.config import dump, image_only
from t2ireid_plugin.data.manager import explain_dead_workers
from t2ireid_plugin.engine import checks as text_checks
from t2ireid_plugin.engine import train as text_train
from t2ireid_plugin.engine.evaluation import describe_undecided
from t2ireid_plugin.engine.record import open_run, results_of_finished
from t2ireid_plugin.engine.train import Outcome
from t2ireid_plugin.engine.training_state import (
    RESULTS,
    checkpoint_to_resume,
    make_folder,
    remove_run,
    save_json,
)
from t2ireid_plugin.errors import ConfigError, short_repr
from t2ireid_plugin.evaluation.metrics import format_table
from t2ireid_plugin.evaluation.protocols import COMPOSED, OFFICIAL
from t2ireid_plugin.evaluation.query_records import records_path, save_records
from t2ireid_plugin.evaluation.result import Metrics
from t2ireid_plugin.integrations.torchreid import checks as image_checks
from t2ireid_plugin.integrations.torchreid import train as image_train
from t2ireid_plugin.synthetic.folder import is_drawn
from t2ireid_plugin.utils.atomic_io import atomic_write_text, explain_write_errors
from t2ireid_plugin.utils.distributed import broadcast_object, is_main_process, process_group
from t2ireid_plugin.utils.file_lock import lock_folder
from t2ireid_plugin.utils.language import language_of, say, use_language
from t2ireid_plugin.utils.logging import describe_environment, git_revision, log_to, versions
from t2ireid_plugin.utils.signals import stop_on_signal
from t2ireid_plugin.visualization.drawing import draw_ranked_lists
from t2ireid_plugin.visualization.ranked_lists import example_lists
from t2ireid_plugin.visualization.report import Run
from t2ireid_plugin.visualization.visualize import Target, visualize

logger = logging.getLogger(__name__)


def run_training(
    cfg: CfgNode, command: str, resume: bool = False, overwrite: bool = False, pictures: bool = False
) -> dict[str, dict[str, Metrics]]:
    """Trains, chooses a checkpoint on val and tests it; returns metrics by target and protocol.

    Writes to ``data.save_dir``: ``config.yaml``, ``env.txt``, ``train.log``, ``metrics.jsonl``, TensorBoard events,
    ``last.pth``, ``last.prev.pth``, ``best.pth``, ``results.json``, ``queries_<target>.npz``, ``ranked_<target>.png``
    and with ``pictures`` ``visualize_<target>/``.

    Args:
        cfg: the configuration, of a training on images with texts or on images alone.
        command: typed by the user; stored in ``results.json``.
        resume: continue from the newest intact checkpoint of the run's folder, if there is one.
        overwrite: replace a run in the folder.
        pictures: draw rankings and attention, see `visualize`; not for images alone.

    Raises:
        T2IReIDError: for every problem that the user can fix; a folder that holds a run, for example.
    """
    checks, training = _kind(cfg)
    with process_group(cfg.use_gpu), explain_dead_workers():
        checks.check_config(cfg)
        text_checks.check_shares(cfg)
        _check_pictures(cfg, pictures)
        checks.check_files(cfg, encoders=not resume)
        if not image_only(cfg):
            text_checks.check_recipe(cfg)
        folder = Path(cfg.data.save_dir)
        with _opened(folder):
            last = finished = None
            if is_main_process():
                with log_to(folder / "train.log") if resume else contextlib.nullcontext():
                    last = checkpoint_to_resume(folder, cfg.model.resume, resume, overwrite)
                finished = results_of_finished(folder, last, cfg) if last else None
            last, finished = broadcast_object((last, finished))
            if finished:
                print(f"{format_table(finished['metrics'])}\n")
                print(f"The run in '{folder}' is finished; its results are in '{folder / RESULTS}'")
                pages = sorted(folder.glob("visualize_*/report.html"))
                if pictures and not pages:
                    print(f"It has no report with pictures; to draw one: t2ireid test {folder} --visualize")
                _print_pages(pages)
                return finished["metrics"]

            def begin() -> None:  # when model and data are ready, so that an error leaves the folder as it is
                if is_main_process():
                    if overwrite:
                        remove_run(folder, last)
                    _record(cfg, folder)

            with _logged(folder / "train.log"):
                started = time.time()
                outcome = training.train(cfg, folder, last, begin)
                return _finish(cfg, folder, outcome, pictures, _about(cfg, command, started))


def run_test(
    source: str | Path | None, cfg: CfgNode | None, command: str, typed: Sequence[str] = (), pictures: bool = False
) -> dict[str, dict[str, Metrics]]:
    """Tests a checkpoint; returns metrics by target and protocol.

    Writes to ``test/<targets>`` in the run's folder, or in ``data.save_dir`` of ``cfg``: ``config.yaml``, ``env.txt``,
    ``test.log``, ``results.json``, ``queries_<target>.npz``, ``ranked_<target>.png`` and with ``pictures``
    ``visualize_<target>/``.

    Args:
        source: a run's folder or a checkpoint; None for the one that ``cfg`` names.
        cfg: a configuration, which includes ``typed``; None for that of the run.
        command: typed by the user; stored in ``results.json``.
        typed: ``KEY VALUE`` from the command line, see `open_run`.
        pictures: as in `run_training`.

    Raises:
        T2IReIDError: for every problem that the user can fix.
    """
    cfg, checkpoint, changed = open_run(source, cfg, typed)
    checks, training = _kind(cfg)
    with process_group(cfg.use_gpu), explain_dead_workers():
        checks.check_config(cfg)
        _check_pictures(cfg, pictures)
        used = cfg if image_only(cfg) else text_checks.for_testing(cfg)
        checks.check_files(used)
        folder = Path(cfg.data.save_dir) / "test" / "+".join(cfg.data.targets)
        with _opened(folder), _logged(folder / "test.log"):
            print(f"Testing '{checkpoint.path}'")
            for name, values in changed.items():
                trained, tested = short_repr(values["trained"]), short_repr(values["tested"])
                logger.warning("%s: tested with %s, but trained with %s", name, tested, trained)
            started = time.time()
            outcome = training.test(used, folder, checkpoint)
            if is_main_process():
                _record(cfg, folder)
            about = {"checkpoint": str(checkpoint.path), "changed": changed, **_about(cfg, command, started)}
            return _finish(cfg, folder, outcome, pictures, about)


def _kind(cfg: CfgNode) -> tuple[Any, Any]:
    """The one decision between training on images with texts and torchreid's training on images alone."""
    return (image_checks, image_train) if image_only(cfg) else (text_checks, text_train)


def _check_pictures(cfg: CfgNode, pictures: bool) -> None:
    if pictures and image_only(cfg):
        raise ConfigError("--visualize needs texts; without texts use test.visrank True --eval-only")


def _about(cfg: CfgNode, command: str, started: float) -> dict[str, Any]:
    """Entries of ``results.json`` about how the results were made."""
    seconds = round(time.time() - started, 1)
    about = {"command": command, "seed": cfg.train.seed, "versions": versions(), "revision": git_revision()}
    return {**about, "seconds": seconds}


def _finish(
    cfg: CfgNode, folder: Path, outcome: Outcome, pictures: bool, about: Mapping[str, Any]
) -> dict[str, dict[str, Metrics]]:
    """Saves and draws the results."""
    if is_main_process():
        _save_results(folder, outcome, about)
        print(f"\n{format_table(outcome.metrics)}")
        if undecided := describe_undecided(outcome.chosen):
            print(undecided)
        pages = _draw_results(cfg, folder, outcome, about, pictures)  # last, when all numbers are saved
        print("\n" + say("Results, log and pictures are in '{folder}'", folder=folder))
        _print_pages(pages)
    return outcome.metrics


def _print_pages(pages: Sequence[Path]) -> None:
    """Prints each page as an address that a terminal makes clickable."""
    for page in pages:
        print(say("Open in a browser: {address}", address=page.resolve().as_uri()))


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[None]:
    """Within, the folder is locked and written to by the main process alone, and a signal to end stops the run."""
    if not is_main_process():
        logging.getLogger("t2ireid_plugin").addHandler(logging.NullHandler())
        with stop_on_signal(), open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
        return
    make_folder(folder)
    with stop_on_signal(), explain_write_errors(folder, ConfigError), lock_folder(folder):
        yield


def _logged(path: Path) -> contextlib.AbstractContextManager[None]:
    """Within, the console of the main process is copied to a file."""
    return log_to(path) if is_main_process() else contextlib.nullcontext()


def _record(cfg: CfgNode, folder: Path) -> None:
    """Writes ``config.yaml`` and ``env.txt``."""
    atomic_write_text(folder / "config.yaml", dump(cfg), ConfigError)
    atomic_write_text(folder / "env.txt", describe_environment(), ConfigError)


def _save_results(folder: Path, outcome: Outcome, about: Mapping[str, Any]) -> None:
    """Writes ``results.json``, and the figures of each query as ``queries_<target>.npz``."""
    for target in outcome.metrics:
        own = [result for result in outcome.results if result.target == target]
        if own:
            save_records(records_path(folder, target), own, outcome.weights)
    numbers = {name: getattr(outcome, name) for name in ("metrics", "chosen", "weights", "datasets", "parameters")}
    save_json({**numbers, **about}, folder / RESULTS)


def _draw_results(cfg: CfgNode, folder: Path, outcome: Outcome, about: Mapping[str, Any], pictures: bool) -> list[Path]:
    """Draws ``ranked_<target>.png``, and with ``pictures`` the reports in ``visualize_<target>/``, which it returns."""
    engine, pages = outcome.engine, []
    if engine is None:
        return []
    title = Path(cfg.data.save_dir).resolve().name, time.strftime("%Y-%m-%d %H:%M")
    for name, metrics in outcome.metrics.items():
        captions, images = (engine.test_loader[name][side].dataset for side in ("query", "gallery"))
        results = [result for result in outcome.results if result.target == name]
        with use_language(language_of([caption for *_, caption, _, _ in captions.data])):
            if cfg.test.pictures > 0:
                # A query of composed search shows its photo, which its words do not describe.
                by_protocol = {result.protocol: result for result in results}
                example = by_protocol[COMPOSED if images.spec.composed and COMPOSED in by_protocol else OFFICIAL]
                groups = example_lists(example, captions.data, images.data, cfg.test.pictures)
                rows = [item for lists in groups.values() for item in lists]
                draw_ranked_lists(rows, folder / f"ranked_{name}.png", ". ".join(groups))
            if pictures:
                drawn_root = cfg.data.root if is_drawn(cfg.data.root, images.spec.folder) else None
                target = Target(name, captions.data, images.data, results, drawn_root, images.eval_split)
                run = Run(metrics, outcome.datasets, _facts(outcome, about), dump(cfg), *title)
                model, transform = engine.model, engine.datamanager.transform_te
                drawn = cfg.test.pictures, cfg.test.picture_format
                pages.append(visualize(folder, target, model, transform, run, *drawn))
    return pages


def _facts(outcome: Outcome, about: Mapping[str, Any]) -> dict[str, str]:
    """Names and values for the head of a report."""
    facts = {name: str(about[name]) for name in ("command", "seed", "revision") if about[name] is not None}
    if outcome.engine:
        facts["ranking"] = str(outcome.engine.model.ranking)
    if outcome.chosen:
        facts["epoch"] = str(outcome.chosen["epoch"])
    if outcome.chosen.get("val"):
        facts[f"R@1 on {outcome.chosen.get('chosen_on', 'val')}"] = f"{100 * outcome.chosen['score']:.2f} %"
    return {**facts, **about["versions"]}
