"""``tools/benchmark.py train`` on tiny encoders."""

import json

import pytest
import torch

from t2ireid_plugin.benchmark import training
from t2ireid_plugin.benchmark.main import main


def test_settings_are_measured_beside_the_first(tmp_path, capsys):
    file = tmp_path / "train.json"
    settings = ["train.precision fp32", "train.checkpoint_encoders true train.encode_at_once 2"]
    words = ["train", "--size", "tiny", "--batch", "16", "--rounds", "1", "--json", str(file), "--settings", *settings]
    assert main(words) == 0
    printed = capsys.readouterr().out
    figures = json.loads(file.read_text())["train"]
    assert list(figures["settings"]) == settings
    for name, row in figures["settings"].items():
        assert name in printed
        assert row["seconds"] > 0
        assert row["mb"] > 1
    plain, twice = figures["settings"].values()
    assert set(plain["time_to_first"].values()) == set(plain["memory_to_first"].values()) == {1}
    assert twice["time_to_first"]["median"] == pytest.approx(twice["seconds"] / plain["seconds"])
    assert twice["memory_to_first"]["median"] == pytest.approx(twice["mb"] / plain["mb"])


def test_a_setting_that_keeps_less_takes_less_memory(tmp_path):
    """On a ViT-B/16, where it weighs; and each setting reaches the run, or both would take the same."""
    training.draw_people(tmp_path, train_ids=4)
    options = {"root": str(tmp_path), "size": "base", "batch": 4, "steps": 1, "threads": 1, "use_gpu": False}
    settings = ("model.freeze_text true", "model.freeze_text true train.checkpoint_encoders true")
    own = [training.in_own_process("t2ireid_plugin.benchmark.training", settings=s, **options) for s in settings]
    assert own[1]["bytes"] < 0.95 * own[0]["bytes"]


def test_a_gpu_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["train", "--use-gpu"]) == 2
    assert "--use-gpu" in capsys.readouterr().err


def test_a_wrong_setting_is_told_before_anything_runs(monkeypatch, capsys):
    monkeypatch.setattr(training, "in_own_process", lambda *_, **__: pytest.fail("ran"))
    assert main(["train", "--settings", "train.precission bf16"]) == 2
    assert "train.precision" in capsys.readouterr().err
