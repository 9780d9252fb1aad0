import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from t2ireid_plugin.cli import main
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.utils.file_lock import lock_folder

# Holds the folder, and has a child that outlives it for a while, as data workers do.
HOLDER = """
import os, pathlib, sys, time
from t2ireid_plugin.utils.file_lock import alone_in
with alone_in(pathlib.Path(sys.argv[1])):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds `tmp_path`, and its child's number."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    child = int(process.stdout.readline())
    yield process, child
    process.kill()
    process.wait()
    os.kill(child, signal.SIGKILL)


def test_a_second_run_in_a_folder_is_refused(holder, tmp_path, tiny_settings, capsys):
    process, _ = holder
    assert main(["train", *tiny_settings(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert f"error: data.save_dir: another run writes to '{tmp_path}' (process {process.pid} on " in message
    assert len(message.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]  # not one file was touched


def test_a_killed_run_holds_nothing_though_its_workers_still_live(holder, tmp_path):
    process, child = holder
    with pytest.raises(ConfigError), lock_folder(tmp_path):
        pass
    process.kill()
    process.wait()
    os.kill(child, 0)  # it is there
    time.sleep(0.1)
    with lock_folder(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_one_run_after_another(tmp_path):
    for _ in range(2):
        with lock_folder(tmp_path):
            pass


def test_where_nothing_can_be_locked_it_says_so_and_goes_on(tmp_path, monkeypatch, caplog):
    """As on some network file systems."""

    def lockf(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", lockf)
    with lock_folder(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    assert f"'{tmp_path}' cannot be locked (No locks available)" in caplog.text
