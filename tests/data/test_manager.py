import multiprocessing.connection
import os
import signal
import subprocess
import sys

import pytest
from preloaded import run_python

from t2ireid_plugin.data.manager import CaptionDataManager
from t2ireid_plugin.data.transforms import TestTransform, TrainTransform
from t2ireid_plugin.utils.signals import Stopped, stop_on_signal


@pytest.mark.parametrize("split", ["train", "query", "gallery"])
def test_a_signal_does_not_cut_the_connection_on_which_a_worker_hands_over_a_batch(synthetic, split, monkeypatch):
    """The worker would complain with a traceback, among the run's last words."""
    sizes = (32, 16, [0.5] * 3, [0.5] * 3)
    transforms = TrainTransform(*sizes), TestTransform(*sizes)
    options = {"workers": 1, "use_gpu": False, "sampler": {"train_sampler": "RandomSampler"}}
    data = CaptionDataManager(synthetic.root, ["cuhkpedes"], ["cuhkpedes"], *transforms, **options)
    loader = data.train_loader if split == "train" else data.test_loader["cuhkpedes"][split]
    answer, answered = multiprocessing.connection.answer_challenge, []

    def signalled(connection, key):
        os.kill(os.getpid(), signal.SIGTERM)
        answer(connection, key)
        monkeypatch.undo()
        answered.append(connection)

    monkeypatch.setattr(multiprocessing.connection, "answer_challenge", signalled)
    with pytest.raises(Stopped), stop_on_signal():
        next(iter(loader))
    assert answered


NUMBERS = """
import os, signal, sys
import multiprocessing
import torch
from t2ireid_plugin.data.manager import WholeBatches, _start_worker
from t2ireid_plugin.utils.signals import Stopped, orderly_stop

class Numbers(torch.utils.data.Dataset):
    fails = False

    def __len__(self):
        return 64

    def __getitem__(self, number):
        return 1 / 0 if self.fails else number

loader = WholeBatches(Numbers(), num_workers=2, worker_init_fn=_start_worker)
"""


@pytest.mark.parametrize(
    "program",
    ["batches = iter(loader); next(batches); 1 / 0", "Numbers.fails = True\nfor batch in loader: pass"],
    ids=["beside the workers", "in a worker"],
)
def test_an_error_ends_the_process(program):
    """What holds the loader keeps its workers alive, and they ignore the signal by which multiprocessing ends them."""
    done = subprocess.run(
        [sys.executable, "-c", NUMBERS + program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_no_worker_is_left_when_a_signal_comes_or_one_cannot_be_started():
    program = """
for number in (1, 2):
    fork, forks = os.fork, []

    def disturbed():
        forks.append(number)
        if len(forks) == 2 and number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if len(forks) == 2 and number == 2:
            raise OSError("Cannot allocate memory")
        return fork()

    os.fork = disturbed
    try:
        with orderly_stop():
            batches = iter(loader)
            next(batches)
    except (Stopped, OSError) as error:
        print(type(error).__name__, multiprocessing.active_children())
    os.fork = fork
"""
    assert run_python(["-c", NUMBERS + program]).stdout == "Stopped []\nOSError []\n"
