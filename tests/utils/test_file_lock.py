import errno
import os
import signal
import subprocess
import sys

import pytest

from t2ireid_plugin.cli import main
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.utils.file_lock import lock_folder

# Holds the lock, and has a child process that outlives it, as data workers do.
HOLDER = """
import os, pathlib, sys, time
from t2ireid_plugin.utils.file_lock import lock_folder
with lock_folder(pathlib.Path(sys.argv[1])):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_another_process_is_refused_until_the_holder_dies(tmp_path, tiny_settings, capsys):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    child = int(process.stdout.readline())
    try:
        assert main(["train", *tiny_settings(tmp_path)]) == 2
        message = capsys.readouterr().err
        assert f"error: data.save_dir: another run is writing to '{tmp_path}' (process {process.pid} on " in message
        assert len(message.splitlines()) == 1
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]  # no file was touched
        with pytest.raises(ConfigError), lock_folder(tmp_path):
            pytest.fail("locked twice")
        process.kill()
        process.wait()
        os.kill(child, 0)  # still alive
        with lock_folder(tmp_path):
            assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    finally:
        process.kill()
        os.kill(child, signal.SIGKILL)


def test_the_lock_is_released_at_the_end(tmp_path):
    for _ in range(2):
        with lock_folder(tmp_path):
            assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_a_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch, caplog):
    def lockf(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", lockf)
    with lock_folder(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    assert f"'{tmp_path}' cannot be locked (No locks available)" in caplog.text
