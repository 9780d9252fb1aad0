import copy
import io

import pytest
import torch
from torch import nn

from benchmarks.machine import memory_used
from t2ireid_plugin.engine.parking import Parking

MB = 1e6


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Linear(3, 2).half(), nn.Embedding(4, 2)).eval()


def test_every_weight_is_found_as_before(tmp_path):
    module, expected = network(), network()
    parameters = dict(module.named_parameters())
    parking = Parking(module, tmp_path)
    for _ in range(2):
        for name, tensor in expected.state_dict().items():
            assert torch.equal(module.state_dict()[name], tensor), name
            assert module.state_dict()[name].dtype == tensor.dtype
        parking.release()
    assert all(parameters[name] is p for name, p in module.named_parameters())
    assert list(tmp_path.iterdir()) == []  # the file has no name


def test_what_is_written_stays(tmp_path):
    module = network()
    parking = Parking(module, tmp_path)
    module.load_state_dict({name: tensor + 1 for name, tensor in network().state_dict().items()})
    parking.release()
    assert torch.equal(module[0].weight, network()[0].weight + 1)


def test_copies_and_files_are_ordinary_ones(tmp_path):
    module = network()
    Parking(module, tmp_path)
    other, stream = copy.deepcopy(module), io.BytesIO()
    torch.save(module.state_dict(), stream)
    with torch.no_grad():
        module[0].weight.zero_()
    stream.seek(0)
    for state in (other.state_dict(), torch.load(stream, weights_only=True)):
        assert torch.equal(state["0.weight"], network()[0].weight)


def test_it_takes_no_memory(tmp_path):
    module = nn.Linear(4096, 4096)  # 67 MB
    before = memory_used()
    parking = Parking(module, tmp_path)
    parked = memory_used()
    assert before - parked > 60 * MB
    float(module.weight.sum())
    assert memory_used() - parked > 60 * MB  # it came back when it was read
    parking.release()
    assert before - memory_used() > 60 * MB


def test_a_module_without_weights_and_a_folder_that_is_none(tmp_path):
    Parking(nn.ReLU(), tmp_path).release()
    with pytest.raises(OSError, match="none"):
        Parking(network(), tmp_path / "none")
