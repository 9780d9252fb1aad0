"""Two processes against one, with gloo on the CPU, and torchrun itself."""

import datetime
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from preloaded import run_group
from states import saved
from torch.distributed import TCPStore

from t2ireid_plugin.cli import main
from t2ireid_plugin.engine.training_state import save_checkpoint
from t2ireid_plugin.errors import T2IReIDError
from t2ireid_plugin.losses import LOSSES
from t2ireid_plugin.synthetic import write_synthetic
from t2ireid_plugin.utils.distributed import process_group

pytestmark = pytest.mark.slow

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
EXACT = ["tests/engine/exact.py", "train"]
# Not mlm, which hides random words in each process's own texts; and a schedule that ignores the length of the run.
SETTINGS = {
    "train__optim": "adam",
    "train__lr_scheduler": "multi_step",
    "train__stepsize": "[5]",
    "train__warmup_epochs": 1,
    "train__print_freq": 1,
    "train__ema_decay": 0.9,
    **{f"loss__terms__{name}__weight": 0.5 for name in LOSSES if name not in ("mlm", "irr", "tal_selected")},
    "loss__terms__fused_query__every": 4,
    "loss__ccd__enabled": True,
    "data__min_word_count": 20,
    "model__fusion__type": "residual",  # for composed_query
    "data__transforms": "[random_flip, random_crop, random_erase]",
}


@pytest.fixture(scope="module")
def inside(repository):
    """Options of a process in the repository's folder that imports what this one does."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(repository), *sys.path])}
    return {"cwd": repository, "env": environment, "text": True}


@pytest.fixture(scope="module")
def torchrun(inside):
    """`torchrun(*words)`: two finished processes."""

    def make(*words):
        command = [*TORCHRUN, "2", *map(str, words)]
        return subprocess.run(command, **inside, capture_output=True, check=False, timeout=600)

    return make


@pytest.fixture(scope="module")
def one_and_two(tiny_settings, tmp_path_factory):
    """Folders of a run in one process, and of the same run with its last five of six epochs in two processes."""
    base = tmp_path_factory.mktemp("processes")
    write_synthetic(
        base / "data", train_ids=24, val_ids=8, test_ids=8, photos=4, captions=2, train_outfits=2, progress=False
    )  # for cross_outfit

    def train(name, epochs, processes):
        words = tiny_settings(base / name, **SETTINGS, data__root=base / "data", train__max_epoch=epochs)
        done = run_group([*EXACT, "--resume", *words], processes)
        assert done.returncode == 0, done.stderr

    train("one", 1, 1)
    for name in ("last.pth", "best.pth"):
        state = saved(base / "one", name)
        state["config"]["train"]["max_epoch"] = 6  # as `leak` starts at a share of all epochs, resuming needs the same
        save_checkpoint(state, base / "one" / name)
    shutil.copytree(base / "one", base / "two")
    train("one", 6, 1)
    train("two", 6, 2)
    return base / "one", base / "two"


def log_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_equal_one(one_and_two):
    """Every loss over at least 20 steps with the same batches, and every weight and average at the end."""
    one, two = map(log_of, one_and_two)
    steps = [[line for line in log if "step" in line] for log in (one, two)]
    assert len(steps[0]) == len(steps[1]) >= 6 + 20
    for first, second in zip(*steps, strict=True):
        assert list(first) == list(second)
        assert list(second.values()) == pytest.approx(list(first.values()), abs=1e-5)
    assert steps[0][-1]["loss"] != pytest.approx(steps[0][0]["loss"], abs=0.1)  # it has learned
    states = [saved(folder) for folder in one_and_two]
    for part in ("state_dict", "losses", "ema"):
        first, second = (state[part] for state in states)
        assert list(first) == list(second)
        for name in first:
            assert torch.allclose(first[name].double(), second[name].double(), rtol=0, atol=1e-5), name
    assert [state["steps"] for state in states] == [len(steps[0])] * 2

    first, second = (json.loads((folder / "results.json").read_text()) for folder in one_and_two)
    for result in (first, second):
        del result["chosen"]["weights"]  # a digest of every bit
    assert (first["metrics"], first["chosen"]) == (second["metrics"], second["chosen"])


def test_only_the_first_process_writes(one_and_two):
    names = [{path.name.split("tfevents")[0] for path in folder.iterdir()} for folder in one_and_two]
    assert names[0] == names[1]
    assert len(list(one_and_two[1].glob("events.*"))) == 2  # one of the first epoch, and one of two processes
    for folder in one_and_two:  # each was trained for an epoch, and then went on
        assert (folder / "train.log").read_text().count("Testing epoch") == 2


@pytest.mark.parametrize(("fusion", "processes"), [("enhanced_mamba", 3), ("sequence_mamba", 2)])
def test_evaluation_in_several_processes_is_exact(tiny_settings, tiny_run, tmp_path, fusion, processes):
    """Each query's figures under every protocol; with batches of 7 the processes have different numbers of batches."""
    run = tiny_run.folder
    if fusion != "enhanced_mamba":
        run = tmp_path / "run"
        assert main(["train", *tiny_settings(run, model__fusion__type=fusion, train__max_epoch=1)]) == 0
    others = {
        "model__load_weights": run / "best.pth", "model__fusion__type": fusion, "test__batch_size": 7,
        "test__protocols": "[t2i, i2t, i2i, ti2i, identity, clothing, both]", "test__pictures": 0,
    }  # fmt: skip
    assert main(["test", *tiny_settings(tmp_path / "one", **others)]) == 0
    words = ["--eval-only", *tiny_settings(tmp_path / "more", **others)]
    done = run_group(["tools/train_net.py", *words], processes)
    assert done.returncode == 0, done.stderr
    folders = [tmp_path / name / "test" / "cuhkpedes" for name in ("one", "more")]
    one, more = (json.loads((folder / "results.json").read_text()) for folder in folders)
    assert one["metrics"] == more["metrics"]
    first, second = (np.load(folder / "queries_cuhkpedes.npz") for folder in folders)
    assert first.files == second.files
    assert all(np.array_equal(first[name], second[name]) for name in first.files)


