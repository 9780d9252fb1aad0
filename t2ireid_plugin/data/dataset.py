"""`CaptionDataset`: images with captions as a torchreid dataset."""

from __future__ import annotations

import contextlib
import copy
import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from PIL import Image
from torch import Tensor
from torchreid import data as torchreid_data

from t2ireid_plugin.data.annotations import read_photos
from t2ireid_plugin.data.benchmarks import SPLITS, BenchmarkSpec, Counts
from t2ireid_plugin.data.image_files import shared_images
from t2ireid_plugin.data.images import Pixels, read_pixels
from t2ireid_plugin.data.item_table import CAMID, CAPTION, NO_TEXT, OUTFIT, PATH, PID, SPLIT_CAPTION, ItemTable, Texts
from t2ireid_plugin.data.large_table import LargeTable
from t2ireid_plugin.data.pretraining import PretrainingSpec
from t2ireid_plugin.data.sampling import SampleKey
from t2ireid_plugin.data.transforms import TestTransform, TrainTransform
from t2ireid_plugin.errors import DataError

logger = logging.getLogger(__name__)

# Camera of every query, which no gallery image has. torchreid's evaluator excludes gallery images with the query's
# identity and camera; with the camera of its photo a caption would lose the very image that it describes.
TEXT_CAMERA = -1
# Share of the training identities held out for validation where a benchmark has no val split.
VAL_SHARE = 0.05
_MOST_NEXT = 100  # items of a pre-training set that are tried in place of one whose image cannot be decoded


