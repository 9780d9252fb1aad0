"""Parts of ``tools/benchmark.py model`` and ``startup``; test_benchmark_all.py runs the commands."""

import argparse
import json
import subprocess

import pytest
import torch

from benchmarks import model, startup, timing, workloads
from benchmarks.literal import LiteralModel
from benchmarks.main import main
from benchmarks.timing import Seconds, in_turns, ratio, summary
from benchmarks.workloads import CACHED
from t2ireid_plugin.errors import DataError


@pytest.fixture(scope="module")
def bench():
    return workloads.build("tiny")


@pytest.mark.slow
def test_memory_is_measured_in_a_separate_process():
    """The tiny model takes some megabytes; this process, which has run other tests, holds far more."""
    figures = model._measured(CACHED, argparse.Namespace(size="tiny", batch=2))
    assert 1e6 < figures["bytes"] < 300e6
    trained = sum(p.numel() for p in workloads.build("tiny").model.parameters() if p.requires_grad)
    assert figures["parameters"] == 4 * 4 * trained  # weight, gradient and two averages, of four bytes
    assert 0 < figures["kept"] < figures["bytes"]


def test_models_that_differ_are_not_compared(bench):
    assert workloads.check_agreement(bench) < 1e-5
    other = LiteralModel(bench.model).eval()
    with torch.no_grad():
        other.disentangle.gate[0].bias[0] += 0.1
    with pytest.raises(DataError, match=r"differ by .* in image_embeds"):
        workloads.check_agreement(bench._replace(literal=other))


def test_the_literal_model_pads_to_the_full_length_and_encodes_each_kind_of_text_separately(bench):
    shapes = []
    handle = bench.model.text_encoder.register_forward_hook(lambda m, a, out: shapes.append(out[0].shape[:2]))
    with torch.no_grad():
        bench.literal(bench.images(2), workloads.clothing(2), workloads.captions(2))
    handle.remove()
    assert shapes == [(2, 64), (2, 64)]


def test_captions_have_the_lengths_of_cuhk_pedes(bench):
    """23.5 words on average (Li et al. 2017); each word is one token."""
    texts = workloads.captions(2000)
    words = [sum(word.isalpha() for word in text.split()) for text in texts]
    assert sum(words) / len(words) == pytest.approx(23.5, abs=0.5)
    assert 12 <= min(words) < max(words) <= 96
    short = [text for text in texts if len(text.split()) < 40][:50]
    assert [len(ids) for ids in bench.model.text_cache.ids(short)] == [len(text.split()) + 2 for text in short]
    assert [sum(w.isalpha() for w in text.split()) for text in workloads.sentences(3, 17)] == [17] * 3


def test_kept_counts_what_autograd_saves_once_and_without_parameters():
    layers = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.ReLU())
    rows = torch.randn(3, 5)
    assert workloads.Step(layers, lambda: layers(rows).square().mean()).kept() == 4 * (3 * 5 + 3 * 7)


def test_contenders_take_turns_and_the_first_round_is_not_counted():
    called = []
    seconds = in_turns({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, rounds=3)
    assert called == ["a", "b"] * 4
    assert {len(times) for row in seconds.values() for times in row} == {3}


def test_ratios_are_taken_round_by_round():
    assert ratio([1.0, 9.0, 4.0], [1.0, 3.0, 2.0]) == (2.0, 1.0, 3.0)
    rows = {"bare": Seconds([1, 1, 1], [1, 2, 4]), "literal": Seconds([1, 1, 1], [2, 2, 2])}
    figures = summary(rows, "bare", "literal", "cpu")
    assert figures["literal"]["to_bare"] == {"median": 1.0, "low": 0.5, "high": 2.0}
    assert figures["literal"]["seconds"] == {"wall": 1, "cpu": 2}
    assert str(timing.Ratio(1.12345, 1.0, 2.0)) == "1.123 (1.000-2.000)"


def test_training_steps_leave_no_state_for_the_next_contender():
    bench = workloads.build("tiny")
    work = workloads.training_work(bench, 2)
    for step in work.values():
        step()
        assert bench.model.training
        assert bench.literal.training
        assert not bench.model.text_encoder.training  # it is frozen
        assert bench.model.text_features is None
        assert all(p.grad is None for module in (bench.model, bench.literal) for p in module.parameters())


def test_a_failed_process_is_reported(monkeypatch, capsys):
    done = subprocess.CompletedProcess([], 1, "", "no memory")
    monkeypatch.setattr("benchmarks.tiny.subprocess.run", lambda *_, **__: done)
    assert main(["model", "--size", "tiny", "--rounds", "1", "--only", "memory"]) == 2
    assert "benchmarks.workloads failed with status 1: no memory" in capsys.readouterr().err


def test_starts_are_compared_with_torchreid_after_subtracting_python(tmp_path, monkeypatch, capsys):
    seconds = {"python": 1.0, "torchreid": 5.0, "package": 1.5, "both": 5.4, "model": 4.0, "help": 1.2}
    monkeypatch.setattr(startup, "_start", lambda name: (seconds[name], 9.0))
    assert main(["startup", "--rounds", "2", "--json", str(tmp_path / "s.json")]) == 0
    starts = json.loads((tmp_path / "s.json").read_text())["startup"]["starts"]
    ratios = {name: row["to_torchreid"]["median"] for name, row in starts.items()}
    assert ratios == pytest.approx({"torchreid": 1, "package": 0.125, "both": 1.1, "model": 0.75, "help": 0.05})
    assert "python tools/train_net.py --help" in capsys.readouterr().out


@pytest.mark.slow
def test_a_start_measures_a_process(monkeypatch):
    cpu, wall = startup._start("help")
    assert 0 < cpu < 60
    assert wall > 0
    monkeypatch.setitem(startup._CODE, "help", "raise SystemExit(3)")
    with pytest.raises(DataError, match="status 3"):
        startup._start("help")
