"""Images with texts for FastReID's loaders and samplers."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import cv2
from fastreid.config import CfgNode
from fastreid.data import build_reid_test_loader, build_reid_train_loader
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.transforms import build_transforms
from fastreid.utils import comm
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset
from transformers import PreTrainedTokenizerBase

from t2ireid_plugin.data.annotations import check_images
from t2ireid_plugin.data.benchmarks import VAL_SUFFIX
from t2ireid_plugin.data.dataset import CaptionDataset
from t2ireid_plugin.data.images import read_pixels, resize
from t2ireid_plugin.data.item_table import PID, ItemTable, labels
from t2ireid_plugin.data.transforms import swap_sides
from t2ireid_plugin.integrations.fastreid.checks import check_schedule
from t2ireid_plugin.modeling.checkpoint import Checkpoint
from t2ireid_plugin.modeling.encoders.tokenizer import learn_wordpiece
from t2ireid_plugin.modeling.stored import read_stored


class TextImageSet(Dataset):
    """Images with their texts, which are empty in a gallery, under the keys of FastReID's batches.

    Images are read and resized by this package, so that the same weights give the same metrics as in its own training,
    then transformed as set in FastReID's ``INPUT``. The flip is ours, since it swaps left and right in the texts too.

    Args:
        items: of a `CaptionDataset`.
        size: height and width.
        transform: FastReID's, without a flip.
        flip: probability of a flip.
    """

    def __init__(
        self, items: ItemTable, size: tuple[int, int], transform: Callable[[Image.Image], Tensor], flip: float = 0.0
    ) -> None:
        self.items, self.size, self.transform, self.flip = items, size, transform, flip
        # Read by FastReID's samplers, which expect exactly these three fields.
        self.img_items = [label[:3] for label in labels(items)]
        self.num_classes = items.distinct(PID)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``images [3, H, W]`` from 0 to 255, ``targets``, ``camids``, ``img_paths`` and the texts."""
        path, pid, camid, _, *texts = self.items[int(index)]
        pixels = resize(read_pixels(path), *self.size)
        if self.flip and random.random() < self.flip:
            pixels, texts = cv2.flip(pixels, 1), [swap_sides(text) for text in texts]
        item = {"images": self.transform(Image.fromarray(pixels)), "targets": pid, "camids": camid, "img_paths": path}
        return {**item, **dict(zip(("captions", "id_texts", "cloth_texts"), texts))}


class ChainedLoader:
    """Chains loaders for FastReID's evaluation, which takes one."""

    def __init__(self, *loaders: Any) -> None:
        self.loaders = loaders
        self.dataset: ConcatDataset = ConcatDataset([loader.dataset for loader in loaders])

    def __len__(self) -> int:
        return sum(map(len, self.loaders))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return itertools.chain.from_iterable(self.loaders)


def _build(cfg: CfgNode, name: str, mode: str) -> CaptionDataset:
    """A registered dataset as train or gallery; identities are held out for validation only if that is evaluated."""
    has_val = name.removesuffix(VAL_SUFFIX) + VAL_SUFFIX in cfg.DATASETS.TESTS
    val_share = cfg.T2IREID.VAL_SHARE if has_val else 0.0
    root = os.getenv("FASTREID_DATASETS", "datasets")  # FastReID's data folder
    dataset = DATASET_REGISTRY.get(name)(root=root, val_share=val_share, val_seed=cfg.T2IREID.VAL_SEED)
    return dataset.captions.with_mode(mode, None)


def build_tokenizer(cfg: CfgNode) -> PreTrainedTokenizerBase | None:
    """The tokenizer stored in ``MODEL.WEIGHTS``, else one learned from the captions of ``DATASETS.NAMES``.

    None for a pretrained text encoder, which has its own.
    """
    if cfg.T2IREID.BERT_BASE_PATH:
        return None
    stored = read_stored(Checkpoint.read(cfg.MODEL.WEIGHTS)).tokenizer if cfg.MODEL.WEIGHTS else None
    if stored is not None:
        return stored
    texts = set().union(*(_build(cfg, name, "train").train.all_texts() for name in cfg.DATASETS.NAMES))
    return learn_wordpiece(texts, cfg.T2IREID.BERT_CONFIG.get("vocab_size", 2000))


def check_data(cfg: CfgNode) -> None:
    """Prints the counts of each dataset beside the published ones and checks that every image exists, before a run.

    Raises:
        DataError: when files are missing or broken.
    """
    modes = [(name, "train") for name in cfg.DATASETS.NAMES] + [(name, "gallery") for name in cfg.DATASETS.TESTS]
    for name, mode in modes:
        dataset = _build(cfg, name, mode)
        if comm.is_main_process():
            if mode == "train" or name not in cfg.DATASETS.NAMES:
                dataset.show_summary()
            check_images(dataset.data.paths())


def build_train_loader(cfg: CfgNode) -> Any:
    """FastReID's training loader and sampler over captions with their images.

    Raises:
        DataError: as `CaptionDataset`.
        ConfigError: when there are too few captions or identities for a batch.
    """
    joined: Any = sum(_build(cfg, name, "train") for name in cfg.DATASETS.NAMES)
    without_flip = cfg.clone()
    without_flip.defrost()
    without_flip.INPUT.FLIP.ENABLED = False
    transform = build_transforms(without_flip, is_train=True)
    flip = cfg.INPUT.FLIP.PROB * cfg.INPUT.FLIP.ENABLED
    captions = TextImageSet(joined.train, tuple(cfg.INPUT.SIZE_TRAIN), transform, flip)
    check_schedule(cfg, len(captions), captions.num_classes)
    cv2.setNumThreads(0)  # several worker processes use the cores already
    return build_reid_train_loader(cfg, train_set=captions)


def build_test_loader(cfg: CfgNode, dataset_name: str) -> tuple[ChainedLoader, int]:
    """FastReID's test loaders over the images, then the captions of a dataset, and the number of captions.

    Raises:
        DataError: as `CaptionDataset`.
    """
    dataset = _build(cfg, dataset_name, "gallery")
    transform = build_transforms(cfg, is_train=False)
    gallery = TextImageSet(dataset.gallery, tuple(cfg.INPUT.SIZE_TEST), transform)
    queries: Any = [
        {"captions": caption, "targets": pid, "camids": camid, "img_paths": path}
        for path, pid, camid, _, caption, *_ in dataset.query
    ]
    cv2.setNumThreads(0)
    workers = cfg.DATALOADER.NUM_WORKERS  # FastReID's own test loader always has 4
    loaders = [
        build_reid_test_loader(test_set, cfg.TEST.IMS_PER_BATCH, 0, num_workers)[0]
        for test_set, num_workers in ((gallery, workers), (queries, 0))
    ]
    return ChainedLoader(*loaders), len(queries)
