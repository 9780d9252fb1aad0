import contextlib
import json
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from states import differences, largest_file

from t2ireid_plugin.engine.training_state import (
    DAMAGED,
    LAST,
    PREVIOUS,
    check_intact,
    load_training_state,
    newest_checkpoint,
    save_checkpoint,
    save_json,
)
from t2ireid_plugin.errors import CheckpointError
from t2ireid_plugin.modeling.checkpoint import read_checkpoint

OLD, NEW = {"epoch": 1, "weights": torch.zeros(3)}, {"epoch": 2, "weights": torch.ones(200_000)}


def load(file):
    return torch.load(file, weights_only=True)


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    file = tmp_path / "last.pth"
    save_checkpoint(OLD, file)
    before = file.read_bytes()
    message = r"cannot write '.*last\.pth': File too large; the existing file"
    with largest_file(50_000), pytest.raises(CheckpointError, match=message):
        save_checkpoint(NEW, file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last.pth"]


def test_json_is_readable_and_a_write_that_fails_leaves_the_old_file(tmp_path):
    file = tmp_path / "results.json"
    save_json({"caption": "一个男人"}, file)
    with largest_file(50_000), pytest.raises(CheckpointError, match="cannot write"):
        save_json(["long"] * 50_000, file)
    assert "一个男人" in file.read_text(encoding="utf-8")
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


def test_the_draft_of_a_killed_process_is_overwritten(tmp_path):
    (tmp_path / ".last.tmp.pth").write_bytes(b"half a checkpoint of a process that was killed")
    save_checkpoint(OLD, tmp_path / "last.pth")
    assert load(tmp_path / "last.pth")["epoch"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last.pth"]


def test_a_file_is_synced_before_it_is_renamed(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("replace"), replace(a, b)))
    save_checkpoint(OLD, tmp_path / "last.pth")
    assert events == ["fsync", "replace", "fsync"]  # the last one is the folder, which holds the names


# The newest training state and the one before it


def two_checkpoints(folder):
    """Of epochs 1 and 2; their paths, the newest first."""
    last, previous = folder / LAST, folder / PREVIOUS
    save_checkpoint({"epoch": 1, "weights": torch.arange(200.0)}, last, keep=previous)
    save_checkpoint({"epoch": 2, "weights": torch.arange(200.0) + 1}, last, keep=previous)
    return last, previous


def damage(file, place=0.5):
    content = bytearray(file.read_bytes())
    content[int(len(content) * place)] ^= 1
    file.write_bytes(content)


def test_the_newest_state_is_resumed_and_the_one_before_it_kept(tmp_path, caplog):
    assert newest_checkpoint(tmp_path) is None
    last, previous = two_checkpoints(tmp_path)
    assert newest_checkpoint(tmp_path) == last
    assert caplog.text == ""
    assert [load(file)["epoch"] for file in (last, previous)] == [2, 1]
    save_checkpoint({"epoch": 3}, last, keep=previous)
    assert [load(file)["epoch"] for file in (last, previous)] == [3, 2]
    assert {path.name for path in tmp_path.iterdir()} == {LAST, PREVIOUS}


def test_a_damaged_state_is_renamed_and_the_one_before_it_resumed(tmp_path, caplog):
    last, previous = two_checkpoints(tmp_path)
    damage(last)
    broken = last.read_bytes()
    assert newest_checkpoint(tmp_path) == previous
    assert "last.pth' is truncated or damaged: its bytes do not match" in caplog.text
    assert "continuing from" in caplog.text
    # The next save keeps the intact one.
    save_checkpoint({"epoch": 2}, last, keep=previous)
    assert load(previous)["epoch"] == 1
    assert (tmp_path / DAMAGED).read_bytes() == broken


def test_two_damaged_states_are_an_error(tmp_path):
    for file in two_checkpoints(tmp_path):
        damage(file)
    with pytest.raises(CheckpointError, match=r"last\.prev\.pth' is truncated or damaged"):
        newest_checkpoint(tmp_path)
    assert (tmp_path / LAST).exists()


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path, caplog):
    last, previous = two_checkpoints(tmp_path)
    last.unlink()
    assert newest_checkpoint(tmp_path) == previous
    assert "last.pth' is missing" in caplog.text


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    file = tmp_path_factory.mktemp("small") / "small.pth"
    state = {"weights": torch.randn(300, generator=torch.Generator().manual_seed(0)), "epoch": 3, "best": {"R@1": 0.5}}
    save_checkpoint(state, file)
    return file, state


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_a_flipped_bit_is_rejected_or_changes_nothing(small, place, bit):
    file, state = small
    content = bytearray(file.read_bytes())
    content[int(len(content) * place)] ^= 1 << bit
    flipped = file.with_name("flipped.pth")
    flipped.write_bytes(content)
    loaded = state
    with contextlib.suppress(CheckpointError):
        check_intact(flipped)
        loaded = read_checkpoint(flipped)
    assert differences(loaded, state, "checkpoint") == []


def test_a_flipped_bit_in_a_file_without_digest_is_rejected(small):
    """PyTorch writes no digest, and its own checksums are not read by it."""
    file, state = small
    torch.save(state, file.with_name("plain.pth"))
    content = file.with_name("plain.pth").read_bytes()
    place = content.index(state["weights"].numpy().tobytes())
    flipped = file.with_name("weights.pth")
    flipped.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    assert not torch.equal(load(flipped)["weights"], state["weights"])
    with pytest.raises(CheckpointError, match="the checksum of"):
        check_intact(flipped)


@given(st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_rejected(small, place):
    file, _ = small
    cut = file.with_name("cut.pth")
    cut.write_bytes(file.read_bytes()[: int(file.stat().st_size * place)])
    with pytest.raises(CheckpointError, match=r"cut\.pth' is truncated or damaged"):
        check_intact(cut)


# Resuming


def test_weights_alone_cannot_be_resumed(tiny_run):
    with pytest.raises(CheckpointError) as error:
        load_training_state(tiny_run.folder / "best.pth")
    text = str(error.value)
    assert "has no losses, optimizer, scheduler, scaler, step, steps, evaluated, log, bad_images, so" in text
    assert "model.load_weights" in text


@pytest.mark.parametrize("key", ["state_dict", "losses", "optimizer", "scheduler", "config", "data", "held_out"])
def test_foreign_content_of_an_entry_is_refused(build, tiny_run, tmp_path, key):
    """Of the type that it should have, see `test_untrusted_checkpoints.py` for others."""
    save_checkpoint({**load(tiny_run.folder / "last.pth"), key: {"a": [1]}}, tmp_path / "last.pth")
    with pytest.raises(CheckpointError, match=r"last\.pth'"):
        build(full=True).resume(tmp_path / "last.pth")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at '.*gone\.pth'"):
        load_training_state(tmp_path / "gone.pth")


@pytest.mark.parametrize("name", ["last.pth", "best.pth"])
def test_a_runs_checkpoints_load_with_pytorchs_safe_loader(tiny_run, name):
    state = torch.load(tiny_run.folder / name, weights_only=True)
    assert state["epoch"] >= 1
    assert all(isinstance(value, torch.Tensor) for value in state["state_dict"].values())
    assert (state["preprocess"]["height"], state["preprocess"]["width"]) == (32, 16)
    assert state["preprocess"]["mean"] == state["preprocess"]["std"] == [0.5, 0.5, 0.5]
    assert json.loads(state["tokenizer"])["model"]["type"] == "WordPiece"
