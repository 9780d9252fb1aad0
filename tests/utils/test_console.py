import io
import os
import sys

import pytest

from t2ireid_plugin.cli import main
from t2ireid_plugin.utils.console import lasting_console


@pytest.fixture
def broken_pipe():
    """A text stream to a pipe whose reader has gone, as with ``| head -1``."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:
        yield stream


@pytest.fixture
def full_disk():
    with open("/dev/full", "w", encoding="utf-8") as stream:
        yield stream


def test_a_reader_that_has_gone_is_no_error(broken_pipe, monkeypatch, tiny_run, tmp_path, capsys):
    monkeypatch.setattr("sys.stdout", broken_pipe)
    target = tmp_path / "result.json"
    assert main(["compare", *[str(tiny_run.folder)] * 2, "--json", str(target)]) == 0
    assert target.is_file()
    assert sys.stdout is broken_pipe
    assert capsys.readouterr().err == ""


def test_output_lost_on_a_full_disk_is_an_error_after_the_work_is_done(
    full_disk, monkeypatch, tiny_run, tmp_path, capsys
):
    monkeypatch.setattr("sys.stdout", full_disk)
    target = tmp_path / "result.json"
    assert main(["compare", *[str(tiny_run.folder)] * 2, "--json", str(target)]) == 2
    assert target.is_file()
    message = "error: standard output: cannot be written (No space left on device); write it elsewhere\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk"])
def test_characters_that_the_encoding_lacks_are_escaped(monkeypatch, encoding):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding))
    with lasting_console():
        print("\N{CJK UNIFIED IDEOGRAPH-4EBA} \N{SNOWMAN}")
    first = "\N{CJK UNIFIED IDEOGRAPH-4EBA}".encode("gbk") if encoding == "gbk" else b"\\u4eba"
    assert written.getvalue() == first + b" \\u2603\n"


def test_closed_streams_are_silent(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    with lasting_console():
        assert not sys.stderr.isatty()
        print("unread")
    assert sys.stdout is sys.stderr is None
