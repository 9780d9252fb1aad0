"""Files that are there as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from t2ireid_plugin.errors import DataError, T2IReIDError


def write_whole(path: Path, write: Callable[[Path], object], error: type[T2IReIDError] = DataError) -> None:
    """Lets ``write`` fill a draft in the same folder, which then takes the name ``path``: the old file or the new one.

    Args:
        path: the file, in a folder that exists.
        write: is given the draft's path, with the same suffix.
        error: what to raise.

    Raises:
        T2IReIDError: of the type ``error``, when the file cannot be written; what was there before is untouched.
    """
    # Always the same name, so that what a killed process left is written over and does not pile up.
    draft = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        write(draft)
        with open(draft, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(draft, path)
    except (OSError, RuntimeError) as problem:  # PyTorch's writer turns a full disk into a RuntimeError
        reason = getattr(problem, "strerror", None) or str(problem).splitlines()[0]
        raise error(f"cannot write '{path}': {reason}; what was there before is untouched") from problem
    finally:
        with contextlib.suppress(OSError):  # gone already, or with its folder
            draft.unlink()
