"""Several processes that train and evaluate as one: torchrun starts them, each takes its share of every batch."""

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
# Until all processes have joined. A wrong address is the usual cause if some do not.
_JOIN_TIMEOUT = datetime.timedelta(minutes=10)
# For every later operation: the other processes wait while the main one computes metrics and draws. A process that
# has died is noticed at once, because its connections close, and torchrun ends the others.
_TIMEOUT = datetime.timedelta(hours=2)
_LOST_CONNECTION = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe")


def world_size() -> int:
    """Number of processes; 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main_process() -> bool:
    """True for the process that prints and writes files."""
    return rank() == 0


@contextlib.contextmanager
def process_group(use_gpu: bool) -> Iterator[None]:
    """Connects the processes that torchrun has started, over NCCL with one GPU each or over gloo on the CPU.

    Has no effect without torchrun or with a single process.

    Raises:
        T2IReIDError: when the others do not join in time, or another process has died.
    """
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1 or dist.is_initialized():
        yield
        return
    on_gpu = use_gpu and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, number, total = _rendezvous()
    backend = "nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=total, timeout=_TIMEOUT)
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, T2IReIDError) or not any(word in str(error).lower() for word in _LOST_CONNECTION):
            raise
        raise T2IReIDError(
            f"rank {rank()} of {world_size()}: lost the connection to another process ({first_line(error)}); see that "
            "process's own message for the cause"
        ) from error
    dist.destroy_process_group()


def _rendezvous() -> tuple[dist.Store, int, int]:
    """The store that connects the processes, this process's rank and the world size, once all have joined.

    `torch.distributed.init_process_group` would wait for them as long as for any operation.
    """
    try:
        store, number, total = next(iter(dist.rendezvous("env://", timeout=_JOIN_TIMEOUT)))
        joined = f"joined/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"  # the store outlives a restart
        store.set(f"{joined}/{number}", "")
        store.wait([f"{joined}/{n}" for n in range(total)], _JOIN_TIMEOUT)
        store.set_timeout(_TIMEOUT)
    except RuntimeError as error:
        env = os.environ.get
        raise T2IReIDError(
            f"rank {env('RANK')} of {env('WORLD_SIZE')}: could not join the other processes at "
            f"{env('MASTER_ADDR')}:{env('MASTER_PORT')} ({first_line(error)}); check that every node can reach this "
            "address"
        ) from error
    return store, number, total


def gather_rows(rows: Tensor) -> Tensor:
    """``[n, …]`` per process to ``[n * world_size, …]`` in the order of ranks, with gradients.

    If each process computes the same loss of all rows, gradients arrive summed over the processes, and
    `DistributedDataParallel` divides by their number.
    """
    return _GatherRows.apply(rows) if world_size() > 1 else rows


def _own_rows(total: int) -> slice:
    share = total // world_size()
    return slice(rank() * share, (rank() + 1) * share)


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
        return total[_own_rows(len(total))]


class GlobalBatchNorm(nn.BatchNorm1d):
    """Batch normalisation with the statistics of all processes' rows, also on the CPU, unlike ``SyncBatchNorm``.

    It gathers the rows themselves, which are only a few hundred numbers wide here.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``[n, D] -> [n, D]``."""
        if not self.training:
            return super().forward(input)
        normalised = super().forward(gather_rows(input))
        return normalised[_own_rows(len(normalised))]


def convert_sync_batchnorm(module: nn.Module) -> None:
    """Turns every ``BatchNorm1d`` in ``module`` into a `GlobalBatchNorm`, in place and under the same names."""
    for part in module.modules():
        if type(part) is nn.BatchNorm1d:
            part.__class__ = GlobalBatchNorm


def all_reduce_max(value: int, device: torch.device | str = "cpu") -> int:
    """The largest value of all processes."""
    if world_size() == 1:
        return value
    shared = torch.tensor(value, device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared)


def broadcast_object(value: T) -> T:
    """The main process's value, which must be picklable."""
    box = [value]
    if world_size() > 1:
        dist.broadcast_object_list(box, 0)
    return box[0]


def broadcast_weights(module: nn.Module) -> None:
    """Copies the main process's parameters and buffers to all processes."""
    if world_size() > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)


def all_gather_list(values: list[T]) -> list[T]:
    """The values of all processes, in the order of ranks."""
    return [value for part in _all_gather(values) for value in part]


def all_gather_interleaved(values: list[T]) -> list[T]:
    """The values of all processes, each of which has every `world_size`-th: first all first ones, then all second …"""
    parts = _all_gather(values)
    return [part[i] for i in range(len(parts[0])) for part in parts if i < len(part)]


def _all_gather(values: list[T]) -> list[list[T]]:
    parts: list[Any] = [values] * world_size()
    if world_size() > 1:
        dist.all_gather_object(parts, values)
    return parts
