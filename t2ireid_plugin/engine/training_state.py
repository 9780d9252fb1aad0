"""The files of a run's folder: training state and weights, written atomically and read back with checksums."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from t2ireid_plugin.errors import CheckpointError, ConfigError
from t2ireid_plugin.modeling.checkpoint import Checkpoint, append_digest, check_intact
from t2ireid_plugin.utils.atomic_io import atomic_write, atomic_write_text
from t2ireid_plugin.utils.safe_io import parse_json, read_bytes
from t2ireid_plugin.utils.text import first_line

logger = logging.getLogger(__name__)

# The newest training state, the one before it, the name that a damaged newest one gets, and the chosen weights.
LAST, PREVIOUS, DAMAGED, BEST = "last.pth", "last.prev.pth", "last.damaged.pth", "best.pth"
RESULTS = "results.json"
# Everything that a run, its tests and its probes write.
# Everything that a run, its tests and its probes write, except train.log, which goes on. The files by which a folder
# holds a run are last, so that it does until all others are removed.
_RUN_FILES = (
    *("config.yaml", "env.txt", "metrics.jsonl", "nonfinite.json", "events.out.tfevents.*", "queries_*.npz"),
    *("ranked_*.png", "probes_*.json", "visualize_*/report.html", "test/*/test.log"),
    *(RESULTS, BEST, DAMAGED, PREVIOUS, LAST),
)
# Entries of a training state, see `TrainingLoop.save`.
_NEEDED = ["state_dict", "losses", "optimizer", "scheduler", "scaler", "epoch", "step", "steps", "evaluated"]
_NEEDED += ["config", "data", "held_out", "log", "bad_images"]


def save_checkpoint(state: dict[str, Any], path: str | Path, keep: str | Path | None = None) -> None:
    """Writes a checkpoint atomically, with a digest of its bytes.

    Args:
        state: tensors and plain values only, as PyTorch's safe loader reads nothing else.
        path: the file.
        keep: the name that the old file gets; without it the old file is replaced.

    Raises:
        CheckpointError: when it cannot be written.
    """
    previous = None if keep is None else Path(keep)

    def write(draft: Path) -> None:
        try:
            torch.save(state, draft)
        except RuntimeError as error:  # PyTorch does not say why writing failed
            if str(error).startswith("DataLoader worker"):  # a signal handler's error, about a dead data worker
                raise
            raise OSError(_write_problem(draft) or first_line(error)) from error
        append_digest(draft)

    atomic_write(Path(path), write, CheckpointError, previous)


def _write_problem(draft: Path) -> str | None:
    """The system's reason why no more can be written to a file."""
    try:
        with open(draft, "ab") as stream:
            stream.write(bytes(1 << 20))
    except OSError as problem:
        return problem.strerror
    return None


def save_json(content: Any, path: str | Path) -> None:
    """Writes ``content`` as JSON, atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    atomic_write_text(Path(path), text, CheckpointError)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest intact training state in a run's folder; None when there is none.

    A damaged newest one is renamed to `DAMAGED`, so that it does not replace the one before it at the next save.

    Raises:
        CheckpointError: when all of them are damaged.
    """
    last, previous = folder / LAST, folder / PREVIOUS
    if not last.exists():
        if not previous.exists():
            return None
        logger.warning("'%s' is missing; continuing from '%s'", last, previous)
        check_intact(previous)
        return previous
    try:
        check_intact(last)
    except CheckpointError as error:
        if not previous.exists():
            raise
        check_intact(previous)
        os.replace(last, folder / DAMAGED)
        logger.warning("%s; renamed to '%s', continuing from '%s'", error, folder / DAMAGED, previous)
        return previous
    return last


def load_training_state(path: str | Path) -> Checkpoint:
    """Reads a training state.

    Raises:
        CheckpointError: when it is missing or damaged, or holds weights only.
    """
    checkpoint = Checkpoint.read(path)
    check_resumable(checkpoint.content, _NEEDED, path)
    return checkpoint


def check_resumable(state: Mapping[str, Any], needed: Iterable[str], path: str | Path) -> None:
    """Refuses a checkpoint without the entries that resuming needs.

    Raises:
        CheckpointError: naming what is missing.
    """
    missing = [key for key in needed if key not in state]
    if missing:
        raise CheckpointError(
            f"'{path}' has no {', '.join(missing)}, so training cannot be resumed from it; to start from its weights "
            "set model.load_weights instead"
        )


def checkpoint_to_test(source: str | Path | None, load_weights: str, folder: Path) -> Path:
    """The checkpoint to test.

    Args:
        source: a run's folder, for its best one, or a checkpoint; None for the others.
        load_weights: ``model.load_weights``, a checkpoint; else the best one of ``folder`` is tested.
        folder: ``data.save_dir``.

    Raises:
        CheckpointError: when there is none.
    """
    path = Path(source or load_weights or folder)
    path = path / BEST if path.is_dir() or not (source or load_weights) else path
    if not path.is_file():
        where = "" if source or load_weights else "; name a run, or a file with model.load_weights"
        raise CheckpointError(f"nothing to test: no checkpoint at '{path}'{where}")
    return path


def checkpoint_to_resume(folder: Path, resume: str, resume_newest: bool, overwrite: bool) -> Path | None:
    """The checkpoint that a training continues from; None where it starts.

    Args:
        folder: ``data.save_dir``.
        resume: ``model.resume``, a checkpoint.
        resume_newest: continue from the newest intact checkpoint in ``folder``, if there is one.
        overwrite: ``folder`` may hold another run.

    Raises:
        ConfigError: when the folder holds a run that is not the one to resume.
        CheckpointError: when all checkpoints to resume are damaged.
    """
    last = Path(resume) if resume else newest_checkpoint(folder) if resume_newest else None
    holds_run = any((folder / name).exists() for name in (LAST, PREVIOUS, BEST, RESULTS))
    if holds_run and not overwrite and not is_in(folder, last):
        resumable = "" if resume or resume_newest else "--resume continues it, "
        raise ConfigError(
            f"'{folder}' holds a run; {resumable}--overwrite starts again, or choose another data.save_dir"
        )
    return last


def remove_run(folder: Path, last: Path | None) -> None:
    """Removes the files of a run from its folder, unless ``last``, the checkpoint to resume, is one of them."""
    for path in () if is_in(folder, last) else [path for pattern in _RUN_FILES for path in folder.glob(pattern)]:
        path.unlink() if path.parent == folder else shutil.rmtree(path.parent)  # of a report, or of a test


def is_in(folder: Path, file: Path | None) -> bool:
    """True if a file stands directly in a folder, however both are spelled."""
    return file is not None and file.resolve().parent == folder.resolve()


def read_results(folder: Path) -> dict[str, Any] | None:
    """``results.json`` in a run's folder; None if it is missing or damaged."""
    try:
        results = parse_json(read_bytes(folder / RESULTS))
    except (OSError, ValueError):
        return None
    return results if isinstance(results, dict) and isinstance(results.get("metrics"), dict) else None


def make_folder(folder: Path, name: str = "data.save_dir") -> None:
    """Creates the folder that the setting or option ``name`` chooses.

    Raises:
        ConfigError: when it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{name}: cannot create '{folder}' ({error.strerror})") from error
