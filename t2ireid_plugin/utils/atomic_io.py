"""Files that are there as a whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from t2ireid_plugin.errors import DataError, T2IReIDError

# What the system says when it is not the program's fault that nothing can be written.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)


def atomic_write(
    path: Path, write: Callable[[Path], object], error: type[T2IReIDError] = DataError, keep: Path | None = None
) -> None:
    """Lets ``write`` fill a draft in the same folder, which then takes the name ``path``: the old file or the new one.

    The draft is on disk before it gets the name, and the name before this returns.

    Args:
        path: the file, in a folder that exists.
        write: is given the draft's path, with the same suffix.
        error: what to raise.
        keep: the name that the old file gets, in the same folder; without one it is gone.

    Raises:
        T2IReIDError: of the type ``error``, when the file cannot be written; what was there before is untouched.
    """
    # Always the same name, so that what a killed process left is written over and does not pile up.
    draft = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        write(draft)
        with open(draft, "rb+") as stream:
            os.fsync(stream.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(draft, path)
        _sync_folder(path.parent)
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise error(f"cannot write '{path}': {reason}; what was there before is untouched") from problem
    finally:
        with contextlib.suppress(OSError):  # gone already, or with its folder
            draft.unlink()


def atomic_write_text(path: Path, text: str, error: type[T2IReIDError] = DataError) -> None:
    """`atomic_write` of a text in UTF-8."""
    atomic_write(path, lambda draft: draft.write_text(text, encoding="utf-8"), error)


def _sync_folder(folder: Path) -> None:
    """Has the system write the folder's names; some file systems have no such thing and write them at once."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def explain_write_errors(folder: Path, error: type[T2IReIDError] = DataError) -> Iterator[None]:
    """Turns what the system says when ``folder`` is full, read-only or gone into an error that says so.

    Raises:
        T2IReIDError: of the type ``error``.
    """
    try:
        yield
    except OSError as problem:
        what = os.fsdecode(problem.filename or folder)  # TensorBoard's names are bytes
        lost = problem.errno == errno.ENOENT and bool(problem.filename) and what.startswith(str(folder))
        if isinstance(problem, T2IReIDError) or not (lost or problem.errno in _UNWRITABLE):
            raise
        raise error(
            f"cannot write '{what}': {problem.strerror}; the checkpoints that are there are whole, so once this is "
            "mended --resume goes on from the newest"
        ) from problem
