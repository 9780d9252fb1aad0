import json
import os
import pickle
import shlex
import signal
import subprocess
import sys

import pytest
import torch
from preloaded import run_python
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
    multiprocessing.set_start_method(sys.argv[1], force=True)
    from t2ireid_plugin.cli import main
    sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_workers_without_inherited_memory_give_the_same_figures(benchmark_root, tiny_settings, tmp_path):
    """As on macOS and Windows, and with Python 3.14."""
    (tmp_path / "main.py").write_text(SPAWNED)
    name = "rstpreid"
    sets = {"data__root": benchmark_root(name), "data__sources": name, "data__targets": name, "data__val": "[]"}
    assert main(["train", *tiny_settings(tmp_path / "inherited", **sets)]) == 0
    expected = json.loads((tmp_path / "inherited" / "results.json").read_text())["metrics"]
    for method in ("spawn", "forkserver"):
        words = tiny_settings(tmp_path / method, data__workers=1, **sets)
        run_python([tmp_path / "main.py", method, "train", *words])
        assert json.loads((tmp_path / method / "results.json").read_text())["metrics"] == expected


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


@pytest.mark.slow
@pytest.mark.parametrize("size", ["4k", "512k"], ids=["for semaphores", "for batches"])
def test_full_shared_memory_is_reported(size, tiny_settings, tmp_path, repository):
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    words = shlex.join([sys.executable, "-m", "t2ireid_plugin", "train", *tiny_settings(tmp_path, data__workers=1)])
    script = f"mount -t tmpfs -o size={size} none /dev/shm && head -c 4096 /dev/zero > /dev/shm/other; {words}"
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--shm-size" in done.stderr
    assert "data.workers 0" in done.stderr
    assert "Traceback" not in done.stderr


def test_other_errors_are_not_reworded():
    with pytest.raises(RuntimeError, match=r"^CUDA out of memory$"), explain_dead_workers():
        raise RuntimeError("CUDA out of memory")


NUMBERS = """
import torch
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
    ["batches = iter(loader); next(batches); 1 / 0", "Numbers.fails = True\nfor batch in loader: pass"],
    ids=["in the training process", "in a worker"],
)
def test_an_unhandled_error_ends_the_process_and_its_workers(program):
    """The traceback keeps the iterator alive, and its workers ignore the signal by which multiprocessing ends them."""
    done = subprocess.run(
        [sys.executable, "-c", NUMBERS + program], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == "ZeroDivisionError: division by zero"


@pytest.mark.slow
def test_a_pool_of_the_user_still_ends_with_the_process():
    program = "import multiprocessing, t2ireid_plugin.data.manager\n"
    program += "pool = multiprocessing.get_context('fork').Pool(2)\nprint(pool.map(abs, [-1]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stdout) == (0, "[1]\n")
