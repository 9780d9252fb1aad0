"""Noisy pairs for studies of noise: training images with captions of other images (RDE, CVPR 2024)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from t2ireid_plugin.data.item_table import CAPTION, ItemTable
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.utils.text import first_line


def noisy_order(number: int, rate: float, seed: int, name: str) -> Tensor:
    """For each of ``number`` pairs the one whose caption it gets; a share ``rate`` of them is shuffled.

    It depends on the seed and on the ``name`` of the dataset.
    """
    own = int.from_bytes(hashlib.blake2b(f"{seed} {name}".encode(), digest_size=4).digest(), "big")
    chance = torch.Generator().manual_seed(own)
    chosen = torch.randperm(number, generator=chance)[: int(rate * number)]
    order = torch.arange(number)
    order[chosen] = chosen[torch.randperm(len(chosen), generator=chance)]
    return order


def read_order(file: str | Path, number: int) -> Tensor:
    """The same from one of the index files that RDE's authors publish, such as ``CUHK-PEDES_0.2.npy``.

    Raises:
        DataError: for a file that cannot be read, or that is not for ``number`` pairs.
    """
    try:
        order = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DataError(f"data.noisy_file: cannot read '{file}' ({reason})") from error
    if not (isinstance(order, np.ndarray) and order.ndim == 1 and np.array_equal(np.sort(order), np.arange(number))):
        size = f"{order.size:,} entries" if isinstance(order, np.ndarray) else "several arrays"
        raise DataError(
            f"data.noisy_file: '{file}' has {size}, but must name each of the {number:,} training pairs once; pairs "
            "held out for val are missing from the training set: data.val [] holds out none"
        )
    return torch.from_numpy(order.astype(np.int64))


def with_captions_of(items: ItemTable, order: Tensor) -> ItemTable:
    """The items with the texts of others: item ``i`` gets those of item ``order[i]``."""
    columns = items.columns.clone()
    columns[:, CAPTION:] = columns[order, CAPTION:]
    return ItemTable(items.texts, columns)
