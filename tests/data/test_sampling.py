import random
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchreid import data as torchreid_data

from t2ireid_plugin.data.benchmarks import BENCHMARKS
from t2ireid_plugin.data.dataset import CaptionDataset
from t2ireid_plugin.data.sampling import SeededBatches, StridedBatches, derive_seed, seeded
from t2ireid_plugin.data.transforms import TRANSFORMS, TrainTransform

LABELS = [("", pid, camid, pid % 2) for pid in range(13) for camid in (0, 1, 2) for _ in range(2 + pid % 3)]
RANDOM = ["RandomSampler", "RandomIdentitySampler", "RandomDomainSampler", "RandomDatasetSampler"]
SAMPLERS = [*RANDOM, "SequentialSampler"]


def batches_of(name, seed=0, size=12):
    options = {"num_instances": 4, "num_cams": 3, "num_datasets": 2}
    sampler = torchreid_data.sampler.build_train_sampler(LABELS, name, batch_size=size, **options)
    return SeededBatches(sampler, size, seed)


def disturb():
    """What other code does between two steps."""
    random.random()
    np.random.rand(3)
    torch.rand(5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_epoch_is_the_same_whatever_was_drawn_before(name):
    first, second = batches_of(name), batches_of(name)
    for epoch in range(3):
        disturb()
        expected = list(first)
        assert len(expected) >= 2
        second.start_at(epoch)
        assert list(second) == expected


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_epoch_goes_on_from_any_step(name):
    batches = batches_of(name)
    batches.start_at(4)
    whole = list(batches)
    for step in range(len(whole) + 1):
        batches.start_at(4, step)
        assert list(batches) == whole[step:]
    batches.start_at(4)
    assert len(batches) == len(whole)


@pytest.mark.parametrize("name", RANDOM)
def test_epochs_and_seeds_differ(name):
    first, second = batches_of(name), batches_of(name, seed=1)
    orders = [[draw.item for batch in pass_ for draw in batch] for pass_ in (first, first, second)]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]


@pytest.mark.parametrize("name", SAMPLERS)
def test_it_is_what_torchreids_sampler_gives_when_it_is_seeded_so(name):
    batches = batches_of(name, seed=5)
    batches.start_at(2)
    found = [draw.item for batch in batches for draw in batch]
    seed = derive_seed(5, 2)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    expected = [int(item) for item in batches.sampler]
    assert found == expected[: len(found)]
    assert len(expected) - len(found) < 12


def test_each_sample_of_each_epoch_has_a_seed_of_its_own():
    batches = batches_of("RandomIdentitySampler")
    seeds = [draw.seed for _ in range(5) for batch in batches for draw in batch]
    assert len(set(seeds)) == len(seeds) > 400


def test_seeds_are_spread_evenly():
    counts = Counter(derive_seed(1, epoch, place) >> 28 for epoch in range(20) for place in range(800))
    assert set(counts) == set(range(16))
    assert all(850 < count < 1150 for count in counts.values())  # 1,000 expected, standard deviation 31


def test_the_global_generators_do_not_notice():
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(1)
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    with seeded(9):
        first = random.random(), np.random.rand(), torch.rand(1)
    with seeded(9):
        second = random.random(), np.random.rand(), torch.rand(1)
    assert first == second
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected


@pytest.mark.parametrize("processes", [2, 3, 6])
def test_processes_divide_the_same_batches_between_them(processes):
    whole = list(batches_of("RandomIdentitySampler", size=24))
    sampler = batches_of("RandomIdentitySampler", size=24).sampler
    shares = [list(SeededBatches(sampler, 24, 0, share=(rank, processes))) for rank in range(processes)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert [draw for part in parts for draw in part] == batch
        for part in parts:  # four of each person, and nobody in two processes
            assert sorted(Counter(LABELS[draw.item][1] for draw in part).values()) == [4] * (6 // processes)


@pytest.mark.parametrize(("items", "size", "processes"), [(10, 3, 1), (10, 3, 2), (10, 3, 4), (2, 3, 3), (12, 3, 2)])
def test_test_batches_are_those_of_one_process_taken_in_turn(items, size, processes):
    expected = [list(range(items))[i : i + size] for i in range(0, items, size)]
    shares = [StridedBatches(items, size, (rank, processes)) for rank in range(processes)]
    assert [list(share) for share in shares] == [expected[rank::processes] for rank in range(processes)]
    assert [len(share) for share in shares] == [len(list(share)) for share in shares]


# With images


@pytest.fixture(scope="module")
def dataset(synthetic):
    """Training items with every random change there is."""
    transform = TrainTransform(32, 16, [0.5] * 3, [0.5] * 3, TRANSFORMS, mask_token="[MASK]")
    return CaptionDataset(
        synthetic.root, spec=BENCHMARKS["cuhkpedes"], verbose=False, mode="train", transform=transform
    )


def sequence(dataset, workers, first=0):
    """Two epochs' images and texts, from a step of the first epoch on."""
    labels = dataset.train.labels()
    sampler = torchreid_data.sampler.build_train_sampler(
        labels, "RandomIdentitySampler", batch_size=32, num_instances=4
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


def test_the_sequence_of_batches_does_not_depend_on_the_number_of_workers(dataset):
    expected = sequence(dataset, 0)
    assert len(expected) >= 10
    assert expected[0]["caption"] != expected[6]["caption"]  # of the second epoch
    for workers in (2, 5):
        disturb()
        assert_equal(sequence(dataset, workers), expected)


def test_going_on_with_other_workers_in_the_middle_of_an_epoch(dataset):
    assert_equal(sequence(dataset, 2, first=4), sequence(dataset, 0)[4:])


def test_an_item_by_number_alone_is_changed_at_random(dataset):
    random.seed(0)
    first, second = dataset[5], dataset[5]
    assert not torch.equal(first["img"], second["img"])
