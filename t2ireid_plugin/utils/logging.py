"""The log files of a run: console output in ``train.log``, one JSON a line in ``metrics.jsonl``, ``env.txt``."""

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

_PACKAGES = (
    "t2ireid-plugin",
    "torch",
    "torchvision",
    "torchreid",
    "transformers",
    "tokenizers",
    "mamba-ssm",
    "numpy",
    "scikit-learn",
    "opencv-python-headless",
)


class _Tee:
    """A text stream that writes to two."""

    def __init__(self, console: TextIO, file: FileIO) -> None:
        self.console, self.file = console, file

    def write(self, text: str) -> int:
        # Nothing is held back: a killed run keeps its log, and on a full disk closing has nothing left to fail at.
        self.file.write(text.encode("utf-8", "backslashreplace"))
        return self.console.write(text)

    def flush(self) -> None:
        self.console.flush()

    def isatty(self) -> bool:
        return self.console.isatty()


class _Handler(logging.StreamHandler):
    """As what is printed, a message that cannot be written ends the run and is not told of with a traceback."""

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # what the caller is handling


@contextlib.contextmanager
def log_to(path: str | Path, append: bool = False) -> Iterator[None]:
    """Copies all that is printed or logged within to ``path``; torchreid prints, we log."""
    console = sys.stdout
    with open(path, "ab" if append else "wb", buffering=0) as file:
        sys.stdout = _Tee(console, file)
        handler = _Handler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        package = logging.getLogger("t2ireid_plugin")
        package.addHandler(handler)
        package.setLevel(logging.INFO)
        try:
            yield
        finally:
            package.removeHandler(handler)
            sys.stdout = console


class MetricsLog:
    """``metrics.jsonl``: one JSON object a line.

    Args:
        path: the file.
        keep: bytes of an existing file to go on after; what follows them is of steps that are now done again.
    """

    def __init__(self, path: str | Path, keep: int = 0) -> None:
        self.path = Path(path)
        with open(self.path, "ab") as stream:
            stream.truncate(min(keep, stream.tell()))

    def write(self, **record: Any) -> None:
        """Appends a line; the system has it when this returns."""
        # JSON has no nan.
        finite = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in record.items()}
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(finite) + "\n")

    def size(self) -> int:
        """Bytes so far, all of them on disk."""
        with open(self.path, "ab") as stream:
            os.fsync(stream.fileno())
            return stream.tell()


def versions() -> dict[str, str]:
    """Python's and the packages' versions; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def git_revision() -> str | None:
    """Revision of the checkout that this package is run from, with ``+`` for changed files; None when installed."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        words = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--match=", "--dirty=+"]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):  # no git, or not its folder
        return None
    return done.stdout.strip() or None


def describe_environment() -> str:
    """Versions and machine, a line each."""
    lines = [f"{name}: {version}" for name, version in versions().items()]
    lines += [
        f"platform: {platform.platform()}",
        f"cpu cores: {os.cpu_count()}",
        f"threads: {torch.get_num_threads()}",
    ]
    lines += [f"gpu: {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return "\n".join(lines) + "\n"
