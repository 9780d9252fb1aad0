"""`tools/benchmark.py load` and `soak` at small sizes: they measure what they say, and can fail."""

import json

import numpy as np
import pytest

from benchmarks import soak
from benchmarks.main import main


def test_an_evaluation_is_measured_and_may_be_too_large(tmp_path, capsys):
    file = tmp_path / "load.json"
    assert main(["load", "--gallery", "240", "--queries", "50", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())["load"]
    assert (figures["gallery"], figures["queries"]) == (240, 50)
    assert 0 < figures["start_mb"] < figures["peak_mb"]
    assert "240 images, 50 queries: " in capsys.readouterr().out
    assert main(["load", "--gallery", "8", "--queries", "5", "--most-mb", "10"]) == 2
    assert "more than 10" in capsys.readouterr().err


def test_a_training_is_measured_and_drawn(tmp_path, capsys):
    file, picture = tmp_path / "soak.json", tmp_path / "images" / "memory.png"
    words = ["soak", "--steps", "20", "--most-growth-mb", "1000", "--picture", str(picture), "--json", str(file)]
    assert main(words) == 0
    figures = json.loads(file.read_text())["soak"]
    assert len(figures["rss_mb"]) >= 20
    assert min(figures["rss_mb"]) > 50
    assert figures["rss_mb_growth"] == pytest.approx(soak._growth(figures["rss_mb"]))
    assert picture.stat().st_size > 1000
    assert "since warming up" in capsys.readouterr().out


def test_growth_is_seen_and_warming_up_is_not():
    flat = np.concatenate([np.linspace(0, 500, 100), np.full(900, 500.0)])
    assert soak._growth(list(flat)) == 0
    leak = flat + np.arange(1000) * 0.1
    assert soak._growth(list(leak)) == pytest.approx(80, abs=0.5)


@pytest.mark.parametrize("leaking", ["rss_mb", "cuda_mb"])
def test_a_leak_ends_in_an_error(monkeypatch, capsys, leaking):
    leak = {"rss_mb": [5.0] * 100, "cuda_mb": [], leaking: [float(i) for i in range(100)]}
    monkeypatch.setattr(soak, "in_own_process", lambda *_, **__: leak)
    monkeypatch.setattr(soak, "draw_people", lambda *_: None)
    assert main(["soak"]) == 2
    assert f"{leaking} grew by 80 MB, more than 30" in capsys.readouterr().err
