"""`tools/benchmark.py load` and `soak` at small sizes."""

import json

import pytest

from benchmarks import load, soak
from benchmarks.main import main


@pytest.mark.slow
@pytest.mark.usefixtures("preloaded_processes")
def test_load_measures_an_evaluation_and_fails_above_its_limit(tmp_path, monkeypatch, capsys):
    file = tmp_path / "load.json"
    assert main(["load", "--gallery", "240", "--queries", "50", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())["load"]
    assert (figures["gallery"], figures["queries"]) == (240, 50)
    assert 0 < figures["start_mb"] < figures["peak_mb"]
    assert "240 images, 50 queries: " in capsys.readouterr().out
    monkeypatch.setattr(load, "in_subprocess", lambda *_, **__: figures)
    assert main(["load", "--gallery", "8", "--queries", "5", "--most-mb", "10"]) == 2
    assert "more than 10" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("preloaded_processes")
def test_soak_measures_and_plots_a_training(tmp_path, capsys):
    file, picture = tmp_path / "soak.json", tmp_path / "images" / "memory.png"
    words = ["soak", "--steps", "20", "--most-growth-mb", "1000", "--picture", str(picture), "--json", str(file)]
    assert main(words) == 0
    figures = json.loads(file.read_text())["soak"]
    assert len(figures["rss_mb"]) >= 20
    assert min(figures["rss_mb"]) > 50
    assert figures["rss_mb_growth"] == pytest.approx(soak._growth(figures["rss_mb"]))
    assert picture.stat().st_size > 1000
    assert "since warming up" in capsys.readouterr().out


@pytest.mark.parametrize("leaking", ["rss_mb", "cuda_mb"])
def test_soak_fails_for_a_leak(monkeypatch, capsys, leaking):
    leak = {"rss_mb": [5.0] * 100, "cuda_mb": [], leaking: [float(i) for i in range(100)]}
    monkeypatch.setattr(soak, "in_subprocess", lambda *_, **__: leak)
    monkeypatch.setattr(soak, "draw_people", lambda *_: None)
    assert main(["soak"]) == 2
    assert f"{leaking} grew by 80 MB, more than 30" in capsys.readouterr().err