def test_the_pages_torchrun_command_trains_with_every_loss(torchrun, repository, synthetic, encoders, tmp_path):
    page = (repository / "docs" / "distributed.md").read_text(encoding="utf-8")
    ((_, *arguments),) = map(shlex.split, re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL))
    assert arguments[:3] == ["--standalone", "--nproc_per_node", "2"]
    words = " ".join(arguments[3:]).replace(" reid-data", f" {synthetic.root}")
    for name in ("vit", "bert"):
        words = words.replace(f"weights/{name}", str(getattr(encoders, name)))
    quick = "train.max_epoch 1 train.batch_size 16 data.workers 1 test.pictures 0 use_gpu False data.save_dir"
    losses = [
        word for name in LOSSES if name not in ("irr", "tal_selected") for word in (f"loss.terms.{name}.weight", "0.5")
    ]
    losses += ["loss.terms.cross_outfit.weight", "0", "data.min_word_count", "20"]  # the drawn people have one outfit
    losses += ["loss.terms.composed_query.weight", "0"]
    losses += ["loss.terms.mlm.dim", "16"]  # its scan over all tokens would take most of the time
    done = torchrun(*words.split(), *losses, *quick.split(), tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"R@1 +R@5 +R@10 +mAP +mINP", done.stdout)) == 1


