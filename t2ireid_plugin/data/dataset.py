"""`CaptionDataset`: images with captions as a torchreid dataset."""

from __future__ import annotations

import contextlib
import copy
import functools
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torchreid import data as torchreid_data

from t2ireid_plugin.data.annotations import INSTRUCTIONS, Photo, find_annotation, read_photos
from t2ireid_plugin.data.benchmarks import SPLITS, BenchmarkSpec, Counts, Official
from t2ireid_plugin.data.item_table import (
    CAMID,
    NO_TEXT,
    PATH,
    PID,
    SPLIT_CAPTION,
    ItemTable,
    Texts,
)
from t2ireid_plugin.data.sampling import SampleKey
from t2ireid_plugin.data.transforms import Pixels, TestTransform, read_pixels
from t2ireid_plugin.errors import DataError

# A camera that no gallery image has: torchreid's evaluator drops gallery images with the query's identity and
# camera, and with its photo's camera a sentence would lose the very image that it describes.
TEXT_CAMERA = -1
# Share of the training identities held out where a set has no val split.
VAL_SHARE = 0.05


class CaptionDataset(torchreid_data.ImageDataset):
    """A text-to-image benchmark; one item a caption, ``(path, pid, camid, dsetid, caption, id_text, cloth_text)``.

    Training items are images with one caption each, identities numbered 0…n−1. Query items are texts: every caption
    of the evaluated split, without its image. Gallery items are the split's images, each once. That is the official
    protocol: a match is an equal identity, and no camera filter takes effect.

    Args:
        root: the folder that holds the benchmark's folder.
        spec: the benchmark.
        eval_split: the split that ``query`` and ``gallery`` come from.
        val_share: where the set has no val split, the share of training identities that becomes one; with 0 there is
            none and all are trained on.
        val_seed: draws these identities.
        **kwargs: torchreid's, such as ``mode`` (train, query, gallery) and ``transform``; its settings for other
            datasets are ignored.

    Raises:
        DataError: as `read_photos`, and when a split is empty or ``combineall`` is set.
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
            raise DataError(f"{spec.name}: data.combineall would train on the test identities")
        loaded = load(root, spec)
        self.spec, self.eval_split = spec, eval_split
        self.held_out = bool(spec.holds_out_val and "val" not in loaded.photos and val_share > 0)
        if self.held_out:
            loaded = _hold_out(loaded, val_share, val_seed)
        self.counts = {split: _count(loaded, split) for split in SPLITS}
        for split in ("train", eval_split):
            if not self.counts[split].images:
                raise DataError(f"{spec.name}: the annotation has no images of the split '{split}'")
        train, query = loaded.captions["train"], loaded.captions[eval_split]
        _, labels = train.columns[:, PID].unique(return_inverse=True)
        gallery = loaded.photos[eval_split]
        self._kept: dict[str, Pixels] | None = None
        self._replaces = False
        super().__init__(train.with_column(PID, labels), query.with_column(CAMID, TEXT_CAMERA), gallery, **kwargs)

    def keep_images(self) -> None:
        """From now on keeps each image in memory once it was read and resized.

        Worth it for small images read by the training process itself: worker processes forget them every epoch.
        """
        self._kept = {}

    def replace_bad_images(self) -> None:
        """From now on an item whose image cannot be decoded gives way to another one of its person.

        Its ``bad_image`` then says what was wrong; elsewhere that is empty. Which item takes its place follows from
        the draw, so it is the same in each process.
        """
        self._replaces = True

    def __getitem__(self, index: int | SampleKey) -> dict[str, Any]:
        """Texts and labels of an item and, unless it is a query, its image ``img [3, H, W]``.

        A `SampleKey` says what the random changes to the image and its texts are; for a number alone they are any.

        Raises:
            DataError: when the image cannot be decoded and nothing takes its place, see `replace_bad_images`.
        """
        if not self._replaces:
            return self._item(index)
        try:
            return {**self._item(index), "bad_image": ""}
        except DataError as error:
            return {**self._substitute(index, error), "bad_image": str(error)}

    def _item(self, index: int | SampleKey) -> dict[str, Any]:
        number, source = (index.item, random.Random(index.seed)) if isinstance(index, SampleKey) else (index, None)
        path, pid, camid, dsetid, *texts = self.data[number]
        item = {"pid": pid, "camid": camid, "impath": path, "dsetid": dsetid}
        if self.mode != "query":
            item["img"], texts = self._image(path, tuple(texts), source)
        return {**item, **dict(zip(("caption", "id_text", "cloth_text"), texts, strict=True))}

    def _substitute(self, index: int | SampleKey, error: DataError) -> dict[str, Any]:
        """Another item of the same person, with another image, by lot."""
        draw = index if isinstance(index, SampleKey) else SampleKey(index, 0)
        columns = self.data.columns
        path, person = columns[draw.item, [PATH, PID]]
        others = torch.nonzero((columns[:, PID] == person) & (columns[:, PATH] != path)).flatten().tolist()
        random.Random(draw.seed).shuffle(others)
        for item in others:
            with contextlib.suppress(DataError):  # that one is met on its own
                return self._item(SampleKey(item, draw.seed))
        raise DataError(f"{error}, and the person has no other image that could take its place") from error

    def _image(self, path: str, texts: tuple[str, ...], source: random.Random | None) -> tuple[Any, Sequence[str]]:
        """The transformed image; our transforms change the texts with it, torchreid's take a PIL image alone."""
        transform = self.transform
        if isinstance(transform, TestTransform):
            return transform(self._pixels(path), texts, source, self._any_pixels)
        image = Image.fromarray(read_pixels(path))
        return (image if transform is None else self._transform_image(transform, self.k_tfm, image)), texts

    def _pixels(self, path: str) -> Pixels:
        """An image at the model's size, from memory where `keep_images` has it there."""
        if self._kept is None:
            return self.transform.load(path)
        if path not in self._kept:
            self._kept[path] = self.transform.load(path)
        return self._kept[path]

    def _any_pixels(self, source: random.Random) -> Pixels:
        """The image of some item; where bad ones are replaced, of one that can be decoded."""
        path = self.data[source.randrange(len(self.data))][0]
        try:
            return self._pixels(path)
        except DataError:
            if not self._replaces:
                raise
        return self._any_pixels(source)

    def get_num_pids(self, data: ItemTable) -> int:
        """Number of identities, without a look at every item."""
        return data.distinct(PID)

    def get_num_cams(self, data: ItemTable) -> int:
        """Number of cameras, without a look at every item."""
        return data.distinct(CAMID)

    def get_num_datasets(self, data: ItemTable) -> int:
        """Always one; joined datasets count themselves."""
        return 1

    def __add__(self, other: CaptionDataset) -> CaptionDataset:
        """Both training sets, the other's identities, cameras and dataset numbers moved past ours."""
        if not isinstance(other, CaptionDataset):
            raise DataError(f"{self.spec.name} has captions and cannot be joined with {type(other).__name__}")
        joined = copy.copy(self)
        cameras = (
            int(self.train.columns[:, CAMID].max()) + 1
        )  # not all of a set's cameras need be in its training split
        joined.train = self.train.joined(other.train, (self.num_train_pids, cameras, self.num_datasets))
        joined.num_train_pids = self.num_train_pids + other.num_train_pids
        joined.num_train_cams = self.num_train_cams + other.num_train_cams
        joined.num_datasets = self.num_datasets + other.num_datasets
        joined.data = joined.train if self.mode == "train" else self.data
        return joined

    def show_summary(self) -> None:
        """Prints the counts of each split beside the publishers'."""
        print(f"=> Loaded {self.spec.name} (evaluating on {self.eval_split})")
        print(f"  {'split':<9} {'images':>7} {'ids':>7} {'captions':>9}   official images / ids / captions")
        rows: dict[str, tuple[Counts, Official | None]]
        rows = {split: (counts, self.spec.official.get(split)) for split, counts in self.counts.items()}
        if self.held_out:  # the publishers count both as train
            train, val = self.counts["train"], self.counts["val"]
            together = Counts(train.images + val.images, train.ids + val.ids, train.captions + val.captions)
            rows = {
                "train": (train, None),
                "+ val": (val, None),  # held out from train
                "= train": (together, self.spec.official.get("train")),
                "test": rows["test"],
            }
        for split, (counts, official) in rows.items():
            cells = f"  {split:<9} {counts.images:>7} {counts.ids:>7} {counts.captions:>9}"
            print(f"{cells}   {_compared(counts, official)}".rstrip())


