import io
import logging
import os
import sys
from dataclasses import replace

import pytest
import torch
from preloaded import run_python
from states import saved

from t2ireid_plugin.cli import main
from t2ireid_plugin.evaluation.query_records import load_records, records_path, save_records
from t2ireid_plugin.utils.console import lasting_console
from t2ireid_plugin.utils.logging import log_to


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


NASTY = "title \x1b]0;owned\x07 and \x9b2J \u202e\ud800"
ESCAPED = r"title \x1b]0;owned\x07 and \x9b2J \u202e\ud800"


def test_control_characters_of_files_are_escaped(tmp_path, capsys, monkeypatch):
    # pytest-xdist cannot send a captured record with a lone surrogate.
    monkeypatch.setattr(logging.getLogger("t2ireid_plugin"), "propagate", False)
    logger = logging.getLogger("t2ireid_plugin.any")
    with lasting_console():
        print(f"{NASTY}\tand\nnext")
        with log_to(tmp_path / "train.log"):
            logger.warning("key %s", f"{NASTY}\nERROR all is lost")
            print(f"{NASTY}\tand\nnext")
    lines = f"WARNING key {ESCAPED}\\nERROR all is lost\n{ESCAPED}\tand\nnext\n"
    assert (tmp_path / "train.log").read_text(encoding="utf-8") == lines
    assert capsys.readouterr().out == f"{ESCAPED}\tand\nnext\n{lines}"


def test_control_characters_in_warnings_outside_of_runs_are_escaped():
    done = run_python(["-c", f"""
import logging
from t2ireid_plugin.utils.console import lasting_console
with lasting_console():
    logging.getLogger("t2ireid_plugin.any").warning({NASTY!r})
"""])  # fmt: skip
    assert done.stderr == f"{ESCAPED}\n"


def test_checks_and_comparisons_show_no_control_characters(cuhk, tiny_run, tmp_path, capsys):
    cuhk.add("test", 3, "cam_a/\x1b[2J.png", (NASTY.removesuffix("\ud800"), "\x1b[31m"))
    cuhk.add("test", 3, "cam_a/\x1b[2J\rno problems.gif", ("\x1b[31m",))
    cuhk.image("cam_a/\x1b[2J.png").write_bytes(b"no image")
    cuhk.save()
    assert main(["prepare", "check", str(cuhk.root), "--out", str(tmp_path / "out")]) == 1
    own = load_records(records_path(tiny_run.folder, "cuhkpedes"))["t2i"]
    for name in ("a", "b"):
        results = [replace(own, protocol=protocol) for protocol in ("t2i\x1b]0;x\x07", f"only {name}\x1b[2J\nfake")]
        (tmp_path / name).mkdir()
        save_records(records_path(tmp_path / name, "cuhkpedes"), results)
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    printed = capsys.readouterr()
    for text in (printed.out, printed.err):
        assert not set(text) & {"\x1b", "\x07", "\r", "\x9b", "\u202e"}
    assert r"cuhkpedes, t2i\x1b]0;x\x07: " in printed.out
    assert r"only A was tested on cuhkpedes, only a\x1b[2J\nfake" in printed.out


@pytest.mark.slow
def test_keys_of_a_checkpoint_reach_no_log_raw(tiny_run, tiny_settings, tmp_path, capsys):
    state = saved(tiny_run.folder, "best.pth")["state_dict"]
    torch.save({**state, "odd\x1b]0;owned\x07\nERROR fake": torch.zeros(1)}, tmp_path / "weights.pth")
    others = {"model__load_weights": tmp_path / "weights.pth", "model__fusion__type": "enhanced_mamba"}
    words = tiny_settings(tmp_path / "log", **others)
    main(["train", *words])
    printed = capsys.readouterr()
    log = (tmp_path / "log" / "train.log").read_text(encoding="utf-8")
    assert r"odd\x1b]0;owned\x07\nERROR fake" in log
    assert "\x1b" not in printed.out + printed.err + log
