"""The files of a run's folder: training state and weights, written atomically and read back with checksums."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from t2ireid_plugin.errors import CheckpointError, ConfigError
from t2ireid_plugin.modeling.checkpoint import read_checkpoint
from t2ireid_plugin.utils.atomic_io import atomic_write, atomic_write_text
from t2ireid_plugin.utils.text import first_line

logger = logging.getLogger(__name__)

# The newest training state, the one before it, the name that a damaged newest one gets, and the chosen weights.
LAST, PREVIOUS, DAMAGED, BEST = "last.pth", "last.prev.pth", "last.damaged.pth", "best.pth"
_DIGEST = 16  # bytes, stored as twice as many hexadecimal digits
# Entries of a training state, see `TrainingLoop.save`.
_NEEDED = ["state_dict", "losses", "optimizer", "scheduler", "scaler", "epoch", "step", "steps", "evaluated"]
_NEEDED += ["sequence", "log", "bad_images"]


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
        _append_digest(draft)

    atomic_write(Path(path), write, CheckpointError, previous)


def _write_problem(draft: Path) -> str | None:
    """The system's reason why no more can be written to a file."""
    try:
        with open(draft, "ab") as stream:
            stream.write(bytes(1 << 20))
    except OSError as problem:
        return problem.strerror
    return None


def _append_digest(file: Path) -> None:
    """Adds a digest of all bytes of a zip archive as the archive's comment, which every reader skips."""
    with open(file, "rb+") as stream:
        stream.seek(-2, os.SEEK_END)  # length of the comment, 0 in PyTorch's archives
        body = stream.tell()
        stream.seek(0)
        digest = _digest(stream, body)
        stream.seek(body)
        stream.write(len(digest).to_bytes(2, "little") + digest)


def _digest(stream: BinaryIO, length: int) -> bytes:
    """Digest of the next ``length`` bytes, in hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=_DIGEST)
    while length > 0 and (part := stream.read(min(length, 2**20))):
        digest.update(part)
        length -= len(part)
    return digest.hexdigest().encode()


def save_json(content: Any, path: str | Path) -> None:
    """Writes ``content`` as JSON, atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    atomic_write_text(Path(path), text, CheckpointError)


def check_intact(path: str | Path) -> None:
    """Verifies a checkpoint by its digest, or by the checksums of its entries if it has none, as PyTorch writes.

    PyTorch ignores the checksums that it writes: a flipped bit would be loaded as another weight.

    Raises:
        CheckpointError: when the file is missing or damaged.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"no checkpoint at '{file}'")
    try:
        with zipfile.ZipFile(file) as archive:
            digest = archive.comment
            damaged = None if digest else archive.testzip()
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"'{file}' is truncated or damaged ({error})") from error
    if damaged is not None:
        raise CheckpointError(f"'{file}' is damaged: the checksum of '{damaged}' in it is wrong")
    if digest:
        with open(file, "rb") as stream:
            if digest != _digest(stream, file.stat().st_size - 2 - len(digest)):
                raise CheckpointError(f"'{file}' is truncated or damaged: its bytes do not match its digest")


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


def load_training_state(path: str | Path) -> dict[str, Any]:
    """Reads a training state.

    Raises:
        CheckpointError: when it is missing or damaged, or holds weights only.
    """
    check_intact(path)
    state = read_checkpoint(path)
    check_resumable(state, _NEEDED, path)
    return state


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


def weights_to_test(load_weights: str, folder: Path) -> Path:
    """The checkpoint to test: ``load_weights`` where set, else the run's best one.

    Raises:
        ConfigError: when there is neither.
    """
    if load_weights:
        return Path(load_weights)
    best = folder / BEST
    if not best.is_file():
        raise ConfigError(f"nothing to test: model.load_weights is empty and there is no '{best}'")
    return best


def make_folder(folder: Path, name: str = "data.save_dir") -> None:
    """Creates the folder that the setting or option ``name`` chooses.

    Raises:
        ConfigError: when it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{name}: cannot create '{folder}' ({error.strerror})") from error
