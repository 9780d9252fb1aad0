"""FastReID's loaders and samplers over images with texts."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import cv2
from fastreid.config import CfgNode
from fastreid.data import build_reid_test_loader, build_reid_train_loader
from fastreid.data.transforms import build_transforms
from fastreid.utils import comm
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from t2ireid_plugin.data.annotations import check_images
from t2ireid_plugin.data.benchmarks import VAL_SUFFIX
from t2ireid_plugin.data.dataset import CaptionDataset
from t2ireid_plugin.data.item_table import PID, ItemTable
from t2ireid_plugin.data.transforms import read_pixels, resize, swap_sides
from t2ireid_plugin.integrations.fastreid.checks import check_schedule
from t2ireid_plugin.integrations.fastreid.datasets import build_captions

ImageTransform = Callable[[Image.Image], Tensor]


class TextSet(Dataset):
    """Queries: texts with their labels, under the names of FastReID's batches."""

    def __init__(self, items: ItemTable) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``captions``, ``targets``, ``camids`` and ``img_paths``."""
        path, pid, camid, _, caption, *_ = self.items[int(index)]
        return {"captions": caption, "targets": pid, "camids": camid, "img_paths": path}


class TextImageSet(Dataset):
    """Images, and in training their texts, under the names of FastReID's batches.

    Images are read and resized as everywhere in this package, so that the same weights give the same numbers, and then
    changed as FastReID's ``INPUT`` says; its own resizing finds nothing left to do. Only the flip is ours, since
    it changes the texts too.

    Args:
        items: of a `CaptionDataset`.
        size: height and width.
        transform: FastReID's, without a flip.
        flip: chance of a flip.
        texts: give the texts too.
    """

    def __init__(
        self,
        items: ItemTable,
        size: tuple[int, int],
        transform: ImageTransform,
        flip: float = 0.0,
        texts: bool = True,
    ) -> None:
        self.items, self.size, self.transform, self.flip, self.texts = items, size, transform, flip, texts
        # All that FastReID's samplers look at, and their three fields exactly.
        self.img_items = [label[:3] for label in items.labels()]
        self.num_classes = items.distinct(PID)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``images [3, H, W]`` with values from 0 to 255, ``targets``, ``camids``, ``img_paths`` and the texts."""
        path, pid, camid, _, *texts = self.items[int(index)]
        pixels = resize(read_pixels(path), *self.size)
        if self.flip and random.random() < self.flip:
            pixels, texts = cv2.flip(pixels, 1), [swap_sides(text) for text in texts]
        item = {"images": self.transform(Image.fromarray(pixels)), "targets": pid, "camids": camid, "img_paths": path}
        return {**item, **dict(zip(("captions", "id_texts", "cloth_texts"), texts))} if self.texts else item


class ChainedLoader:
    """Loaders one after the other, as the one that FastReID's evaluation goes through."""

    def __init__(self, *loaders: Any) -> None:
        self.loaders = loaders
        self.dataset: ConcatDataset = ConcatDataset([loader.dataset for loader in loaders])

    def __len__(self) -> int:
        return sum(map(len, self.loaders))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return itertools.chain.from_iterable(self.loaders)


def build_sources(cfg: CfgNode) -> list[CaptionDataset]:
    """The training sets of ``DATASETS.NAMES``.

    Raises:
        DataError: as `CaptionDataset`.
    """
    return [build_captions(name, **_options(cfg, name)) for name in cfg.DATASETS.NAMES]


def check_data(cfg: CfgNode) -> None:
    """Shows the counts of each set in use beside the publishers', and looks at every image once, before a run.

    Raises:
        DataError: when files are missing or broken.
    """
    for name in dict.fromkeys((*cfg.DATASETS.NAMES, *cfg.DATASETS.TESTS)):
        dataset = build_captions(name, **_options(cfg, name))
        if comm.is_main_process():
            dataset.show_summary()
            check_images(sorted({path for table in (dataset.train, dataset.gallery) for path, *_ in table}))


def build_train_loader(cfg: CfgNode) -> Any:
    """FastReID's training loader, with its sampler of ``DATALOADER.SAMPLER_TRAIN``, over captions with their images.

    Raises:
        DataError: as `CaptionDataset`.
        ConfigError: when there are too few captions or identities for a batch.
    """
    joined: Any = sum(build_sources(cfg))
    captions = TextImageSet(
        joined.train, tuple(cfg.INPUT.SIZE_TRAIN), _without_flip(cfg), cfg.INPUT.FLIP.PROB * cfg.INPUT.FLIP.ENABLED
    )
    check_schedule(cfg, len(captions), captions.num_classes)
    cv2.setNumThreads(0)  # in each worker process its threads would only be in the way
    return build_reid_train_loader(cfg, train_set=captions)


def build_test_loader(cfg: CfgNode, dataset_name: str) -> tuple[ChainedLoader, int]:
    """FastReID's test loaders over the images and then the captions of a set, and the number of captions.

    Raises:
        DataError: as `CaptionDataset`.
    """
    dataset = build_captions(dataset_name, **_options(cfg, dataset_name))
    transform = build_transforms(cfg, is_train=False)
    gallery = TextImageSet(dataset.gallery, tuple(cfg.INPUT.SIZE_TEST), transform, texts=False)
    queries = TextSet(dataset.query)
    cv2.setNumThreads(0)
    workers = cfg.DATALOADER.NUM_WORKERS  # FastReID itself has four here, whatever the configuration says
    loaders = [
        build_reid_test_loader(test_set, cfg.TEST.IMS_PER_BATCH, 0, num_workers)[0]
        for test_set, num_workers in ((gallery, workers), (queries, 0))
    ]
    return ChainedLoader(*loaders), len(queries)


def _without_flip(cfg: CfgNode) -> ImageTransform:
    changed = cfg.clone()
    changed.defrost()
    changed.INPUT.FLIP.ENABLED = False
    return build_transforms(changed, is_train=True)


def _options(cfg: CfgNode, name: str) -> dict[str, Any]:
    """Identities are held out only of a set whose val split is evaluated on."""
    has_val = name.removesuffix(VAL_SUFFIX) + VAL_SUFFIX in cfg.DATASETS.TESTS
    return {"val_share": cfg.T2IREID.VAL_SHARE if has_val else 0.0, "val_seed": cfg.T2IREID.VAL_SEED}
