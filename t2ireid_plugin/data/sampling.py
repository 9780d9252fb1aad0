"""Batch samplers whose batches are a function of seed, epoch and step alone.

torchreid's samplers draw from the global generators, so their order depends on all earlier draws. Here the order of an
epoch is drawn at its start from a seed derived from (seed, epoch), and each sample carries the seed of its own random
changes, derived from (seed, epoch, place in the epoch). The sequence of batches is then the same for any number of
worker processes, and training can resume at any step of any epoch.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Sampler


class SampleKey(NamedTuple):
    """An item of a batch: its index in the dataset, and the seed of its random changes."""

    item: int
    seed: int


def derive_seed(*key: int) -> int:
    """A 32-bit seed from a key such as (seed, epoch, step); different keys give unrelated seeds."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=4).digest(), "big")


def seed_all(seed: int) -> None:
    """Seeds the global generators of Python, NumPy and PyTorch, and CUDA's if it is initialized."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the global CPU generators within the block and restores their state afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class SeededBatches(Sampler[list[SampleKey]]):
    """Full batches in the order of one of torchreid's samplers; each pass is the next epoch.

    Args:
        sampler: yields the indices of an epoch's items; may draw from the global generators.
        batch_size: items per batch, over all processes; an incomplete last batch is dropped.
        seed: of the run.
        share: (rank, world size); each process takes an equal contiguous part of each batch.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, seed: int = 0, share: tuple[int, int] = (0, 1)) -> None:
        self.sampler, self.batch_size, self.seed = sampler, batch_size, seed
        size = batch_size // share[1]
        self._own = range(share[0] * size, (share[0] + 1) * size)
        self._epoch, self._step = 0, 0
        self._drawn = -1, np.zeros(0, np.int64)  # epoch and its order

    def start_at(self, epoch: int, step: int = 0) -> None:
        """Starts the next pass at this batch of this epoch, without reading the batches before it."""
        self._epoch, self._step = epoch, step

    def __len__(self) -> int:
        """Batches in the epoch of the next pass, including those before the start."""
        return len(self._order(self._epoch)) // self.batch_size

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch, first, number = self._epoch, self._step, len(self)
        self.start_at(epoch + 1)
        order = self._order(epoch)
        for step in range(first, number):
            places = [step * self.batch_size + place for place in self._own]
            yield [SampleKey(int(order[place]), derive_seed(self.seed, epoch, place)) for place in places]

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        if self._drawn[0] != epoch:
            with seeded(derive_seed(self.seed, epoch)):
                if isinstance(self.sampler, LargeOrder):  # of which Python's integers would take much memory
                    self._drawn = epoch, self.sampler.draw()
                else:
                    self._drawn = epoch, np.fromiter(self.sampler, np.int64)
        return self._drawn[1]


class LargeOrder(Sampler[int]):
    """A random order of the items of a pre-training set, which draws from PyTorch's global generator.

    Args:
        items: their number.
        batch_size: items per batch, over all processes.
        shards: items in each shard, see `shard_order`; none for images in folders, whose order is even.
    """

    def __init__(self, items: int, batch_size: int, shards: Sequence[int] = ()) -> None:
        self.items, self.batch_size, self.shards = items, batch_size, shards

    def draw(self) -> npt.NDArray[np.int64]:
        """The items of an epoch."""
        order = shard_order(self.shards, self.batch_size) if self.shards else torch.randperm(self.items)
        return order.numpy()

    def __iter__(self) -> Iterator[int]:
        return iter(self.draw().tolist())


def shard_order(sizes: Sequence[int], batch_size: int, groups: int = 8, lanes: int = 16) -> Tensor:
    """An order of items in which few shards are read at a time, each from its begin to its end by one worker.

    The shards in random order, with their items in random order, are one sequence. It is cut into ``groups`` parts of
    ``lanes`` equal lanes each, which are read side by side. Each batch has an equal share of each lane of a group, and
    the groups take turns. `SeededBatches` gives each process a contiguous part of a batch, so its own lanes; PyTorch
    gives the batches to workers in turns, so that 2, 4 or 8 workers have their own groups.

    Args:
        sizes: items in each shard; the items of a shard follow each other.
        batch_size: items per batch, over all processes.
        groups: 1 is taken where less than a hundred batches fill a group.
        lanes: the largest divisor of ``batch_size`` that divides this number is taken.

    Returns:
        The items of whole batches, less than ``groups * batch_size`` of all are left out.
    """
    starts = np.cumsum([0, *sizes])
    order = torch.cat([int(starts[shard]) + torch.randperm(sizes[shard]) for shard in torch.randperm(len(sizes))])
    if len(order) < 100 * groups * batch_size:
        groups = 1
    lanes = math.gcd(lanes, batch_size)
    rounds, share = len(order) // (groups * batch_size), batch_size // lanes
    cut = order[: groups * batch_size * rounds].view(groups, lanes, rounds, share)
    return cut.permute(2, 0, 1, 3).reshape(-1)
