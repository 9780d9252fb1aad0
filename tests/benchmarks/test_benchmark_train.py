"""``tools/benchmark.py train`` on tiny encoders."""

import json

import pytest
import torch

from benchmarks import training
from benchmarks.main import main


@pytest.mark.slow
@pytest.mark.usefixtures("preloaded_processes")
def test_settings_are_compared_with_the_first(tmp_path, capsys):
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
        assert row["time_to_bare"]["median"] > 1
        assert 0 < row["waits"] < 1
    plain, twice = figures["settings"].values()
    assert set(plain["time_to_first"].values()) == set(plain["memory_to_first"].values()) == {1}
    assert twice["time_to_first"]["median"] == pytest.approx(twice["seconds"] / plain["seconds"])
    assert twice["memory_to_first"]["median"] == pytest.approx(twice["mb"] / plain["mb"])


def test_size_and_settings_reach_the_run(tmp_path, monkeypatch):
    class Built(Exception):
        pass

    def build_run(cfg, weights):
        raise Built(cfg)

    monkeypatch.setattr(training, "build_run", build_run)
    with pytest.raises(Built) as built:
        training._build(tmp_path, tmp_path, "base", "train.precision bf16 model.freeze_text true", 4, 3, False)
    (cfg,) = built.value.args
    for encoder in (cfg.model.vit_config, cfg.model.bert_config):
        assert (encoder.hidden_size, encoder.num_hidden_layers) == (768, 12)
    assert cfg.model.vit_config.image_size == [cfg.data.height, cfg.data.width] == [224, 224]
    assert (cfg.data.workers, cfg.train.batch_size) == (3, 4)
    assert (cfg.train.precision, cfg.model.freeze_text) == ("bf16", True)


def test_the_clock_separates_steps_from_waits(monkeypatch):
    times = iter([0.0, 3.0, 4.0, 9.0, 11.0])  # made; two steps of 1 and 2 seconds after waits of 3 and 5
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(times))
    monkeypatch.setattr(training.time, "process_time", iter([0.0, 0.5, 0.5, 0.75]).__next__)
    clock = training._Clock(use_gpu=False)
    assert [clock(lambda: "done") for _ in range(2)] == ["done"] * 2
    assert (clock.waits, clock.walls, clock.seconds) == ([3, 5], [1, 2], [0.5, 0.25])


@pytest.mark.cuda
def test_settings_are_measured_on_a_gpu(capsys):
    words = ["--size", "tiny", "--batch", "16", "--warmup", "2", "--rounds", "1", "--settings", "train.precision bf16"]
    assert main(["train", "--use-gpu", *words]) == 0
    assert "images per second" in capsys.readouterr().out


def test_a_missing_gpu_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["train", "--use-gpu"]) == 2
    assert "--use-gpu" in capsys.readouterr().err


def test_an_unknown_setting_stops_before_any_run(monkeypatch, capsys):
    monkeypatch.setattr(training, "in_subprocess", lambda *_, **__: pytest.fail("ran"))
    assert main(["train", "--settings", "train.precission bf16"]) == 2
    assert "train.precision" in capsys.readouterr().err
