import json
import os
import pickle
import signal
import subprocess
import sys

import pytest
import torch
from preloaded import MOUNT, run_mounting, run_python, skip_without_mounting
from torch.utils.data import DataLoader, Dataset

from t2ireid_plugin.cli import main
from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.data.benchmarks import BENCHMARKS
from t2ireid_plugin.data.dataset import CaptionDataset
from t2ireid_plugin.data.manager import CaptionDataManager, explain_dead_workers, init_worker
from t2ireid_plugin.data.sampling import SampleKey
from t2ireid_plugin.data.transforms import TestTransform, TrainTransform
from t2ireid_plugin.engine.build import loader_options
from t2ireid_plugin.errors import DataError


@pytest.fixture(scope="module")
def manager(synthetic):
    """Batches of the drawn people, evaluated on test and val."""
    test = CaptionDataset(synthetic.root, spec=BENCHMARKS["cuhkpedes"], verbose=False)
    sizes = (32, 16, [0.5] * 3, [0.5] * 3)
    return CaptionDataManager(
        {"cuhkpedes": test, "cuhkpedes_val": test.with_eval_split("val")},
        ["cuhkpedes"],
        ["cuhkpedes", "cuhkpedes_val"],
        TrainTransform(*sizes),
        TestTransform(*sizes),
        batch_size_train=12,
        batch_size_test=10,
        workers=0,
        use_gpu=False,
        sampler={"train_sampler": "RandomIdentitySampler", "num_instances": 4},
    )


def test_training_batches(manager):
    assert manager.num_train_pids == 24
    number = len(manager.train_loader)
    batches = list(manager.train_loader)
    assert len(batches) == number >= 10
    for batch in batches:
        assert batch["img"].shape == (12, 3, 32, 16)
        assert (batch["pid"].view(3, 4) == batch["pid"][::4, None]).all()  # 3 identities of 4 items each


@pytest.mark.parametrize("name", ["cuhkpedes", "cuhkpedes_val"])
def test_evaluation_batches_are_in_order(manager, name):
    for part in ("query", "gallery"):
        loader, items = manager.test_loader[name][part], manager.test_dataset[name][part]
        assert loader.dataset.eval_split == ("val" if name.endswith("_val") else "test")
        assert torch.cat([batch["pid"] for batch in loader]).tolist() == [pid for _, pid, *_ in items]
        assert [len(batch["pid"]) for batch in loader][:-1] == [10] * (len(items) // 10)
        assert all(("img" in batch) == (part == "gallery") for batch in loader)


class DiesAt(Dataset):
    """Numbers whose reading kills the process at one of them."""

    def __init__(self, number):
        self.number = number

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == self.number:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 5])
def test_a_dead_worker_ends_in_one_line_with_the_fix(number):
    loader = DataLoader(DiesAt(number), num_workers=2, worker_init_fn=init_worker)
    with pytest.raises(DataError) as error, explain_dead_workers():
        list(loader)
    assert str(error.value).startswith("a data worker died (")
    assert "; lower data.workers or set data.workers 0" in str(error.value)
    assert "\n" not in str(error.value)


SPAWNED = """
import multiprocessing, sys
if __name__ == "__main__":
    multiprocessing.set_forkserver_preload(["t2ireid_plugin.run"])
    multiprocessing.set_start_method("forkserver", force=True)
    from t2ireid_plugin.cli import main
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_workers_without_inherited_memory_give_the_same_figures(benchmark_root, tiny_settings, tmp_path):
    """As with Python 3.14; on macOS and Windows they are sent the same, as tests/data/test_item_table.py does."""
    (tmp_path / "main.py").write_text(SPAWNED)
    name = "rstpreid"
    sets = {"data__root": benchmark_root(name), "data__sources": name, "data__targets": name, "data__val": "[]"}
    assert main(["train", *tiny_settings(tmp_path / "inherited", **sets)]) == 0
    words = tiny_settings(tmp_path / "sent", data__workers=1, **sets)
    run_python([tmp_path / "main.py", "train", *words])
    first, second = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("inherited", "sent"))
    assert first["metrics"] == second["metrics"]


@pytest.mark.parametrize("name", ["cuhkpedes", "icfgpedes", "rstpreid", "ufine6926", "custom"])
def test_every_dataset_can_be_sent_to_a_worker(name, benchmark_root):
    dataset = CaptionDataset(benchmark_root(name), spec=BENCHMARKS[name], verbose=False)
    sent = pickle.loads(pickle.dumps(dataset.with_mode("train", TrainTransform(32, 16, [0.5] * 3, [0.5] * 3))))
    assert sent.data == dataset.train
    assert sent[SampleKey(3, 7)]["img"].shape == (3, 32, 16)


def test_workers_are_at_most_as_many_as_the_usable_cores(tiny_settings, tmp_path):
    words = tiny_settings(tmp_path, data__workers=64)
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert loader_options(load_cfg(words[1], words[2:]), use_gpu=False)["workers"] == 1
    finally:
        os.sched_setaffinity(0, cores)


FULL = """
mount("-t", "tmpfs", "-o", f"size={sys.argv[1]}", "none", "/dev/shm")
with open("/dev/shm/other", "wb") as file:
    file.write(bytes(4096))
sys.exit(main(["train", *sys.argv[2:]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", ["4k", "512k"], ids=["for semaphores", "for batches"])
def test_full_shared_memory_is_reported(size, tiny_settings, tmp_path, repository):
    words = [size, *tiny_settings(tmp_path, data__workers=1)]
    if size == "4k":
        done = run_mounting(FULL, *words, status=2)
    else:  # a worker is at work when the process ends, which is different in a process of multiprocessing
        skip_without_mounting()
        command = [sys.executable, "-c", MOUNT + FULL, *words]
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
        assert done.returncode == 2
    assert "--shm-size" in done.stderr
    assert "data.workers 0" in done.stderr
    assert "Traceback" not in done.stderr


def test_other_errors_are_not_reworded():
    with pytest.raises(RuntimeError, match=r"^CUDA out of memory$"), explain_dead_workers():
        raise RuntimeError("CUDA out of memory")


NUMBERS = """
import multiprocessing, torch
from t2ireid_plugin.data.manager import init_worker

class Numbers(torch.utils.data.Dataset):
    fails = False

    def __len__(self):
        return 64

    def __getitem__(self, number):
        return 1 / 0 if self.fails else number

loader = torch.utils.data.DataLoader(Numbers(), num_workers=2, worker_init_fn=init_worker)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        "pool = multiprocessing.get_context('fork').Pool(2)\nprint(pool.map(abs, [-1]))\n"
        "batches = iter(loader); next(batches); 1 / 0",
        "Numbers.fails = True\nfor batch in loader: pass",
    ],
    ids=["in the training process", "in a worker"],
)
def test_an_unhandled_error_ends_the_process_and_its_workers(program):
    """The traceback keeps the iterator alive, and its workers ignore the signal by which multiprocessing ends them.

    A pool of the user's own ends, too.
    """
    done = subprocess.run(
        [sys.executable, "-c", NUMBERS + program], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ("[1]\n" if "pool" in program else "")
    assert done.stderr.strip().splitlines()[-1] == "ZeroDivisionError: division by zero"
