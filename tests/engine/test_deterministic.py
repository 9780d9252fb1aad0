import os

import pytest
import torch

from t2ireid_plugin.cli import main
from t2ireid_plugin.engine.build import set_deterministic


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    benchmark = torch.backends.cudnn.benchmark
    yield
    torch.backends.cudnn.benchmark = benchmark
    torch.use_deterministic_algorithms(False)


def test_deterministic_switches_cudnns_benchmark_off():
    torch.backends.cudnn.benchmark = True
    set_deterministic(True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_the_users_cublas_setting_is_kept(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    set_deterministic(True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_deterministic_can_be_switched_off():
    set_deterministic(True)
    set_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
def test_a_run_with_every_loss_has_deterministic_kernels(tiny_settings, tiny_run, tmp_path):
    """On the CPU kernels are deterministic anyway, so the run is the same."""
    assert main(["train", *tiny_settings(tmp_path, full=True, train__deterministic=True, test__pictures=0)]) == 0
    assert torch.are_deterministic_algorithms_enabled()
    assert (tmp_path / "metrics.jsonl").read_text() == (tiny_run.folder / "metrics.jsonl").read_text()


@pytest.mark.cuda
def test_weights_are_reproducible_on_a_gpu(tiny_settings, tmp_path):
    for name in ("a", "b"):
        assert main(["train", *tiny_settings(tmp_path / name, full=True, use_gpu=True, train__deterministic=True)]) == 0
    first, second = (torch.load(tmp_path / name / "best.pth", weights_only=True)["state_dict"] for name in ("a", "b"))
    assert all(torch.equal(first[key], second[key]) for key in first)
