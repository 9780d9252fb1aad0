"""`tools/benchmark.py head` on one round of two images."""

import pytest

from benchmarks import head
from benchmarks.main import main


@pytest.mark.slow
def test_each_head_is_measured(monkeypatch, capsys):
    heads = {name: head.HEADS[name] for name in ("identity", "fused, dim 256")}  # the others are only larger
    monkeypatch.setattr(head, "HEADS", heads)
    assert main(["head", "--rounds", "1", "--batch", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * len(heads)
