import multiprocessing.connection
import os
import signal

import pytest
from preloaded import run_python

from t2ireid_plugin.data.manager import CaptionDataManager
from t2ireid_plugin.data.transforms import TestTransform, TrainTransform
from t2ireid_plugin.stopping import Stopped, orderly_stop


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
    with pytest.raises(Stopped), orderly_stop():
        next(iter(loader))
    assert answered


@pytest.mark.parametrize("where", ["beside the workers", "in a worker"])
def test_an_error_ends_the_process(where):
    """Its traceback keeps the loader alive, and its workers ignore the signal by which multiprocessing ends them."""
    script = f"""
import torch
from t2ireid_plugin.data.manager import WholeBatches, _start_worker

class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, number):
        return number if {where == "beside the workers"} else 1 / 0

for batch in WholeBatches(Numbers(), num_workers=2, worker_init_fn=_start_worker):
    1 / 0
"""
    done = run_python(["-c", script], status=1)
    assert done.stderr.strip().splitlines()[-1] == "ZeroDivisionError: division by zero"
