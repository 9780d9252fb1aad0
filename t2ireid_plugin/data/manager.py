"""`CaptionDataManager`: torchreid's data manager with OpenCV transforms that know the texts."""

from __future__ import annotations

import contextlib
import gc
import io
import multiprocessing.util
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling
from torchreid import data as torchreid_data

from t2ireid_plugin.data.dataset import view
from t2ireid_plugin.data.item_table import labels
from t2ireid_plugin.data.sampling import SeededBatches, StridedBatches, seeded
from t2ireid_plugin.data.transforms import TestTransform, TrainTransform
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.utils.signals import defer_signals


class CaptionDataManager(torchreid_data.datamanager.DataManager):
    """Loaders as torchreid's ``ImageDataManager`` has them, over datasets that torchreid knows by name.

    What differs: images are read and changed by OpenCV, and flips change the texts with them; each dataset is read
    once for all its uses; options such as ``val_share`` reach the datasets; what a training batch holds depends on
    seed, epoch and step alone, see `SeededBatches`.

    Args:
        root: the folder that holds the datasets.
        sources, targets: names to train on together, and to evaluate on one by one.
        transform_tr, transform_te: for training and for evaluation.
        batch_size_train, batch_size_test, workers, use_gpu: of the loaders.
        sampler: ``train_sampler``, ``num_instances``, ``num_cams``, ``num_datasets`` of torchreid's sampler.
        dataset_options: arguments of a dataset, by its name.
        keep_images: see `CaptionDataset.keep_images`.
        seed: of the order of training batches and of their random changes.
        replace_bad_images: see `CaptionDataset.replace_bad_images`; for training only.
        share: which of how many processes this is; they divide each training batch, and take test batches in turn.
    """

    data_type = "image"

    def __init__(
        self,
        root: str | Path,
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
        dataset_options: Mapping[str, Mapping[str, Any]] | None = None,
        keep_images: bool = False,
        seed: int = 0,
        replace_bad_images: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it announces transforms of its own, which are not used here
            super().__init__(
                list(sources), list(targets), transform_te.height, transform_te.width, transforms=[], use_gpu=use_gpu
            )
        self.transform_tr, self.transform_te = transform_tr, transform_te
        print(f"Images at {transform_te}; in training {', '.join(transform_tr.names) or 'unchanged'}")
        datasets = {
            name: torchreid_data.datasets.init_image_dataset(
                name, root=str(root), mode="train", **(dataset_options or {}).get(name, {})
            )
            for name in dict.fromkeys([*sources, *targets])
        }
        if keep_images:
            for dataset in datasets.values():
                dataset.keep_images()
        options: dict[str, Any] = {"num_workers": workers, "pin_memory": self.use_gpu, "worker_init_fn": _start_worker}
        trainset = sum(view(datasets[name], "train", transform_tr) for name in sources)
        if replace_bad_images:
            trainset.replace_bad_images()
        self._num_train_pids, self._num_train_cams = trainset.num_train_pids, trainset.num_train_cams
        with seeded(seed):  # some samplers draw already here
            order = torchreid_data.sampler.build_train_sampler(
                labels(trainset.train), batch_size=batch_size_train, **(sampler or {})
            )
        self.train_loader = WholeBatches(
            trainset, batch_sampler=SeededBatches(order, batch_size_train, seed, share), **options
        )
        self.train_loader_t = None
        parts = ("query", "gallery")
        self.test_loader = {
            name: {
                part: _in_order(view(datasets[name], part, transform_te), batch_size_test, share, options)
                for part in parts
            }
            for name in targets
        }
        self.test_dataset = {name: {part: getattr(datasets[name], part) for part in parts} for name in targets}


class WholeBatches(DataLoader):
    """A loader whose workers end with it, and which a signal to end does not break off while it takes a batch from one.

    The worker would tell of the lost connection with a traceback.
    """

    def __iter__(self) -> Any:  # an iterator; PyTorch promises one of a class of its own
        started: list[Any] = []
        workers: list[Any] = []
        # Whoever holds on to this, as the traceback of an error does, holds it until the process ends. Its exit then
        # does this before it closes the workers' queues, which has priority 10.
        end = multiprocessing.util.Finalize(None, _end_workers, (started, workers), exitpriority=20)
        try:
            with defer_signals():
                others = multiprocessing.active_children()
                try:
                    started.append(super().__iter__())
                finally:  # some may have started before one could not
                    workers += [child for child in multiprocessing.active_children() if child not in others]
            (batches,) = started
            while True:
                with defer_signals():
                    batch = next(batches, None)
                if batch is None:
                    return
                yield batch
        finally:
            end()


def _end_workers(started: list[Any], workers: list[Any]) -> None:
    """Asks workers to end and kills those that do not: they ignore SIGTERM, so their process would wait for ever."""
    with defer_signals():
        try:
            for batches in started if workers else ():
                batches._shutdown_workers()
        finally:
            for batches in started:
                if getattr(batches, "_worker_pids_set", False):  # PyTorch would raise an error for each that is killed
                    signal_handling._remove_worker_pids(id(batches))
                    batches._worker_pids_set = False
            for worker in workers:
                if worker.is_alive():
                    worker.kill()
            for worker in workers:
                worker.join()


@contextlib.contextmanager
def dead_workers_named() -> Iterator[None]:
    """Turns PyTorch's error of a data worker that has died, which may come anywhere, into one that says what to do.

    Raises:
        DataError: for a worker that has died.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith(("DataLoader worker", "Pin memory thread")):
            raise
        raise DataError(
            f"a data worker has died ({str(error).splitlines()[0].rstrip('. ')}); most often memory or /dev/shm is "
            "full: lower data.workers, or set it to 0. A training goes on with --resume"
        ) from error


def _in_order(dataset: Any, batch_size: int, share: tuple[int, int], options: dict[str, Any]) -> DataLoader:
    return WholeBatches(dataset, batch_sampler=StridedBatches(len(dataset), batch_size, share), **options)


def _start_worker(_worker: int) -> None:
    """Workers are as many as are wanted, and the threads of OpenCV and PyTorch in each would only be in the way.

    A signal to end is for the training process alone, which finishes its step first and then ends its workers.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    gc.freeze()  # looking for garbage among the parent's objects would copy the memory that they are in
