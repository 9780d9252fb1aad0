"""Runs that are killed or stopped and resumed, compared bit for bit with an undisturbed one."""

import contextlib
import json
import multiprocessing
import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from preloaded import Preloaded
from states import differences, saved

from t2ireid_plugin.cli import main
from t2ireid_plugin.engine.training_state import check_intact

pytestmark = pytest.mark.slow

# Every step is logged and saved, so that many kills hit a save.
SETTINGS = {
    "train__max_epoch": 4,
    "train__print_freq": 1,
    "train__save_steps": 1,
    "train__ema_decay": 0.9,
    "loss__terms__mlm__weight": 0.5,
    "loss__terms__mlm__dim": 16,
    "model__fusion__type": "none",  # most of a checkpoint, and no loss here trains it
    "data__transforms": "[random_flip, random_crop, random_patch, random_erase, drop_words]",
}


@pytest.fixture(scope="module")
def undisturbed(tiny_settings, tmp_path_factory):
    """The folder of a run without interruption."""
    folder = tmp_path_factory.mktemp("undisturbed") / "log"
    assert main(["train", *tiny_settings(folder, **SETTINGS)]) == 0
    return folder


def assert_same_run(folder, expected):
    """Checkpoints except for where and how the run was done, log, and results except for command and duration."""
    for name in ("last.pth", "best.pth"):
        states = saved(folder, name), saved(expected, name)
        for state in states:
            del state["config"]["data"]["save_dir"], state["config"]["data"]["workers"]
        assert differences(*states, name) == []
    assert (folder / "metrics.jsonl").read_text() == (expected / "metrics.jsonl").read_text()
    first, second = (json.loads((place / "results.json").read_text()) for place in (folder, expected))
    for name in ("command", "seconds"):
        del first[name], second[name]
    assert first == second


def run_quietly(words):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(main(words))


@pytest.fixture(scope="module")
def start():
    """`start(words)`: a process that runs the command line, forked from this one, which has all packages loaded."""
    context = multiprocessing.get_context("fork")

    def begin(words):
        process = context.Process(target=run_quietly, args=(words,))
        process.start()
        return process

    return begin


def lines(folder):
    log = folder / "metrics.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


def saved_at(folder):
    try:
        return (folder / "last.pth").stat().st_mtime_ns
    except FileNotFoundError:  # none yet, or between the two renames of a save
        return 0


def wait_for(condition, process, seconds=1200):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def test_a_run_killed_ten_times_is_bit_identical(start, tiny_settings, undisturbed, tmp_path):
    """SIGKILL at random moments after a step, every second time while a checkpoint is being written."""
    folder, chance = tmp_path / "log", random.Random(0)
    words = ["train", "--resume", *tiny_settings(folder, **SETTINGS)]
    draft, in_the_middle_of_saving = folder / ".last.tmp.pth", 0
    for number in range(10):
        before, process = saved_at(folder), start(words)
        wait_for(lambda before=before: saved_at(folder) > before, process)
        if number % 2:
            wait_for(draft.exists, process)
        else:
            time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        in_the_middle_of_saving += draft.exists()
    assert in_the_middle_of_saving >= 1
    assert not (folder / "results.json").exists()
    # The rest with worker processes.
    process = start([*words, "data.workers", "2"])
    process.join()
    assert process.exitcode == 0
    assert (folder / "train.log").read_text().count("Resuming") >= 8
    assert_same_run(folder, undisturbed)
    assert not draft.exists()


def test_a_run_killed_during_the_final_test_is_bit_identical(start, tiny_settings, undisturbed, tmp_path):
    folder = tmp_path / "log"
    words = ["train", "--resume", *tiny_settings(folder, **SETTINGS)]
    process, log = start(words), folder / "train.log"
    wait_for(lambda: log.exists() and "Testing epoch" in log.read_text(), process)
    process.kill()
    process.join()
    assert not (folder / "results.json").exists()
    assert main(words) == 0
    assert_same_run(folder, undisturbed)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_saves_the_run(tiny_settings, undisturbed, tmp_path, number, status):
    """Sent to all processes of the run, as a terminal or a scheduler does."""
    folder = tmp_path / "log"
    words = tiny_settings(folder, **{**SETTINGS, "data__workers": 2, "train__save_steps": 0})
    process = Preloaded(["tools/train_net.py", *words])
    deadline = time.monotonic() + 1200
    while lines(folder) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    os.killpg(process.pid, number)
    done = process.finish()
    printed, errors = done.stdout, done.stderr
    assert done.returncode == status, errors
    assert errors.strip().splitlines()[-1] == f"stopped by {number.name}"
    assert "Traceback" not in errors
    state = saved(folder)
    assert state["steps"] >= 3
    position = f"after {state['epoch']} epochs and {state['step']} steps"
    assert printed.strip().splitlines()[-1] == f"Stopped by {number.name} {position}; continue with --resume"
    assert main(["train", "--resume", *tiny_settings(folder, **SETTINGS)]) == 0
    assert_same_run(folder, undisturbed)


