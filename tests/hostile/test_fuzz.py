"""`tools/fuzz.py`: a little of it in every run of the suite, and that it does find."""

import importlib.util
import random
import sys
from pathlib import Path

import pytest

from t2ireid_plugin.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("fuzz", REPOSITORY / "tools" / "fuzz.py")
fuzz = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz)


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_no_input_ends_in_anything_but_a_refusal(target, tmp_path, capfd):
    found = fuzz.fuzz(target, runs=200, seed=7, out=tmp_path)
    assert found == 0, capfd.readouterr().out


def broken(folder):
    """A reader that fails where both letters are there and refuses where one is."""

    def read(content):
        if b"x" in content and b"y" in content:
            raise KeyError("x")
        if b"x" in content:
            raise DataError("no x")

    return read, lambda rng: bytes(rng.choices(b"xyabcdefgh", k=30))


def test_a_defect_is_found_made_small_and_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(fuzz.TARGETS, "broken", broken)
    monkeypatch.setattr(sys, "argv", ["fuzz.py", "broken", "--runs", "50", "--out", str(tmp_path / "found")])
    assert fuzz.main() == 1
    (file,) = (tmp_path / "found").iterdir()
    assert sorted(file.read_bytes()) == sorted(b"xy")
    assert "KeyError: 'x'" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_inputs(tmp_path):
    _, change = fuzz.TARGETS["splitter"](tmp_path)
    assert [change(random.Random("0 5")) for _ in range(2)] == [change(random.Random("0 5"))] * 2
    assert change(random.Random("0 5")) != change(random.Random("1 5"))


def test_a_message_that_would_steer_the_terminal_counts_as_a_defect():
    """As errors of ours escape what they quote, this needs one made by hand."""
    error = DataError("fine")
    error.args = ("\x1b[2J",)

    def read(content):
        raise error

    assert "no terminal shows" in fuzz.try_one(read, b"")
