"""`CaptionDataManager`: torchreid's data manager with OpenCV transforms that also change the texts."""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import io
import multiprocessing
import operator
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.util import Finalize
from typing import Any

import cv2
import torch
from torch.utils.data import BatchSampler, DataLoader
from torchreid import data as torchreid_data

from t2ireid_plugin.data.dataset import CaptionDataset
from t2ireid_plugin.data.item_table import labels
from t2ireid_plugin.data.large_table import LargeTable
from t2ireid_plugin.data.sampling import LargeOrder, SeededBatches, seeded
from t2ireid_plugin.data.transforms import TestTransform, TrainTransform
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.utils.signals import STOP_SIGNALS, defer_signals

_FULL = (
    "/dev/shm is full, through which data workers pass batches; set data.workers 0, or give the container more of it "
    "with --shm-size"
)


class _Loader(DataLoader):
    def __iter__(self) -> Any:
        try:  # as many as the workers need: where that fails, PyTorch's iterator would print a traceback
            semaphores = [multiprocessing.Event() for _ in range(self.num_workers + 1 if self.num_workers else 0)]
        except OSError as error:
            raise DataError(f"{_FULL} ({error.strerror})") from error
        del semaphores
        with defer_signals():  # a signal while workers start would end them
            return super().__iter__()


class CaptionDataManager(torchreid_data.datamanager.DataManager):
    """Loaders like those of torchreid's ``ImageDataManager``, over datasets that are already built.

    Differences: OpenCV reads and changes the images, flips change the texts with them, and the content of a training
    batch depends on seed, epoch and step alone, see `SeededBatches`.

    Args:
        datasets: by name; all sources and targets.
        sources, targets: names of the datasets to train on jointly, and to evaluate on one by one. Without sources
            there is no training loader.
        transform_tr, transform_te: for training and for evaluation.
        batch_size_train, batch_size_test, workers, use_gpu: of the loaders.
        sampler: ``train_sampler``, ``num_instances``, ``num_cams``, ``num_datasets`` of torchreid's sampler; for a
            pre-training set it is always `LargeOrder`.
        keep_images: see `CaptionDataset.keep_images`.
        seed: of the order of training batches and of their random changes.
        replace_bad_images: see `CaptionDataset.replace_bad_images`; training only, and always for a pre-training set.
        share: (rank, world size); the processes split each training batch and take turns with test batches.
    """

    data_type = "image"

    def __init__(
        self,
        datasets: Mapping[str, CaptionDataset],
        sources: Sequence[str],
        targets: Sequence[str],
        transform_tr: TrainTransform,
        transform_te: TestTransform,
        *,
        batch_size_train: int = 32,
        batch_size_test: int = 32,
        workers: int = 4,
        use_gpu: bool = True,
        sampler: Mapping[str, Any] | None = None,
        keep_images: bool = False,
        seed: int = 0,
        replace_bad_images: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints transforms of its own, which are not used here
            super().__init__(
                list(sources), list(targets), transform_te.height, transform_te.width, transforms=[], use_gpu=use_gpu
            )
        self.transform_tr, self.transform_te = transform_tr, transform_te
        print(f"Images at {transform_te}; training transforms: {', '.join(transform_tr.names) or 'none'}")
        self.datasets = dict(datasets)
        specs: set[str] = set()
        for dataset in datasets.values():
            dataset.show_summary(counts=dataset.spec.name not in specs)
            specs.add(dataset.spec.name)
            if keep_images:
                dataset.keep_images()
        options: dict[str, Any] = {"num_workers": workers, "pin_memory": self.use_gpu, "worker_init_fn": init_worker}
        self._num_train_pids = self._num_train_cams = 0
        self.train_loader: DataLoader | None = None
        if sources:
            trainset = functools.reduce(
                operator.add, (datasets[name].with_mode("train", transform_tr) for name in sources)
            )
            if replace_bad_images or isinstance(trainset.train, LargeTable):
                trainset.replace_bad_images()
            self._num_train_pids, self._num_train_cams = trainset.num_train_pids, trainset.num_train_cams
            if isinstance(trainset.train, LargeTable):
                order = LargeOrder(len(trainset.train), batch_size_train, trainset.train.shards)
            else:
                with seeded(seed):  # some samplers draw in their constructor
                    order = torchreid_data.sampler.build_train_sampler(
                        labels(trainset.train), batch_size=batch_size_train, **(sampler or {})
                    )
            batches = SeededBatches(order, batch_size_train, seed, share)
            self.train_loader = _Loader(trainset, batch_sampler=batches, **options)
        self.train_loader_t = None
        self.test_loader: dict[str, dict[str, DataLoader]] = {name: {} for name in targets}
        self.test_dataset: dict[str, dict[str, Any]] = {name: {} for name in targets}
        for name in targets:
            for part in ("query", "gallery", *["references"] * datasets[name].spec.composed):
                items = datasets[name].with_mode(part, transform_te)
                in_order = list(BatchSampler(range(len(items)), batch_size_test, drop_last=False))[share[0] :: share[1]]
                self.test_loader[name][part] = _Loader(items, batch_sampler=in_order, **options)
                self.test_dataset[name][part] = items.data


@contextlib.contextmanager
def explain_dead_workers() -> Iterator[None]:
    """Turns PyTorch's error for a data worker that died or lacks shared memory into one that says what to do.

    PyTorch raises the first from its handler of SIGCHLD, so anywhere in the training process.

    Raises:
        DataError: for a worker that died or lacks shared memory.
    """
    try:
        try:
            yield
        except (ConnectionError, EOFError):  # while receiving a batch from a worker that just died
            time.sleep(5)  # interrupted by the handler
            raise
    except RuntimeError as error:
        if "/torch_" in str(error) and os.strerror(errno.ENOSPC) in str(error):
            raise DataError(_FULL) from error
        if not str(error).startswith(("DataLoader worker", "Pin memory thread")):
            raise
        reason = str(error).splitlines()[0].rstrip(". ")
        raise DataError(
            f"a data worker died ({reason}), usually because memory or /dev/shm is full; lower data.workers or set "
            "data.workers 0, give a container more (--memory, --shm-size), and continue a training with --resume"
        ) from error


def init_worker(_worker: int) -> None:
    """Prepares a data worker: one thread per process, and signals are left to the training process.

    A terminal or scheduler signals all processes of a run; the training process finishes its step and then ends its
    workers.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    gc.freeze()  # garbage collection among the parent's objects would copy the memory pages that hold them


def _kill_workers() -> None:
    """Kills data workers that an unhandled error left behind.

    multiprocessing ends its children with SIGTERM, which they ignore, and would wait for them forever.
    """
    workers = [child for child in multiprocessing.active_children() if child.daemon]
    if workers:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler raises an error for each
    for worker in workers:
        worker.kill()


# At exit, after multiprocessing has ended its pools (priority 15) and before it waits for queues (10).
Finalize(None, _kill_workers, exitpriority=12)
