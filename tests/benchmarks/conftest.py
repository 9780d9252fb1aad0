"""Processes of the benchmarks that have the packages loaded already."""

import pytest
from preloaded import run_python


@pytest.fixture
def preloaded_processes(monkeypatch):
    """What a benchmark measures in a process of its own; test_benchmark_model.py has one that starts afresh."""
    for name in ("tiny", "ranking"):
        monkeypatch.setattr(
            f"benchmarks.{name}.run_module", lambda module, argument: run_python(["-m", module, argument], status=None)
        )
