"""Folders that cannot be written to, on real file systems where that is allowed."""

import json
import logging
import os
import resource
import shlex
import shutil
import subprocess
import sys
import time

import pytest
import torch

from t2ireid_plugin.cli import main
from t2ireid_plugin.engine.training_state import check_intact
from t2ireid_plugin.errors import CheckpointError
from t2ireid_plugin.utils.atomic_io import explain_write_errors
from t2ireid_plugin.utils.logging import log_to

MEND = "existing checkpoints are intact: fix this, then continue with --resume"


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


def test_a_full_disk_and_on_when_there_is_room_again(mounted, tiny_settings, tiny_run, tmp_path):
    """Room for the first checkpoint and not for more; then for all."""
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


def test_a_read_only_folder(mounted, tiny_settings, tmp_path):
    folder = tmp_path / "disk"
    done = mounted(folder, f"mount -o remount,ro none {folder}; {command(tiny_settings(folder, full=True))}")
    assert done.returncode == 2
    assert done.stderr == f"error: cannot write '{folder}/.lock': Read-only file system; {MEND}\n"


def test_a_folder_that_vanishes(repository, tiny_settings, tmp_path):
    folder = tmp_path / "log"
    words = tiny_settings(folder, full=True, train__max_epoch=50, train__print_freq=1)
    process = subprocess.Popen(
        [sys.executable, "tools/train_net.py", *words],
        cwd=repository, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 600
    log = folder / "metrics.jsonl"
    while not (log.exists() and log.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    folder.rename(tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)  # it may still be written to
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 2, errors
    # No traceback of ours, though TensorBoard's thread may have printed its own, and into our line.
    assert errors.count("error: cannot write ") == 1, errors
    assert f"error: cannot write '{folder}/" in errors
    assert "No such file or directory" in errors
    assert "run_job" not in errors


def test_no_room_for_weights_that_are_put_aside(mounted, tmp_path):
    """Their file is mapped into memory, and a page that finds no room when it is written would kill the process."""
    folder = tmp_path / "disk"
    script = (
        "from pathlib import Path; from torch import nn; from t2ireid_plugin.engine.parking import Parking\n"
        f"Parking(nn.Linear(1024, 1024), Path({str(folder)!r}))"
    )
    done = mounted(folder, shlex.join([sys.executable, "-c", script]))
    assert done.returncode == 1
    assert "OSError: [Errno 28] No space left on device" in done.stderr


def test_what_is_logged_where_nothing_can_be_written_is_an_error(tmp_path):
    """As what is printed there; Python would show a traceback and go on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with log_to(tmp_path / "train.log"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                logging.getLogger("t2ireid_plugin.any").warning("something")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_names_in_bytes_are_understood(tmp_path):
    """As TensorBoard's are, whose thread may be the first to meet the vanished folder."""
    told = pytest.raises(CheckpointError, match=rf"^cannot write '{tmp_path}/log/events': No such file")
    with told, explain_write_errors(tmp_path / "log", CheckpointError):
        os.truncate(os.fsencode(tmp_path / "log" / "events"), 0)


@pytest.mark.parametrize("limit", [300, 20_000])
def test_files_that_cannot_grow(tiny_settings, tiny_run, tmp_path, capsys, limit):
    """What a full disk is to a process, without one: at the first file, and at the first checkpoint."""
    shutil.copytree(tiny_run.folder, tmp_path / "log")
    before = torch.load(tmp_path / "log" / "last.pth", weights_only=True)
    words = tiny_settings(tmp_path / "log", train__max_epoch=3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        status = main(["train", "--resume", *words])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 2
    assert f"error: cannot write '{tmp_path / 'log'}" in capsys.readouterr().err
    for name in ("config.yaml", "env.txt"):
        assert len((tmp_path / "log" / name).read_text()) >= len((tiny_run.folder / name).read_text()) - 20
    after = torch.load(tmp_path / "log" / "last.pth", weights_only=True)
    assert (after["epoch"], after["steps"]) == (before["epoch"], before["steps"])
    check_intact(tmp_path / "log" / "last.pth")