class Loaded(NamedTuple):
    """A benchmark's items by split, as annotated."""

    captions: dict[str, ItemTable]  # one item a caption
    photos: dict[str, ItemTable]  # one item an image, without texts


def load(root: str | Path, spec: BenchmarkSpec) -> Loaded:
    """A benchmark's items; read once for all datasets that are made of it, and again after an edit of its files.

    Raises:
        DataError: as `read_photos`.
    """
    file = find_annotation(root, spec)
    companion = file.parent / INSTRUCTIONS
    edited = tuple(path.stat().st_mtime_ns for path in (file, companion) if path.is_file())
    return _load(str(root), spec.name, edited)


@functools.lru_cache(maxsize=8)
def _load(root: str, spec_name: str, _edited: tuple[int, ...]) -> Loaded:
    from t2ireid_plugin.data.benchmarks import BENCHMARKS

    photos = read_photos(root, BENCHMARKS[spec_name])
    cameras = {camera: i for i, camera in enumerate(sorted({photo.camera for photo in photos}))}
    strings: list[str] = []
    caption_rows: dict[str, list[tuple[int, ...]]] = {split: [] for split in SPLITS}
    photo_rows: dict[str, list[tuple[int, ...]]] = {split: [] for split in SPLITS}
    for photo in photos:
        strings.append(photo.path)
        labels = (len(strings), photo.pid, cameras[photo.camera], 0)
        photo_rows[photo.split].append((*labels, NO_TEXT, NO_TEXT, NO_TEXT))
        caption_rows[photo.split] += [(*labels, *numbers) for numbers in _number_texts(photo, strings)]
    texts = Texts(strings)

    def tables(rows: dict[str, list[tuple[int, ...]]]) -> dict[str, ItemTable]:
        return {split: ItemTable(texts, torch.from_numpy(np.array(found))) for split, found in rows.items() if found}

    return Loaded(tables(caption_rows), tables(photo_rows))


