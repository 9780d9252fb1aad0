"""Writes what a run must not lose, and reads it back."""

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

from t2ireid_plugin.errors import CheckpointError
from t2ireid_plugin.modeling.checkpoint import check_archive, read_checkpoint
from t2ireid_plugin.utils.atomic_io import atomic_write, atomic_write_text

logger = logging.getLogger(__name__)

# The newest state of a training run and the one before it, and what the newest is renamed to when it is damaged.
LAST, PREVIOUS, DAMAGED = "last.pth", "last.prev.pth", "last.damaged.pth"
_DIGEST = 32  # hexadecimal digits
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

    def write(draft: Path) -> None:
        try:
            torch.save(state, draft)
        except RuntimeError as error:  # which only says that writing failed, or is of a data worker that died meanwhile
            if str(error).startswith("DataLoader worker"):
                raise
            raise OSError(_why_not(draft) or str(error).splitlines()[0]) from error
        _seal(draft)

    atomic_write(Path(path), write, CheckpointError, previous)


def _why_not(draft: Path) -> str | None:
    """What the system says when more is written to a file."""
    try:
        with open(draft, "ab") as stream:
            stream.write(bytes(1 << 20))
    except OSError as problem:
        return problem.strerror
    return None


def _seal(file: Path) -> None:
    """Puts a digest of all bytes of an archive behind it, as the archive's comment, which every reader skips."""
    with open(file, "rb+") as stream:
        stream.seek(-2, os.SEEK_END)  # the length of the comment, which PyTorch leaves at 0
        body = stream.tell()
        stream.seek(0)
        digest = _digest(stream, body)
        stream.seek(body)
        stream.write(len(digest).to_bytes(2, "little") + digest)


def _digest(stream: BinaryIO, length: int) -> bytes:
    """Of the next ``length`` bytes, in hexadecimal digits."""
    found = hashlib.blake2b(digest_size=_DIGEST // 2)
    while length > 0 and (part := stream.read(min(length, 2**20))):
        found.update(part)
        length -= len(part)
    return found.hexdigest().encode()


def _seal_holds(file: Path) -> bool:
    """Whether the digest behind an archive fits; true for an archive without one, as older versions wrote."""
    size = file.stat().st_size
    with open(file, "rb") as stream:
        stream.seek(-2, os.SEEK_END)
        if stream.read() == b"\0\0":  # no comment
            return True
        stream.seek(max(0, size - _DIGEST - 2))
        length, digest = stream.read(2), stream.read()
        stream.seek(0)
        return length == _DIGEST.to_bytes(2, "little") and _digest(stream, size - _DIGEST - 2) == digest


def save_json(content: Any, path: str | Path) -> None:
    """Writes ``content`` as JSON, never half of it."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    atomic_write_text(Path(path), text, CheckpointError)


def check_intact(path: str | Path) -> None:
    """Reads a checkpoint of ours once through and compares the checksums that PyTorch and we have put into it.

    PyTorch itself does not look at them: a flipped bit would be loaded as another weight.

    Raises:
        CheckpointError: when the file is missing or damaged.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"no checkpoint at '{file}'")
    try:
        check_archive(file)
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"'{file}' is truncated or damaged ({error})") from error
    if damaged is not None:
        raise CheckpointError(f"'{file}' is damaged: the checksum of '{damaged}' in it is wrong")
    if not _seal_holds(file):  # what the archive says of itself has no checksum
        raise CheckpointError(f"'{file}' is truncated or damaged: its bytes are not those that were written")


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
    check_resumable(state, _NEEDED, path)
    return state


def check_resumable(state: Mapping[str, Any], needed: Iterable[str], path: str | Path) -> None:
    """Refuses the content of a checkpoint that lacks what training goes on from.

    Raises:
        CheckpointError: naming what is missing.
    """
    missing = [key for key in needed if key not in state]
    if missing:
        raise CheckpointError(
            f"'{path}' has no {', '.join(missing)}, so training cannot be resumed from it; to start from its weights "
            "set model.load_weights instead"
        )
