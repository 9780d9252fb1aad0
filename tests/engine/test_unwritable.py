"""Run folders that are full, read-only or removed, on real file systems where mounting is allowed."""

import json
import logging
import os
import shutil
import subprocess
import sys
import time

import pytest
from preloaded import Preloaded, run_mounting
from states import largest_file, saved

from t2ireid_plugin.cli import main
from t2ireid_plugin.data.annotations import find_annotation
from t2ireid_plugin.data.benchmarks import BENCHMARKS
from t2ireid_plugin.engine.feature_cache import default_folder
from t2ireid_plugin.engine.training_state import check_intact
from t2ireid_plugin.errors import CheckpointError, ConfigError, DataError
from t2ireid_plugin.prepare.table.write import write_table
from t2ireid_plugin.utils.atomic_io import explain_write_errors
from t2ireid_plugin.utils.logging import log_to

HINT = "existing checkpoints are intact: fix this, then continue with --resume"


FULL = """
import shutil
folder, copy, size, *words = sys.argv[1:]
mount("-t", "tmpfs", "-o", f"size={size}", "none", folder)
assert main(["train", *words]) == 2
shutil.copytree(folder, copy)
mount("-o", "remount,size=1g", "none", folder)
assert main(["train", "--resume", *words]) == 0
shutil.copy(f"{folder}/results.json", copy)
"""


@pytest.mark.slow
def test_a_full_disk_ends_the_run_which_resumes_when_there_is_room(tiny_settings, tiny_run, tmp_path):
    """First with room for one checkpoint only."""
    size = (tiny_run.folder / "last.pth").stat().st_size
    folder = tmp_path / "disk"
    folder.mkdir()
    done = run_mounting(FULL, folder, tmp_path / "copy", size * 2, *tiny_settings(folder, full=True))
    assert f"error: cannot write '{folder}" in done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    check_intact(tmp_path / "copy" / "last.pth")
    results = json.loads((tmp_path / "copy" / "results.json").read_text())
    assert results["metrics"] == tiny_run.results["metrics"]


READ_ONLY = """
mount("-t", "tmpfs", "-o", "ro", "none", sys.argv[1])
sys.exit(main(["train", *sys.argv[2:]]))
"""


@pytest.mark.slow
def test_a_read_only_folder_is_an_error(tiny_settings, tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    done = run_mounting(READ_ONLY, folder, *tiny_settings(folder), status=2)
    assert done.stderr == f"error: cannot write '{folder}/.lock': Read-only file system; {HINT}\n"


@pytest.mark.slow
def test_a_removed_folder_ends_the_run(tiny_settings, tmp_path):
    folder = tmp_path / "log"
    words = tiny_settings(folder, train__max_epoch=500, train__print_freq=1)
    process = Preloaded(["tools/train_net.py", *words])
    deadline = time.monotonic() + 1200
    log = folder / "metrics.jsonl"
    while not (log.exists() and log.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    folder.rename(tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)  # it may still be written to
    done = process.finish()
    errors = done.stderr
    assert done.returncode == 2, errors
    # TensorBoard's thread may print a traceback of its own, even into our line.
    assert errors.count("error: cannot write ") == 1, errors
    assert f"error: cannot write '{folder}/" in errors
    assert "No such file or directory" in errors
    assert "run_training" not in errors


@pytest.fixture
def nobody(monkeypatch):
    """A user without a home and without an entry in the system's list of users, as in a container."""
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)


@pytest.mark.usefixtures("nobody")
def test_a_home_that_does_not_exist_is_named_where_it_is_needed(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.text_feature_cache_dir: must be set for a user without a home"):
        default_folder("text")
    with pytest.raises(DataError, match=r"no '~/data/CUHK-PEDES/reid_raw\.json'"):
        find_annotation("~/data", BENCHMARKS["cuhkpedes"])
    with pytest.raises(DataError, match=r"~/people\.csv"):
        write_table("~/people.csv", "~/photos", tmp_path)


@pytest.mark.slow
def test_a_user_without_a_home_and_a_name_trains_and_draws(synthetic, tiny_settings, tmp_path):
    """Nothing but the run's folder can be written."""
    folder = tmp_path / "run"
    folder.mkdir()
    words = [sys.executable, "-m", "t2ireid_plugin", "train", "--visualize", *tiny_settings(folder, test__pictures=2)]
    environment = {name: os.environ.get(name, "") for name in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS")}
    if os.getuid() == 0:  # may read everything, as the interpreter may be in a home
        folder.chmod(0o777)
        capability = "+dac_read_search"
        words = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", f"--inh-caps={capability}",
                 f"--ambient-caps={capability}", "--", *words]  # fmt: skip
    done = subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (folder / "visualize_cuhkpedes" / "report.html").is_file()
    assert not (folder / "~").exists()


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
    (tmp_path / "log" / "last.pth").unlink()  # its second epoch is repeated
    before = saved(tmp_path / "log", "last.prev.pth")
    words = tiny_settings(tmp_path / "log", full=True)
    with largest_file(limit):
        assert main(["train", "--resume", *words]) == 2
    assert f"error: cannot write '{tmp_path / 'log'}" in capsys.readouterr().err
    for name in ("config.yaml", "env.txt"):
        assert len((tmp_path / "log" / name).read_text()) >= len((tiny_run.folder / name).read_text()) - 20
    after = saved(tmp_path / "log", "last.prev.pth")
    assert (after["epoch"], after["steps"]) == (before["epoch"], before["steps"]) == (1, 6)
    check_intact(tmp_path / "log" / "last.prev.pth")
