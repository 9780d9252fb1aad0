import random
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchreid import data as torchreid_data

from t2ireid_plugin.data.benchmarks import BENCHMARKS
from t2ireid_plugin.data.dataset import CaptionDataset
from t2ireid_plugin.data.item_table import labels
from t2ireid_plugin.data.sampling import SeededBatches, derive_seed, seed_all, seeded
from t2ireid_plugin.data.transforms import TRANSFORMS, TrainTransform

LABELS = [("", pid, camid, pid % 2) for pid in range(13) for camid in (0, 1, 2) for _ in range(2 + pid % 3)]
RANDOM = ["RandomSampler", "RandomIdentitySampler", "RandomDomainSampler", "RandomDatasetSampler"]
SAMPLERS = [*RANDOM, "SequentialSampler"]


def batches_of(name, seed=0, size=12):
    options = {"num_instances": 4, "num_cams": 3, "num_datasets": 2}
    sampler = torchreid_data.sampler.build_train_sampler(LABELS, name, batch_size=size, **options)
    return SeededBatches(sampler, size, seed)


def disturb():
    """Draws from the global generators, as other code does between two steps."""
    random.random()
    np.random.rand(3)
    torch.rand(5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_epoch_has_the_order_of_torchreids_sampler_and_resumes_at_any_step(name):
    """Whatever was drawn before, with the seed derived from the run's seed and the epoch."""
    batches, resumed = batches_of(name, seed=5), batches_of(name, seed=5)
    for epoch in range(3):
        disturb()
        whole = list(batches)
        seed_all(derive_seed(5, epoch))
        order = [int(item) for item in resumed.sampler]
        items = [key.item for batch in whole for key in batch]
        assert items == order[: len(items)]
        assert 0 <= len(order) - len(items) < 12
        for step in range(len(whole) + 1):
            resumed.start_at(epoch, step)
            assert len(resumed) == len(whole) >= 2
            assert list(resumed) == whole[step:]


@pytest.mark.parametrize("name", RANDOM)
def test_epochs_runs_and_samples_differ(name):
    first, second = batches_of(name), batches_of(name, seed=1)
    epochs = [[key for batch in epoch for key in batch] for epoch in (first, first, first, second, second)]
    assert len({tuple(key.item for key in keys) for keys in epochs}) == 5
    seeds = [key.seed for keys in epochs for key in keys]
    assert len(set(seeds)) == len(seeds) > 200


def test_seeded_restores_the_global_generators():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1)

    seed_all(3)
    expected = draw()
    seed_all(3)
    with seeded(9):
        first = draw()
    with seeded(9):
        second = draw()
    assert first == second != expected
    assert draw() == expected


@pytest.mark.parametrize("processes", [2, 3, 6])
def test_processes_split_each_batch(processes):
    whole = list(batches_of("RandomIdentitySampler", size=24))
    sampler = batches_of("RandomIdentitySampler", size=24).sampler
    shares = [list(SeededBatches(sampler, 24, 0, share=(rank, processes))) for rank in range(processes)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert [key for part in parts for key in part] == batch
        for part in parts:  # four items per identity, all in one process
            assert sorted(Counter(LABELS[key.item][1] for key in part).values()) == [4] * (6 // processes)


# With images


@pytest.fixture(scope="module")
def dataset(synthetic):
    """Training items with all random transforms."""
    transform = TrainTransform(32, 16, [0.5] * 3, [0.5] * 3, TRANSFORMS, mask_token="[MASK]", words=["car"])
    return CaptionDataset(
        synthetic.root, spec=BENCHMARKS["cuhkpedes"], verbose=False, mode="train", transform=transform
    )


def sequence(dataset, workers, first=0):
    """The batches of two epochs, starting at a step of the first one."""
    sampler = torchreid_data.sampler.build_train_sampler(
        labels(dataset.train), "RandomIdentitySampler", batch_size=32, num_instances=4
    )
    batches = SeededBatches(sampler, 32, seed=7)
    batches.start_at(0, first)
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=workers)
    return [batch for _ in range(2) for batch in loader]


def assert_equal(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a["img"], b["img"])
        assert {key: value for key, value in a.items() if isinstance(value, list)} == {
            key: value for key, value in b.items() if isinstance(value, list)
        }


def test_the_sequence_of_batches_does_not_depend_on_the_workers(dataset):
    expected = sequence(dataset, 0)
    assert len(expected) >= 10
    assert expected[0]["caption"] != expected[6]["caption"]  # of the second epoch
    disturb()
    assert_equal(sequence(dataset, 3), expected)
    assert_equal(sequence(dataset, 2, first=4), expected[4:])


def test_an_item_without_a_seed_is_changed_at_random(dataset):
    random.seed(0)
    first, second = dataset[5], dataset[5]
    assert not torch.equal(first["img"], second["img"])
