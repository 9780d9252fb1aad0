"""Batch samplers whose batches are a function of seed, epoch and step alone.

torchreid's samplers draw from the global generators, so their order depends on all earlier draws. Here the order of an
epoch is drawn at its start from a seed derived from (seed, epoch), and each sample carries the seed of its own random
changes, derived from (seed, epoch, place in the epoch). The sequence of batches is then the same for any number of
worker processes, and training can resume at any step of any epoch.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
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
        self._drawn: tuple[int, list[int]] = (-1, [])  # epoch and its order

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
            yield [SampleKey(order[place], derive_seed(self.seed, epoch, place)) for place in places]

    def _order(self, epoch: int) -> list[int]:
        if self._drawn[0] != epoch:
            with seeded(derive_seed(self.seed, epoch)):
                self._drawn = epoch, [int(index) for index in self.sampler]
        return self._drawn[1]