def test_two_machines_equal_two_processes(inside, repository, tiny_settings, tmp_path):
    """The page's command, started twice on this machine; only the first one prints."""
    settings = {"train__max_epoch": 1, "train__print_freq": 1, "test__pictures": 0, "test__bootstrap": 0}
    assert run_group(["tools/train_net.py", *tiny_settings(tmp_path / "one", **settings)], 2).returncode == 0
    page = (repository / "docs" / "distributed.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^torchrun (--nnodes 2 .*) …$", page, flags=re.MULTILINE)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = command.replace("nproc_per_node 8", "nproc_per_node 1").replace("FIRST_MACHINE:29500", address).split()
    words[-1:-1] = ["--local_addr", "127.0.0.1"]
    start = [sys.executable, "-m", "torch.distributed.run", *words, *tiny_settings(tmp_path / "two", **settings)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    machines = [subprocess.Popen(start, **inside, **pipes) for _ in range(2)]
    try:
        printed = [machine.communicate(timeout=600) for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert [machine.returncode for machine in machines] == [0, 0], printed
    assert sorted("epoch: [1/1]" in out for out, _ in printed) == [False, True]
    one, two = (log_of(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) > 5
    for first, second in zip(one, two, strict=True):
        assert first == pytest.approx(second, abs=1e-6)


# A process that dies


@pytest.fixture
def started(inside, tiny_settings, tmp_path):
    """A long training in two processes by torchrun, once it has logged a step."""
    words = tiny_settings(tmp_path, train__max_epoch=500, train__print_freq=1, test__eval_freq=-1)
    command = [*TORCHRUN, "2", "tools/train_net.py", *words]
    job = subprocess.Popen(command, **inside, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 1200
    log = tmp_path / "metrics.jsonl"
    while not (log.exists() and log.read_text()) and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    yield job
    job.kill()


def test_a_killed_process_ends_the_others(started):
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(started.pid)], capture_output=True, check=False)
    os.kill(int(children.stdout.split()[1]), signal.SIGKILL)
    _, errors = started.communicate(timeout=600)
    assert started.returncode != 0
    assert "SIGKILL" in errors


def test_sigterm_saves_a_run_of_two_processes(started, tmp_path):
    started.send_signal(signal.SIGTERM)
    started.communicate(timeout=600)
    state = saved(tmp_path)
    assert state["steps"] == len((tmp_path / "metrics.jsonl").read_text().splitlines()) >= 1
    assert "Stopped by SIGTERM" in (tmp_path / "train.log").read_text()


def test_a_lost_process_is_one_line(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("torch.distributed.is_torchelastic_launched", lambda: True)
    monkeypatch.setattr("t2ireid_plugin.utils.distributed._rendezvous", lambda: (None, 0, 2))
    monkeypatch.setattr("torch.distributed.init_process_group", lambda *_, **__: None)
    with (
        pytest.raises(T2IReIDError, match=r"lost the connection to another process \("),
        process_group(use_gpu=False),
    ):
        raise RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:54321")
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2"), process_group(use_gpu=False):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("number", [0, 1])
def test_a_timeout_while_joining_names_the_address(monkeypatch, number, there):
    """One of two processes, with torchrun's store but without the other process, or without the store."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = store.port
    if not there:
        del store
    given = {"RANK": number, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in {**given, "TORCHELASTIC_USE_AGENT_STORE": there}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("torch.distributed.is_torchelastic_launched", lambda: True)
    monkeypatch.setattr("t2ireid_plugin.utils.distributed._JOIN_TIMEOUT", datetime.timedelta(seconds=1))
    message = rf"^rank {number} of 2: could not join the other processes at 127\.0\.0\.1:{port} "
    with pytest.raises(T2IReIDError, match=message), process_group(use_gpu=False):
        pytest.fail("there is no other")


def test_an_error_ends_all_processes_with_its_message(tiny_settings, tmp_path):
    """A far too high learning rate; the batch of both processes together has 32 samples."""
    words = tiny_settings(tmp_path, train__lr=1e30, train__max_epoch=50)
    done = run_group(["tools/train_net.py", *words], 2)
    assert done.returncode != 0
    assert "lower train.lr" in done.stderr
    assert not (tmp_path / "results.json").exists()
    samples = json.loads((tmp_path / "nonfinite.json").read_text())["samples"]
    assert len(samples) == 32
    assert len({(sample["impath"], sample["caption"]) for sample in samples}) > 16
    assert "nonfinite.json" in done.stderr