def test_a_closed_terminal_saves_the_run(tiny_settings, undisturbed, tmp_path):
    """The system sends SIGHUP, and whatever is printed from then on is an error."""
    folder = tmp_path / "log"
    words = tiny_settings(folder, **{**SETTINGS, "data__workers": 2, "train__save_steps": 0})
    pid, terminal = pty.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, "-m", "t2ireid_plugin", "train", *words])
    deadline = time.monotonic() + 1200
    while lines(folder) < 3 and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.001)[0]:
            os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    log = (folder / "train.log").read_text()
    assert "Stopped by SIGHUP after" in log
    assert saved(folder)["steps"] >= 3
    assert main(["train", "--resume", *tiny_settings(folder, **SETTINGS)]) == 0
    assert_same_run(folder, undisturbed)


@pytest.mark.parametrize(("output", "status"), [("pipe", 0), ("/dev/full", 2)])
def test_a_run_whose_output_cannot_be_written_ends_undisturbed(
    repository, tiny_settings, undisturbed, tmp_path, output, status
):
    folder = tmp_path / "log"
    command = [sys.executable, "tools/train_net.py", *tiny_settings(folder, **SETTINGS)]
    with open("/dev/full", "w") as full:
        target = subprocess.PIPE if output == "pipe" else full
        process = subprocess.Popen(command, cwd=repository, stdout=target, stderr=subprocess.PIPE, text=True)
    if process.stdout:
        process.stdout.readline()
        process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=1200) == status, errors
    assert "Traceback" not in errors
    assert ("error: standard output: cannot be written (No space left on device)" in errors) == (status == 2)
    assert "Trained in" in (folder / "train.log").read_text()
    assert_same_run(folder, undisturbed)


def test_a_dead_data_worker_ends_the_run(tiny_settings, tmp_path):
    """Killed, as by the system when memory is full."""
    folder = tmp_path / "log"
    words = tiny_settings(folder, **{**SETTINGS, "data__workers": 2, "train__max_epoch": 1000})
    process = Preloaded(["tools/train_net.py", *words])
    deadline = time.monotonic() + 600
    while lines(folder) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    while process.poll() is None and time.monotonic() < deadline:  # until one was killed at work
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
        time.sleep(0.1)
    done = process.finish()
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    message = (
        r"error: a data worker died \(DataLoader worker .*\), usually because memory or /dev/shm is full; lower data"
    )
    assert re.match(message, done.stderr.strip().splitlines()[-1])
    check_intact(folder / "last.pth")


def test_a_damaged_checkpoint_falls_back_to_the_one_before_it(tiny_settings, undisturbed, tmp_path, start):
    folder = tmp_path / "log"
    words = ["train", "--resume", *tiny_settings(folder, **SETTINGS)]
    process = start(words)
    wait_for(lambda: lines(folder) >= 4, process)
    process.kill()
    process.join()
    content = bytearray((folder / "last.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "last.pth").write_bytes(content)
    assert main(words) == 0
    log = (folder / "train.log").read_text()
    assert "WARNING" in log
    assert "its bytes do not match its digest" in log
    assert f"Resuming '{folder / 'last.prev.pth'}' after epoch 0" in log
    assert_same_run(folder, undisturbed)


def test_save_minutes_saves_within_an_epoch(tiny_settings, tmp_path):
    others = {"train__max_epoch": 1, "train__save_steps": 0, "train__save_minutes": 1e-9}
    words = tiny_settings(tmp_path, **{**SETTINGS, **others})
    assert main(["train", *words]) == 0
    newest, before = (saved(tmp_path, name) for name in ("last.pth", "last.prev.pth"))
    assert (newest["epoch"], newest["step"]) == (1, 0)
    assert (before["epoch"], before["step"]) == (0, newest["steps"])


def test_a_new_run_in_an_old_folder_does_not_resume_the_old_one(tiny_settings, tiny_run, tmp_path, start):
    """Killed after its first checkpoint, the new run resumes itself."""
    for name in ("last.pth", "last.prev.pth", "best.pth", "metrics.jsonl"):
        (tmp_path / name).write_bytes((tiny_run.folder / name).read_bytes())
    words = tiny_settings(tmp_path, train__seed=5, train__max_epoch=1)
    process = start(["train", "--overwrite", *words])
    seeds = []

    def replaced():
        with contextlib.suppress(FileNotFoundError):  # between the removal of the old file and the first of the new run
            seeds.append(saved(tmp_path)["config"]["train"]["seed"])
        return 5 in seeds

    wait_for(replaced, process)
    process.kill()
    process.join()
    assert set(seeds) <= {1, 5}
    assert main(["train", "--resume", *words]) == 0