class CaptionDataset(torchreid_data.ImageDataset):
    """A text-to-image benchmark with items ``(path, pid, camid, dsetid, caption, id_text, cloth_text)``.

    A training item is an image with one of its captions; identities are renumbered 0…n-1. A query item is a caption of
    the evaluated split, without its image. A gallery item is an image of that split, once. This is the official
    protocol: a match has the same identity, and no gallery image is excluded by its camera.

    Args:
        root: folder that contains the benchmark's folder.
        spec: the benchmark.
        eval_split: split that ``query`` and ``gallery`` come from.
        val_share: share of the training identities that becomes the val split where the benchmark has none, of 100
            or more at least 20; with 0 all of them are trained on.
        val_seed: seed of the draw of these identities.
        **kwargs: torchreid's, such as ``mode`` (train, query, gallery) and ``transform``; its settings for other
            datasets are ignored.

    A split may be missing until it is asked for, by ``mode``, `with_mode` or `with_eval_split`.

    Raises:
        DataError: as `read_photos`, and when the split of ``mode`` is empty or ``combineall`` is set.
    """

    def __init__(
        self,
        root: str | Path = "",
        *,
        spec: BenchmarkSpec,
        eval_split: str = "test",
        val_share: float = VAL_SHARE,
        val_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("combineall"):
            raise DataError(f"{spec.name}: data.combineall would train on the test identities; set it to False")
        splits = _read_splits(root, spec)
        self.spec, self.eval_split = spec, eval_split
        holds_out = spec.holds_out_val and "val" not in splits and val_share > 0
        self._splits = _hold_out(splits, val_share, val_seed) if holds_out else splits
        self.held_out = holds_out and "val" in self._splits
        self.counts = dict.fromkeys(SPLITS, Counts(0, 0, 0))
        for split, items in self._splits.items():
            images = _searched(items, spec).distinct(PATH)
            self.counts[split] = Counts(images, items.distinct(PID), len(items.described()))
        self._images: dict[str, Pixels] | None = None
        self._replace_bad = False
        some = next(iter(splits.values()))  # torchreid refuses empty parts, so it gets others until they are set
        super().__init__(some, some, some, **kwargs)
        self.train = self._items("train").renumbered()
        self.num_train_pids, self.num_train_cams = self.train.distinct(PID), self.train.distinct(CAMID)
        self.query, self.gallery, self.references = self._evaluated(eval_split)
        self.data = getattr(self, self.mode)
        if "mode" in kwargs:
            self._check_not_empty()

    def pids(self, split: str) -> list[int]:
        """The identities of a split as annotated, sorted; training numbers them in this order."""
        pids: list[int] = self._items(split).columns[:, PID].unique().tolist()
        return pids

    def with_mode(self, mode: str, transform: TestTransform | None) -> CaptionDataset:
        """The same dataset as train, query, gallery or references items; nothing is read again.

        Raises:
            DataError: when the split of these items is empty.
        """
        other = copy.copy(self)
        other.mode, other.transform, other.data = mode, transform, getattr(self, mode)
        other._check_not_empty()
        return other

    def with_eval_split(self, split: str) -> CaptionDataset:
        """The same dataset with the queries and gallery of another split; nothing is read again."""
        other = copy.copy(self)
        other.eval_split = split
        other.query, other.gallery, other.references = self._evaluated(split)
        other.data = getattr(other, other.mode)
        return other

    def keep_images(self) -> None:
        """From now on keeps each image in memory, resized, after it was read once.

        Meant for small images read by the training process itself; worker processes lose the cache every epoch.
        """
        self._images = {}

    def replace_bad_images(self) -> None:
        """From now on replaces an item whose image cannot be decoded by another image of the same identity.

        In a pre-training set, where most identities have one image, the next item with a readable one takes its place.
        Its ``bad_image`` then contains the error message; for other items it is empty. The replacement depends on the
        item's seed alone, so every process chooses the same one.
        """
        self._replace_bad = True

    def __getitem__(self, index: int | SampleKey) -> dict[str, Any]:
        """Texts and labels of an item and, unless it is a query, its image ``img [3, H, W]`` with further views.

        The seed of a `SampleKey` determines all random changes to the image and its texts.

        Raises:
            DataError: when the image cannot be decoded and is not replaced, see `replace_bad_images`.
        """
        if not self._replace_bad:
            return self._item(index)
        try:
            return {**self._item(index), "bad_image": ""}
        except DataError as error:
            return {**self._substitute(index, error), "bad_image": str(error)}

    def _item(self, index: int | SampleKey) -> dict[str, Any]:
        number, source = (index.item, random.Random(index.seed)) if isinstance(index, SampleKey) else (index, None)
        path, pid, camid, dsetid, *texts = self.data[number]
        outfit = int(self.data.columns[number, OUTFIT])
        item = {"pid": pid, "camid": camid, "impath": path, "dsetid": dsetid, "outfit": outfit, "index": number}
        if self.mode != "query":
            images, texts = self._images_of(path, tuple(texts), source)
            item.update(images)
        return {**item, **dict(zip(("caption", "id_text", "cloth_text"), texts, strict=True))}

    def _substitute(self, index: int | SampleKey, error: DataError) -> dict[str, Any]:
        """A random item of the same identity with another image; of a pre-training set the next item that has one."""
        key = index if isinstance(index, SampleKey) else SampleKey(index, 0)
        columns = self.data.columns
        if isinstance(self.data, LargeTable):  # the next ones, which are in the same shard
            others = [(key.item + step) % len(columns) for step in range(1, 1 + _MOST_NEXT)]
        else:
            path, pid = columns[key.item, [PATH, PID]]
            others = torch.nonzero((columns[:, PID] == pid) & (columns[:, PATH] != path)).flatten().tolist()
            random.Random(key.seed).shuffle(others)
        for item in others:
            with contextlib.suppress(DataError):  # reported when that item itself is drawn
                return self._item(SampleKey(item, key.seed))
        where = f"the next {_MOST_NEXT} captions have" if isinstance(self.data, LargeTable) else "its identity has"
        raise DataError(f"{error}, and {where} no other readable image to replace it") from error

    def _images_of(
        self, path: str, texts: tuple[str, ...], source: random.Random | None
    ) -> tuple[dict[str, Any], Sequence[str]]:
        """The transformed image ``img`` with its further views, and texts; torchreid's transforms read a PIL image."""
        transform = self.transform
        if not isinstance(transform, TestTransform):
            image = Image.fromarray(read_pixels(path))
            return {"img": image if transform is None else self._transform_image(transform, self.k_tfm, image)}, texts
        pixels = self._pixels(path)
        if not isinstance(transform, TrainTransform):
            return {"img": transform.tensor(pixels)}, texts
        source = source or random.Random(random.getrandbits(64))
        changed, texts = transform.change(pixels, texts, source, self._random_pixels)
        views = transform.further_views(path, pixels, source, self._random_pixels)
        return {"img": transform.tensor(changed), **views}, texts

    def _pixels(self, path: str) -> Pixels:
        """An image at the model's size, from the cache of `keep_images` if there is one."""
        if self._images is None:
            return self.transform.load(path)
        if path not in self._images:
            self._images[path] = self.transform.load(path)
        return self._images[path]

    def _random_pixels(self, source: random.Random) -> Pixels:
        """The image of a random item; with `replace_bad_images` the next draw where it cannot be decoded."""
        path = self.data[source.randrange(len(self.data))][0]
        try:
            return self._pixels(path)
        except DataError:
            if not self._replace_bad:
                raise
        return self._random_pixels(source)

    def tensor(self, path: str, mirrored: bool = False) -> Tensor:
        """An image ``[3, H, W]`` as the model reads it, perhaps mirrored, without other random changes."""
        pixels = self._pixels(path)
        return self.transform.tensor(cv2.flip(pixels, 1) if mirrored else pixels)

    def get_num_pids(self, data: ItemTable) -> int:
        """Number of identities, without decoding every item as torchreid's method does."""
        return data.distinct(PID)

    def get_num_cams(self, data: ItemTable) -> int:
        """Number of cameras, without decoding every item."""
        return data.distinct(CAMID)

    def get_num_datasets(self, data: ItemTable) -> int:
        """Always 1; `__add__` counts the datasets that it joins."""
        return 1

    def __add__(self, other: CaptionDataset) -> CaptionDataset:
        """Both training sets, with distinct identities, cameras and dataset numbers."""
        if not isinstance(other, CaptionDataset):
            raise DataError(f"{self.spec.name} has captions and cannot be joined with {type(other).__name__}")
        joined = copy.copy(self)
        cameras = int(self.train.columns[:, CAMID].max()) + 1  # numbers may have gaps: cameras of other splits
        joined.train = self.train.joined(other.train, (self.num_train_pids, cameras, self.num_datasets))
        joined.num_train_pids = self.num_train_pids + other.num_train_pids
        joined.num_train_cams = self.num_train_cams + other.num_train_cams
        joined.num_datasets = self.num_datasets + other.num_datasets
        joined.data = joined.train if self.mode == "train" else self.data
        return joined

    def show_summary(self, counts: bool = True) -> None:
        """Prints the name, and the ``counts`` of each split beside the publishers'."""
        print(f"=> Loaded {self.spec.name} (evaluating on {self.eval_split})")
        if counts:
            print(self.spec.counts_table(self.counts, self.held_out))

    def _check_not_empty(self) -> None:
        if not len(self.data):
            split = "train" if self.mode == "train" else self.eval_split
            advice = "; choose another set in data.val, or train without one: data.val []" if split == "val" else ""
            what = "captions" if self.mode == "query" and len(self.gallery) else "images"
            raise DataError(f"{self.spec.name}: the annotation has no {what} of the split '{split}'{advice}")

    def _items(self, split: str) -> ItemTable:
        return self._splits.get(split, next(iter(self._splits.values()))[:0])

    def _evaluated(self, split: str) -> tuple[ItemTable, ItemTable, ItemTable]:
        """Query and gallery, and in composed search the photos of the queries."""
        items = self._items(split)
        described = items.described()
        references = described.images() if self.spec.composed else described[:0]
        return described.with_column(CAMID, TEXT_CAMERA), _searched(items, self.spec).images(), references


def warn_of_shared_images(sources: Sequence[CaptionDataset], targets: Mapping[str, CaptionDataset]) -> None:
    """Logs how many images of each target's gallery are training images too, copies included."""
    train = [path for source in sources for path in source.train.paths()]
    for name, target in targets.items():
        if shared := shared_images(target.gallery.paths(), train):
            logger.warning(
                "%s: gallery images that are training images too: %d, such as '%s', which is '%s'; its metrics are "
                "too high",
                name,
                len(shared),
                *shared[0],
            )


def _read_splits(root: str | Path, spec: BenchmarkSpec) -> dict[str, ItemTable]:
    """The captions of each split that is not empty, with identities as annotated; all tables share their strings."""
    if isinstance(spec, PretrainingSpec):
        return {"train": spec.table(root)}
    photos = read_photos(root, spec)
    cameras = {camera: i for i, camera in enumerate(sorted({photo.camera for photo in photos}))}
    strings: list[str] = []
    rows: dict[str, list[tuple[int, ...]]] = {split: [] for split in SPLITS}
    for photo in photos:
        strings.append(photo.path)
        labels = (len(strings), photo.pid, cameras[photo.camera], 0, photo.outfit)
        if not photo.texts:
            rows[photo.split].append((*labels, NO_TEXT, NO_TEXT, NO_TEXT))
        for texts in photo.texts:
            numbers = []
            for text in texts:
                if text is not None:
                    strings.append(text)
                numbers.append(SPLIT_CAPTION if text is None else len(strings))
            rows[photo.split].append((*labels, *numbers))
    table = Texts(strings)
    return {split: ItemTable(table, torch.tensor(items)) for split, items in rows.items() if items}


def _searched(items: ItemTable, spec: BenchmarkSpec) -> ItemTable:
    """The items of the photos that queries search: of composed search those without a caption, else all."""
    return ItemTable(items.texts, items.columns[items.columns[:, CAPTION] == NO_TEXT]) if spec.composed else items


def _hold_out(splits: dict[str, ItemTable], share: float, seed: int) -> dict[str, ItemTable]:
    """Moves a share of the training identities to val: of 100 or more at least 20, else at least one, never all."""
    train = splits.get("train")
    if train is None:
        return splits
    pids = train.columns[:, PID].unique()
    number = min(max(20 if len(pids) >= 100 else 1, round(len(pids) * share)), len(pids) - 1)
    if number == 0:
        return splits
    val_pids = pids[torch.randperm(len(pids), generator=torch.Generator().manual_seed(seed))[:number]]
    is_val = torch.isin(train.columns[:, PID], val_pids)
    parts = {"train": train.columns[~is_val], "val": train.columns[is_val]}
    return splits | {split: ItemTable(train.texts, columns) for split, columns in parts.items()}
