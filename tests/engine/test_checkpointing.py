import json
import os
import random
import resource

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2ireid_plugin.engine.checkpointing import (
    load_training_state,
    rng_state,
    save_checkpoint,
    save_json,
    set_rng_state,
)
from t2ireid_plugin.errors import CheckpointError

OLD, NEW = {"epoch": 1, "weights": torch.zeros(3)}, {"epoch": 2, "weights": torch.ones(200_000)}


def load(file):
    return torch.load(file, weights_only=True)


@pytest.fixture
def small_files_only():
    """No file of this process can grow past 50 kB, which is what a full disk looks like to it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_new_checkpoint_replaces_the_old(tmp_path):
    file = tmp_path / "last.pth"
    for state in (OLD, NEW):
        save_checkpoint(state, file)
        assert load(file)["epoch"] == state["epoch"]
        assert torch.equal(load(file)["weights"], state["weights"])
    assert [path.name for path in tmp_path.iterdir()] == ["last.pth"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, small_files_only):
    file = tmp_path / "last.pth"
    save_checkpoint(OLD, file)
    before = file.read_bytes()
    with pytest.raises(CheckpointError, match=r"cannot write '.*last\.pth': .*; what was there before is untouched"):
        save_checkpoint(NEW, file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last.pth"]


def test_json_that_fails_leaves_the_old_file(tmp_path, small_files_only):
    file = tmp_path / "results.json"
    save_json({"R@1": 0.5}, file)
    with pytest.raises(CheckpointError, match="cannot write"):
        save_json(["long"] * 50_000, file)
    assert json.loads(file.read_text()) == {"R@1": 0.5}
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch, interruption):
    file = tmp_path / "last.pth"
    save_checkpoint(OLD, file)

    def half(state, path):
        path.write_bytes(b"half a checkpoint")
        raise interruption

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(interruption):
        save_checkpoint(NEW, file)
    assert load(file)["epoch"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last.pth"]


def test_what_a_killed_process_left_is_no_obstacle(tmp_path):
    (tmp_path / ".last.tmp.pth").write_bytes(b"half a checkpoint of a process that was killed")
    save_checkpoint(OLD, tmp_path / "last.pth")
    assert load(tmp_path / "last.pth")["epoch"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last.pth"]


def test_the_file_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("replace"), replace(a, b)))
    save_checkpoint(OLD, tmp_path / "last.pth")
    assert events == ["fsync", "replace"]


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(CheckpointError, match="cannot write"):
        save_checkpoint(OLD, tmp_path / "gone" / "last.pth")


def test_json_is_readable_in_any_language(tmp_path):
    save_json({"caption": "一个男人"}, tmp_path / "a.json")
    assert "一个男人" in (tmp_path / "a.json").read_text(encoding="utf-8")


# Random state


def draw():
    return (
        [random.random(), random.gauss(0, 1), random.randrange(1000)],
        [np.random.random(), np.random.normal(), int(np.random.randint(1000))],
        torch.rand(3).tolist() + torch.randn(3).tolist(),
    )


@given(st.integers(0, 2**31), st.integers(0, 700))
def test_random_state_goes_through_a_file(tmp_path_factory, seed, warm):
    file = tmp_path_factory.getbasetemp() / "rng.pth"
    outside = rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        for _ in range(warm):  # past the end of the Mersenne twister's block
            random.gauss(0, 1)
            np.random.normal()
        save_checkpoint({"rng": rng_state()}, file)
        expected = draw()
        draw()
        set_rng_state(load(file)["rng"])
        assert draw() == expected
    finally:
        set_rng_state(outside)


# What training can go on from


def test_a_runs_last_checkpoint_can_be_resumed(tiny_run):
    state = load_training_state(tiny_run.folder / "last.pth")
    assert state["epoch"] == 2
    assert state["optimizer"]["state"]


def test_weights_alone_cannot_be_resumed(tiny_run):
    with pytest.raises(CheckpointError) as error:
        load_training_state(tiny_run.folder / "best.pth")
    text = str(error.value)
    assert "has no losses, optimizer, scheduler, rng, so training cannot be resumed from it" in text
    assert "model.load_weights" in text


def test_a_missing_or_cut_file_is_named(tiny_run, tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at '.*gone\.pth'"):
        load_training_state(tmp_path / "gone.pth")
    cut = tmp_path / "cut.pth"
    cut.write_bytes((tiny_run.folder / "last.pth").read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=r"'.*cut\.pth' is truncated"):
        load_training_state(cut)


@pytest.mark.parametrize("name", ["last.pth", "best.pth"])
def test_a_runs_checkpoints_load_with_pytorchs_safe_loader(tiny_run, name):
    state = torch.load(tiny_run.folder / name, weights_only=True)
    assert state["epoch"] >= 1
    assert all(isinstance(value, torch.Tensor) for value in state["state_dict"].values())
    assert (state["preprocess"]["height"], state["preprocess"]["width"]) == (32, 16)
    assert state["preprocess"]["mean"] == state["preprocess"]["std"] == [0.5, 0.5, 0.5]
    assert json.loads(state["tokenizer"])["model"]["type"] == "WordPiece"
