"""Writes what a run must not lose, and reads it back."""

from __future__ import annotations

import json
import logging
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from t2ireid_plugin.errors import CheckpointError
from t2ireid_plugin.files import write_whole
from t2ireid_plugin.modeling.checkpoint import read_checkpoint

logger = logging.getLogger(__name__)

# The newest state of a training run and the one before it, and what the newest is renamed to when it is damaged.
LAST, PREVIOUS, DAMAGED = "last.pth", "last.prev.pth", "last.damaged.pth"
# What training needs to go on; see `TrainingLoop.save`.
_NEEDED = ["state_dict", "losses", "optimizer", "scheduler", "scaler", "epoch", "step", "steps", "evaluated"]
_NEEDED += ["sequence", "log", "bad_images"]


def save_checkpoint(state: dict[str, Any], path: str | Path, keep: str | Path | None = None) -> None:
    """Writes ``state`` so that ``path`` is always whole: the old file or the new one, never half of one.

    ``state`` may hold tensors and plain values only, or the safe loader will refuse it. With ``keep`` the old file
    gets that name.

    Raises:
        CheckpointError: when it cannot be written.
    """
    previous = None if keep is None else Path(keep)
    write_whole(Path(path), lambda draft: torch.save(state, draft), CheckpointError, previous)


def save_json(content: Any, path: str | Path) -> None:
    """Writes ``content`` as JSON, never half of it."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_whole(Path(path), lambda draft: draft.write_text(text, encoding="utf-8"), CheckpointError)


def check_intact(path: str | Path) -> None:
    """Reads a checkpoint of ours once through and compares the checksums (CRC-32) that PyTorch has put into it.

    PyTorch itself does not look at them: a flipped bit would be loaded as another weight.

    Raises:
        CheckpointError: when the file is missing or damaged.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"no checkpoint at '{file}'")
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"'{file}' is truncated or damaged ({error})") from error
    if damaged is not None:
        raise CheckpointError(f"'{file}' is damaged: the checksum of '{damaged}' in it is wrong")


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest state in a run's folder that is whole; None when there is none at all.

    A newest one that is damaged is renamed to `DAMAGED`, so that it does not take the place of the one before it.

    Raises:
        CheckpointError: when all that are there are damaged.
    """
    last, previous = folder / LAST, folder / PREVIOUS
    if not last.exists():
        if not previous.exists():
            return None
        logger.warning("'%s' is not there; going on from '%s'", last, previous)
        check_intact(previous)
        return previous
    try:
        check_intact(last)
    except CheckpointError as error:
        if not previous.exists():
            raise
        check_intact(previous)
        os.replace(last, folder / DAMAGED)
        logger.warning("%s; it is now '%s'. Going on from the one before it, '%s'", error, folder / DAMAGED, previous)
        return previous
    return last


def load_training_state(path: str | Path) -> dict[str, Any]:
    """A checkpoint that training can go on from.

    Raises:
        CheckpointError: when it is missing or damaged, or holds weights only.
    """
    check_intact(path)
    state = read_checkpoint(path)
    missing = [key for key in _NEEDED if key not in state]
    if missing:
        raise CheckpointError(
            f"'{path}' has no {', '.join(missing)}, so training cannot be resumed from it; to start from its weights "
            "set model.load_weights instead"
        )
    return state
