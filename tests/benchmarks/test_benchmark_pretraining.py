"""`tools/benchmark.py pretraining` at a small size, within this process."""

import json

import pytest

from benchmarks import pretraining
from benchmarks.main import main
from t2ireid_plugin.errors import DataError


@pytest.mark.slow
def test_both_kinds_of_start(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(pretraining, "in_subprocess", lambda _module, **options: pretraining._start(**options))
    monkeypatch.setattr(pretraining, "_STARTS", {"folders": False, "shards": True})
    limits = ["--most-mb", "1000000", "--most-seconds", "100000"]
    assert main(["pretraining", "--images", "3000", "--read", "2048", *limits, "--json", str(tmp_path / "a.json")]) == 0
    printed = capsys.readouterr().out
    assert printed.count("Compiling the annotation of synthpedes") == 2  # each kind once
    assert "3,000 images, 7,500 captions" in printed
    starts = json.loads((tmp_path / "a.json").read_text())["pretraining"]["starts"]
    assert {row["captions"] for row in starts.values()} == {7500}
    with pytest.raises(DataError, match=r"folders: .* more than allowed"):
        pretraining.check(starts, most_mb=1, most_seconds=100)
