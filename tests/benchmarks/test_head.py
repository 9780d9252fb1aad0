"""`tools/benchmark.py head` on one round of two images."""

import pytest

from benchmarks.head import HEADS
from benchmarks.main import main


@pytest.mark.slow
def test_each_head_is_measured(tmp_path, capsys):
    assert main(["head", "--rounds", "1", "--batch", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * len(HEADS)
