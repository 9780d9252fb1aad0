import os

import pytest
import torch

from t2ireid_plugin.cli import main
from t2ireid_plugin.utils.deterministic import set_deterministic


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    benchmark = torch.backends.cudnn.benchmark
    yield
    torch.backends.cudnn.benchmark = benchmark
    torch.use_deterministic_algorithms(False)


def test_never_together_with_cudnns_benchmark():
    torch.backends.cudnn.benchmark = True
    set_deterministic(True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_what_the_user_has_set_for_cublas_stays(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    set_deterministic(True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_off_by_default_and_after_a_run_that_had_it():
    set_deterministic(True)
    set_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_run_with_every_loss_has_deterministic_kernels_for_all_it_does(tiny_settings, tiny_run, tmp_path):
    """On the CPU they are the same ones, so the run is the same."""
    assert main(["train", *tiny_settings(tmp_path, full=True, train__deterministic=True)]) == 0
    assert torch.are_deterministic_algorithms_enabled()
    assert (tmp_path / "metrics.jsonl").read_text() == (tiny_run.folder / "metrics.jsonl").read_text()


@pytest.mark.cuda
def test_on_the_gpu_the_same_command_gives_the_same_weights(tiny_settings, tmp_path):
    for name in ("a", "b"):
        assert main(["train", *tiny_settings(tmp_path / name, full=True, use_gpu=True, train__deterministic=True)]) == 0
    first, second = (torch.load(tmp_path / name / "best.pth", weights_only=True)["state_dict"] for name in ("a", "b"))
    assert all(torch.equal(first[key], second[key]) for key in first)