def _number_texts(photo: Photo, strings: list[str]) -> list[tuple[int, int, int]]:
    """Adds a photo's texts to ``strings`` and gives the numbers of caption, identity and clothing text of each."""
    columns = []
    for texts in (photo.captions, photo.id_texts, photo.cloth_texts):
        if texts is None:
            columns.append([SPLIT_CAPTION] * len(photo.captions))
        else:
            columns.append(list(range(len(strings) + 1, len(strings) + len(texts) + 1)))
            strings += texts
    return list(zip(*columns, strict=True))


def view(dataset: Any, mode: str, transform: Callable[..., Any] | None) -> Any:
    """Any torchreid dataset for another use (train, query or gallery), without reading anything again."""
    other = copy.copy(dataset)
    other.mode, other.transform, other.data = mode, transform, getattr(dataset, mode)
    return other


def _hold_out(loaded: Loaded, share: float, seed: int) -> Loaded:
    """Moves a share of the training identities, at least one and never all, to val."""
    pids = loaded.photos["train"].columns[:, PID].unique()
    number = min(max(1, round(len(pids) * share)), len(pids) - 1)
    drawn = pids[torch.randperm(len(pids), generator=torch.Generator().manual_seed(seed))[:number]]

    def divided(tables: dict[str, ItemTable]) -> dict[str, ItemTable]:
        train = tables["train"]
        chosen = torch.isin(train.columns[:, PID], drawn)
        halves = {"train": train.columns[~chosen], "val": train.columns[chosen]}
        return {**tables, **{split: ItemTable(train.texts, columns) for split, columns in halves.items()}}

    return Loaded(divided(loaded.captions), divided(loaded.photos)) if number > 0 else loaded


def _count(loaded: Loaded, split: str) -> Counts:
    if split not in loaded.photos:
        return Counts(0, 0, 0)
    photos = loaded.photos[split]
    return Counts(photos.distinct(PATH), photos.distinct(PID), len(loaded.captions[split]))


def _compared(counts: Counts, official: Official | None) -> str:
    """The publishers' counts, marked where ours are others."""
    if official is None:
        return ""
    differs = any(theirs is not None and ours != theirs for ours, theirs in zip(counts, official, strict=True))
    return " / ".join("?" if n is None else f"{n:,}" for n in official) + ("   <- differs" if differs else "")
