"""Run folders that are full, read-only or removed, on real file systems where mounting is allowed."""

import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
import time

import pytest
from states import largest_file, saved

from t2ireid_plugin.cli import main
from t2ireid_plugin.engine.training_state import check_intact
from t2ireid_plugin.errors import CheckpointError
from t2ireid_plugin.utils.atomic_io import explain_write_errors
from t2ireid_plugin.utils.logging import log_to

HINT = "existing checkpoints are intact: fix this, then continue with --resume"


@pytest.fixture
def mounted(repository):
    """`mounted(folder, script)`: runs a shell script with a file system of 1 MB at `folder`, seen by nobody else."""
    trial = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    if trial.returncode:
        pytest.skip("mounting is not allowed here")

    def run(folder, script):
        folder.mkdir()
        lines = f"set -e; mount -t tmpfs -o size=1m none {shlex.quote(str(folder))}; {script}"
        return subprocess.run(
            ["unshare", "-m", "sh", "-c", lines], cwd=repository, capture_output=True, text=True, check=False
        )

    return run


def command(words):
    return shlex.join([sys.executable, "tools/train_net.py", *words])


@pytest.mark.slow
def test_a_full_disk_ends_the_run_which_resumes_when_there_is_room(mounted, tiny_settings, tiny_run, tmp_path):
    """First with room for one checkpoint only."""
    size = (tiny_run.folder / "last.pth").stat().st_size
    folder = tmp_path / "disk"
    words = tiny_settings(folder, full=True)
    copy = shlex.quote(str(tmp_path / "copy"))
    done = mounted(
        folder,
        f"mount -o remount,size={size * 2} none {folder}; {command(words)} && exit 99; echo status $?;"
        f"cp -r {folder} {copy}; mount -o remount,size=1g none {folder}; {command(['--resume', *words])};"
        f"cp {folder}/results.json {copy}",
    )
    assert done.returncode == 0, done.stderr
    assert "status 2" in done.stdout
    assert f"error: cannot write '{folder}" in done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    check_intact(tmp_path / "copy" / "last.pth")
    results = json.loads((tmp_path / "copy" / "results.json").read_text())
    assert results["metrics"] == tiny_run.results["metrics"]


@pytest.mark.slow
def test_a_read_only_folder_is_an_error(mounted, tiny_settings, tmp_path):
    folder = tmp_path / "disk"
    done = mounted(folder, f"mount -o remount,ro none {folder}; {command(tiny_settings(folder))}")
    assert done.returncode == 2
    assert done.stderr == f"error: cannot write '{folder}/.lock': Read-only file system; {HINT}\n"


@pytest.mark.slow
def test_a_removed_folder_ends_the_run(repository, tiny_settings, tmp_path):
    folder = tmp_path / "log"
    words = tiny_settings(folder, train__max_epoch=500, train__print_freq=1)
    process = subprocess.Popen(
        [sys.executable, "tools/train_net.py", *words],
        cwd=repository, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 1200
    log = folder / "metrics.jsonl"
    while not (log.exists() and log.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    folder.rename(tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)  # it may still be written to
    _, errors = process.communicate(timeout=1200)
    assert process.returncode == 2, errors
    # TensorBoard's thread may print a traceback of its own, even into our line.
    assert errors.count("error: cannot write ") == 1, errors
    assert f"error: cannot write '{folder}/" in errors
    assert "No such file or directory" in errors
    assert "run_job" not in errors


def test_a_log_message_that_cannot_be_written_is_an_error(tmp_path):
    """By default, logging prints a traceback and continues."""
    with log_to(tmp_path / "train.log"), largest_file(0), pytest.raises(OSError, match="File too large"):
        logging.getLogger("t2ireid_plugin.any").warning("something")


def test_an_error_with_a_file_name_in_bytes_is_explained(tmp_path):
    """TensorBoard's file names are bytes, and its thread may be the first to notice a removed folder."""
    expected = pytest.raises(CheckpointError, match=rf"^cannot write '{tmp_path}/log/events': No such file")
    with expected, explain_write_errors(tmp_path / "log", CheckpointError):
        os.truncate(os.fsencode(tmp_path / "log" / "events"), 0)


@pytest.mark.parametrize("limit", [300, 20_000])
def test_files_that_cannot_grow_leave_the_old_ones(tiny_settings, tiny_run, tmp_path, capsys, limit):
    """A file size limit acts like a full disk: at the first file, or at the first checkpoint."""
    shutil.copytree(tiny_run.folder, tmp_path / "log")
    before = saved(tmp_path / "log")
    words = tiny_settings(tmp_path / "log", full=True, train__max_epoch=3)
    with largest_file(limit):
        assert main(["train", "--resume", *words]) == 2
    assert f"error: cannot write '{tmp_path / 'log'}" in capsys.readouterr().err
    for name in ("config.yaml", "env.txt"):
        assert len((tmp_path / "log" / name).read_text()) >= len((tiny_run.folder / name).read_text()) - 20
    after = saved(tmp_path / "log")
    assert (after["epoch"], after["steps"]) == (before["epoch"], before["steps"])
    check_intact(tmp_path / "log" / "last.pth")
