"""Two processes against one, with gloo on the CPU, and torchrun itself."""

import datetime
import json
import os
import re
import shlex
import shutil
import signal
import socket
import time

import numpy as np
import pytest
import torch
from preloaded import Preloaded, run_group, start_group
from states import saved
from torch.distributed import TCPStore

from t2ireid_plugin.cli import main
from t2ireid_plugin.engine.training_state import save_checkpoint
from t2ireid_plugin.errors import T2IReIDError
from t2ireid_plugin.losses import LOSSES
from t2ireid_plugin.synthetic import write_synthetic
from t2ireid_plugin.utils.distributed import process_group

pytestmark = pytest.mark.slow

TORCHRUN = ["-m", "torch.distributed.run"]  # it has PyTorch loaded already; what it starts has not
EXACT = ["tests/engine/exact.py", "train"]
# Not mlm, which hides random words in each process's own texts; and a schedule that ignores the length of the run.
SETTINGS = {
    "train__optim": "adam",
    "train__lr_scheduler": "multi_step",
    "train__stepsize": "[2]",
    "train__batch_size": 16,
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
def one_and_two(tiny_settings, tmp_path_factory):
    """Folders of a run in one process, and of the same run with its last two of three epochs in two processes."""
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
        state["config"]["train"]["max_epoch"] = 3  # as `leak` starts at a share of all epochs, resuming needs the same
        save_checkpoint(state, base / "one" / name)
    shutil.copytree(base / "one", base / "two")
    train("one", 3, 1)
    train("two", 3, 2)
    return base / "one", base / "two"


def log_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_equal_one(one_and_two):
    """Every loss over at least 20 steps with the same batches, and every weight and average at the end."""
    one, two = map(log_of, one_and_two)
    steps = [[line for line in log if "step" in line] for log in (one, two)]
    assert len(steps[0]) == len(steps[1]) >= 12 + 20
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


def test_two_machines_equal_two_processes(repository, tiny_settings, tmp_path):
    """The page's command, started twice on this machine; only the first one prints."""
    settings = {"train__max_epoch": 1, "train__print_freq": 1, "test__pictures": 0, "test__bootstrap": 0}
    assert run_group(["tools/train_net.py", *tiny_settings(tmp_path / "one", **settings)], 2).returncode == 0
    page = (repository / "docs" / "distributed.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^torchrun (--nnodes 2 .*) …$", page, flags=re.MULTILINE)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = command.replace("nproc_per_node 8", "nproc_per_node 1").replace("FIRST_MACHINE:29500", address).split()
    words[-1:-1] = ["--local_addr", "127.0.0.1"]
    words += tiny_settings(tmp_path / "two", **settings)
    machines = [Preloaded([*TORCHRUN, *words]) for _ in range(2)]
    done = [machine.finish() for machine in machines]
    assert [machine.returncode for machine in done] == [0, 0], done
    assert sorted("epoch: [1/1]" in machine.stdout for machine in done) == [False, True]
    one, two = (log_of(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) > 5
    for first, second in zip(one, two, strict=True):
        assert first == pytest.approx(second, abs=1e-6)


# A process that dies


def wait_for_a_step(job, folder):
    """Returns when the training has logged a step, or has ended."""
    log, deadline = folder / "metrics.jsonl", time.monotonic() + 1200
    while not (log.exists() and log.read_text()) and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)


def test_a_killed_process_ends_the_others(tiny_settings, tmp_path):
    """Even without torchrun, which would end them."""
    words = tiny_settings(tmp_path, train__max_epoch=500, train__print_freq=1, test__eval_freq=-1)
    first, second = start_group(["tools/train_net.py", *words], 2)
    wait_for_a_step(first, tmp_path)
    second.kill()
    done = first.finish()
    assert done.returncode == 2
    assert re.search(r"^error: .*lost the connection to another process \(", done.stderr, flags=re.MULTILINE)


def test_the_pages_torchrun_command_trains_and_sigterm_saves_the_run(repository, synthetic, encoders, tmp_path):
    """With hidden words in each process's own texts, too."""
    page = (repository / "docs" / "distributed.md").read_text(encoding="utf-8")
    ((program, *arguments),) = map(shlex.split, re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL))
    assert [program, *arguments[:3]] == ["torchrun", "--standalone", "--nproc_per_node", "2"]
    words = " ".join(arguments).replace(" reid-data", f" {synthetic.root}")
    for name in ("vit", "bert"):
        words = words.replace(f"weights/{name}", str(getattr(encoders, name)))
    quick = "train.max_epoch 500 train.batch_size 16 train.print_freq 1 data.workers 1 data.height 32 data.width 32"
    quick += " test.eval_freq -1 use_gpu False loss.terms.mlm.weight 0.5 loss.terms.mlm.dim 16 data.save_dir"
    job = Preloaded([*TORCHRUN, *words.split(), *quick.split(), tmp_path])
    wait_for_a_step(job, tmp_path)
    os.kill(job.pid, signal.SIGTERM)
    done = job.finish()
    state = saved(tmp_path)
    assert state["steps"] == len((tmp_path / "metrics.jsonl").read_text().splitlines()) >= 1, done
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
