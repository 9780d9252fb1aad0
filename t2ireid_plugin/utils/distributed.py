"""Several processes that train and test as one: those that torchrun starts, each with its share of every batch."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from t2ireid_plugin.errors import T2IReIDError
from t2ireid_plugin.utils.text import first_line

T = TypeVar("T")
# A process waits so long for the others; the first one alone computes metrics and draws meanwhile. One that has died
# is noticed at once: its connections close, and torchrun ends the rest.
_PATIENCE = datetime.timedelta(hours=2)
_ARRIVAL = datetime.timedelta(minutes=10)  # for all to be there; what keeps them apart is mostly an address
_LOST = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe")


def world_size() -> int:
    """How many there are; 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this one, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main_process() -> bool:
    """Whether this is the process that prints and writes."""
    return rank() == 0


@contextlib.contextmanager
def process_group(use_gpu: bool) -> Iterator[None]:
    """Within, the processes that torchrun has started know each other; does nothing for one alone.

    Each takes the GPU of its number on the machine, with NCCL; on the CPU they talk by gloo.

    Raises:
        T2IReIDError: when the others do not arrive, or another process has died.
    """
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1 or dist.is_initialized():
        yield
        return
    on_gpu = use_gpu and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, number, total = _meet()
    backend = "nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=total, timeout=_PATIENCE)
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, T2IReIDError) or not any(word in str(error).lower() for word in _LOST):
            raise
        raise T2IReIDError(
            f"process {rank()} of {world_size()}: lost the connection to another process, whose own message says why "
            f"({first_line(error)})"
        ) from error
    dist.destroy_process_group()


def _meet() -> tuple[dist.Store, int, int]:
    """The store over which processes get to know each other, this one's number and theirs, once all have found it.

    `torch.distributed.init_process_group` would wait for them in silence, and as long as for a result.

    Raises:
        T2IReIDError: when they do not, naming the address.
    """
    try:
        store, number, total = next(iter(dist.rendezvous("env://", timeout=_ARRIVAL)))
        arrived = f"arrived/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"  # the store outlives a restart
        store.set(f"{arrived}/{number}", "")
        store.wait([f"{arrived}/{n}" for n in range(total)], _ARRIVAL)
        store.set_timeout(_PATIENCE)
    except RuntimeError as error:
        named = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
        raise T2IReIDError(
            "process {RANK} of {WORLD_SIZE} has waited in vain for the others at {MASTER_ADDR}:{MASTER_PORT}; every "
            "machine must find the first one under that name".format(**named)
            + f" ({first_line(error)})"
        ) from error
    return store, number, total


def local_rows(total: int) -> slice:
    """The rows of this process among ``total`` ones that are divided evenly."""
    share = total // world_size()
    return slice(rank() * share, (rank() + 1) * share)


def gather_rows(rows: Tensor) -> Tensor:
    """``[n, …]`` of each process to ``[n * processes, …]``, in their order, with gradients.

    Each process may compute the same loss of all rows: gradients arrive summed over the processes, and
    `DistributedDataParallel` divides by their number.
    """
    return _GatherRows.apply(rows) if world_size() > 1 else rows


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[local_rows(len(total))]


class GlobalBatchNorm(nn.BatchNorm1d):
    """Batch normalisation with the statistics of all processes' rows.

    PyTorch's ``SyncBatchNorm`` does the same on GPUs only. Here the rows themselves are gathered: those of this model
    are a few hundred numbers wide.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``[n, D] -> [n, D]``."""
        if not self.training:
            return super().forward(input)
        everyone = super().forward(gather_rows(input))
        return everyone[local_rows(len(everyone))]


def convert_sync_batchnorm(module: nn.Module) -> None:
    """Turns each ``BatchNorm1d`` within into a `GlobalBatchNorm`, in place and under the same names."""
    for part in module.modules():
        if type(part) is nn.BatchNorm1d:
            part.__class__ = GlobalBatchNorm


def all_reduce_max(value: int, device: torch.device | str = "cpu") -> int:
    """The largest of a number over all processes."""
    if world_size() == 1:
        return value
    shared = torch.tensor(value, device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared)


def broadcast_object(value: T) -> T:
    """What the first process has, in all of them; plain values."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


def broadcast_weights(module: nn.Module) -> None:
    """The first process's parameters and buffers, in all of them."""
    if world_size() > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)


def all_gather_list(values: list[T]) -> list[T]:
    """All processes' values, one after the other."""
    return [value for part in _all_lists(values) for value in part]


def all_gather_interleaved(values: list[T]) -> list[T]:
    """All processes' values, each of which has every `world_size`-th: the first of each, the second of each, …"""
    parts = _all_lists(values)
    return [part[i] for i in range(len(parts[0])) for part in parts if i < len(part)]


def _all_lists(values: list[T]) -> list[list[T]]:
    if world_size() == 1:
        return [values]
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, values)
    return parts
