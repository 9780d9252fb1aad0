import re
import sys

import pytest

from t2ireid_plugin.utils.progress import show_progress


def test_a_line_with_an_eta_for_every_tenth(capsys):
    assert list(show_progress(iter(range(2500)), 2500, "counting", "number")) == list(range(2500))
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 10
    assert re.fullmatch(r"counting: 250 of 2,500, eta \d:\d\d:\d\d", lines[0])
    assert lines[-1] == "counting: 2,500 of 2,500"


@pytest.mark.parametrize("number", [0, 1, 3, 11])
def test_at_most_one_line_per_result(number, capsys):
    assert list(show_progress(range(number), number, "counting", "number")) == list(range(number))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == min(number, 10)


def test_show_false_prints_nothing(capsys):
    assert list(show_progress([1, 2], 2, "counting", "number", show=False)) == [1, 2]
    assert capsys.readouterr().err == ""


def test_a_progress_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(show_progress("ab", 2, "counting", "letter")) == ["a", "b"]
    assert "100%" in capsys.readouterr().err
