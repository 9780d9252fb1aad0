"""Log files of a run: console output in ``train.log``, ``metrics.jsonl``, and versions for ``env.txt``."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any, TextIO

import torch

from t2ireid_plugin.errors import printable
from t2ireid_plugin.utils.console import PrintableFormatter

_PACKAGES = (
    *("t2ireid-plugin", "torch", "torchvision", "torchreid", "transformers", "tokenizers", "mamba-ssm"),
    *("numpy", "scikit-learn", "opencv-python-headless"),
)


class _Tee:
    """Text stream that writes to the console and to a file."""

    def __init__(self, console: TextIO, file: FileIO) -> None:
        self.console, self.file = console, file

    def write(self, text: str) -> int:
        # Unbuffered: a killed run keeps its log, and on a full disk the error comes here and not on closing.
        self.file.write(printable(text, "\n\t").encode())
        return self.console.write(text)

    def flush(self) -> None:
        self.console.flush()

    def isatty(self) -> bool:
        return self.console.isatty()


class _Handler(logging.StreamHandler):
    """Raises if a message cannot be written, as ``print`` does, where `logging` would print a traceback."""

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # the error that the caller is handling


@contextlib.contextmanager
def log_to(path: str | Path) -> Iterator[None]:
    """Appends everything that is printed (as by torchreid) or logged (as by us) to ``path``."""
    console = sys.stdout
    with open(path, "ab", buffering=0) as file:
        sys.stdout = _Tee(console, file)
        handler = _Handler(sys.stdout)
        handler.setFormatter(PrintableFormatter("%(levelname)s %(message)s"))
        package = logging.getLogger("t2ireid_plugin")
        package.addHandler(handler)
        package.setLevel(logging.INFO)
        try:
            yield
        finally:
            package.removeHandler(handler)
            sys.stdout = console


class MetricsLog:
    """``metrics.jsonl``: a JSON object per line.

    Args:
        path: the file.
        keep: size in bytes to which an existing file is truncated: the steps logged after it are about to be repeated.
    """

    def __init__(self, path: str | Path, keep: int = 0) -> None:
        self.path = Path(path)
        with open(self.path, "ab") as stream:
            stream.truncate(min(keep, stream.tell()))

    def write(self, **record: Any) -> None:
        """Appends a line. NaN and infinities become null, as JSON has neither."""
        finite = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in record.items()}
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(finite) + "\n")

    def size(self) -> int:
        """Size of the file in bytes, all of them on disk."""
        with open(self.path, "ab") as stream:
            os.fsync(stream.fileno())
            return stream.tell()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that are installed."""
    result = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            result[name] = importlib.metadata.version(name)
    return result


def git_revision() -> str | None:
    """Git revision of the checkout that this package runs from, with ``+`` for changed files; None if installed."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--match=", "--dirty=+"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):  # git is not installed, or the folder is another user's
        return None
    return done.stdout.strip() or None


def describe_environment() -> str:
    """Versions and hardware as ``name: value`` lines."""
    machine = {"platform": platform.platform(), "cpu cores": os.cpu_count(), "threads": torch.get_num_threads()}
    lines = [f"{name}: {value}" for name, value in {**versions(), **machine}.items()]
    lines += [f"gpu: {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return "\n".join(lines) + "\n"
