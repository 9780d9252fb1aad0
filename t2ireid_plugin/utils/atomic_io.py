"""Writing of files and folders that are complete or not there at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from t2ireid_plugin.errors import DataError, T2IReIDError
from t2ireid_plugin.utils.file_lock import lock_folder

# The user's problem to fix, not a bug: disk full or over quota, file too large, read-only, no permission, disk failure.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)


def atomic_write(
    path: Path, write: Callable[[Path], object], error: type[T2IReIDError] = DataError, keep: Path | None = None
) -> None:
    """Writes a temporary file in the same folder and renames it, so that a crash leaves the old file or the new one.

    Args:
        path: the file, in a folder that exists.
        write: fills the temporary file, whose path it gets; the suffix is that of ``path``.
        error: type of the error to raise.
        keep: new name of the old file, in the same folder; None to drop it.

    Raises:
        T2IReIDError: of the type ``error``, when the file cannot be written; the old file is then unchanged.
    """
    # Always the same name, so that the leftover of a killed process is overwritten.
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        write(temporary)
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
        with contextlib.suppress(OSError):  # flushes the new name to disk, on file systems that support it
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise error(f"cannot write '{path}': {reason}; the existing file is unchanged") from problem
    finally:
        with contextlib.suppress(OSError):  # renamed, or gone with its folder
            temporary.unlink()


def atomic_write_text(path: Path, text: str, error: type[T2IReIDError] = DataError) -> None:
    """`atomic_write` of a text in UTF-8."""
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), error)


@contextlib.contextmanager
def atomic_folder(root: Path, name: str) -> Iterator[Path]:
    """An empty folder beside ``root`` that is renamed to ``root`` at the end, or removed after an error.

    The next call for the same ``root`` removes what a killed process has left behind.

    Args:
        root: a folder that does not exist, or that is replaced.
        name: of the option that chooses it, for the message.

    Raises:
        ConfigError: when another process is writing the same folder.
        DataError: when it cannot be written, as on a full disk.
    """
    base = root.with_name(f".{root.name}.tmp")  # with the lock and the draft
    draft = base / root.name
    try:
        base.mkdir(parents=True, exist_ok=True)
        with lock_folder(base, name):
            try:
                shutil.rmtree(draft, ignore_errors=True)
                draft.mkdir()
                yield draft
                if root.exists():
                    root.rename(base / "old")
                draft.rename(root)
            finally:
                shutil.rmtree(base, ignore_errors=True)
    except OSError as error:
        if isinstance(error, T2IReIDError):  # of the caller's own work
            raise
        raise DataError(f"'{root}' cannot be written: {error}") from error


@contextlib.contextmanager
def explain_write_errors(
    folder: Path, error: type[T2IReIDError] = DataError, then: str = "continue with --resume"
) -> Iterator[None]:
    """Turns the system's errors about a ``folder`` that is full, read-only or gone into a user error.

    Args:
        folder: what is written to.
        error: type of the error to raise.
        then: what to do once it can be written again.

    Raises:
        T2IReIDError: of the type ``error``.
    """
    try:
        yield
    except OSError as problem:
        path = os.fsdecode(problem.filename or folder)  # TensorBoard's names are bytes
        gone = problem.errno == errno.ENOENT and bool(problem.filename) and path.startswith(str(folder))
        if isinstance(problem, T2IReIDError) or not (gone or problem.errno in _UNWRITABLE):
            raise
        raise error(
            f"cannot write '{path}': {problem.strerror}; existing checkpoints are intact: fix this, then {then}"
        ) from problem
