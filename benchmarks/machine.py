"""Description of the machine, and memory of this process."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import joblib
import torch

_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
_PACKAGES = ("torch", "torchvision", "torchreid", "transformers", "numpy", "Cython", "t2ireid-plugin")


def describe_machine() -> dict[str, Any]:
    """Processor, cores, threads, memory, GPU and the versions of Python and of installed packages."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "cores": joblib.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gb": _memory_gb(),
        "gpu": gpu,
        "system": platform.platform(),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def memory_used() -> int:
    """Bytes of memory that this process holds now."""
    return _status("VmRSS") or memory_peak()


def memory_peak() -> int:
    """Peak memory of this process in bytes, since `reset_memory_peak` where that works."""
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT


def reset_memory_peak() -> None:
    """Resets the peak, on Linux only; elsewhere a later peak is visible only if it exceeds the earlier."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _status(field: str) -> int:
    """A field of Linux's ``/proc/self/status`` in bytes, 0 on other systems."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _versions() -> dict[str, str]:
    installed = {}
    for name in _PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed
