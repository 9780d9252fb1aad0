import multiprocessing.connection
import os
import signal

import pytest

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
