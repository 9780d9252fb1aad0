"""`CaptionDataset`: images with captions as a torchreid dataset."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from PIL import Image
from torchreid import data as torchreid_data

from t2ireid_plugin.data.annotations import Photo, count, read_photos
from t2ireid_plugin.data.benchmarks import SPLITS, BenchmarkSpec
from t2ireid_plugin.data.transforms import read_image
from t2ireid_plugin.errors import DataError

# A camera that no gallery image has: torchreid's evaluator drops gallery images with the query's identity and
# camera, and with its photo's camera a sentence would lose the very image that it describes.
TEXT_CAMERA = -1

Item = tuple[str, int, int, int, str, str, str]


class CaptionDataset(torchreid_data.ImageDataset):
    """A text-to-image benchmark; one item a caption, ``(path, pid, camid, dsetid, caption, id_text, cloth_text)``.

    Training items are images with one caption each, identities numbered 0…n−1. Query items are texts: every caption
    of the evaluated split, without its image. Gallery items are the split's images, each once. That is the official
    protocol: a match is an equal identity, and no camera filter takes effect.

    Args:
        root: the folder that holds the benchmark's folder.
        spec: the benchmark.
        eval_split: the split that ``query`` and ``gallery`` come from.
        **kwargs: torchreid's, such as ``mode`` (train, query, gallery) and ``transform``; its settings for other
            datasets are ignored.

    Raises:
        DataError: as `read_photos`, and when a split is empty or ``combineall`` is set.
    """

    def __init__(self, root: str | Path = "", *, spec: BenchmarkSpec, eval_split: str = "test", **kwargs: Any) -> None:
        if kwargs.get("combineall"):
            raise DataError(f"{spec.name}: data.combineall would train on the test identities")
        photos = read_photos(root, spec)
        self.spec = spec
        self.eval_split = eval_split
        self.counts = {split: count(p for p in photos if p.split == split) for split in SPLITS}
        for split in ("train", eval_split):
            if not self.counts[split].images:
                raise DataError(f"{spec.name}: the annotation has no images of the split '{split}'")
        cameras = {camera: i for i, camera in enumerate(sorted({p.camera for p in photos}))}
        train_pids = {pid: i for i, pid in enumerate(sorted({p.pid for p in photos if p.split == "train"}))}
        train = [
            item
            for photo in photos
            if photo.split == "train"
            for item in _caption_items(photo, train_pids[photo.pid], cameras[photo.camera])
        ]
        evaluated = [photo for photo in photos if photo.split == eval_split]
        query = [item for photo in evaluated for item in _caption_items(photo, photo.pid, TEXT_CAMERA)]
        gallery = [(photo.path, photo.pid, cameras[photo.camera], 0, "", "", "") for photo in evaluated]
        self._kept: dict[str, Image.Image] | None = None
        self._kept_size = (0, 0)
        super().__init__(train, query, gallery, **kwargs)

    def keep_images(self, width: int, height: int) -> None:
        """From now on keeps each image in memory once it was read, resized as torchreid's transforms begin anyway.

        Worth it for small images read by the training process itself: worker processes forget them every epoch.
        """
        self._kept, self._kept_size = {}, (width, height)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Texts and labels of an item and, unless it is a query, its image ``img [3, H, W]``."""
        path, pid, camid, dsetid, caption, id_text, cloth_text = self.data[index]
        item = {
            "pid": pid,
            "camid": camid,
            "impath": path,
            "dsetid": dsetid,
            "caption": caption,
            "id_text": id_text,
            "cloth_text": cloth_text,
        }
        if self.mode != "query":
            image = self._read(path)
            item["img"] = image if self.transform is None else self._transform_image(self.transform, self.k_tfm, image)
        return item

    def _read(self, path: str) -> Image.Image:
        if self._kept is None:
            return read_image(path)
        if path not in self._kept:
            self._kept[path] = read_image(path).resize(self._kept_size, Image.Resampling.BILINEAR)
        return self._kept[path]

    def __add__(self, other: CaptionDataset) -> CaptionDataset:
        """Both training sets, the other's identities, cameras and dataset numbers moved past ours."""
        if not isinstance(other, CaptionDataset):
            raise DataError(f"{self.spec.name} has captions and cannot be joined with {type(other).__name__}")
        joined = copy.copy(self)
        joined.train = self.train + [
            (path, pid + self.num_train_pids, camid + self.num_train_cams, dsetid + self.num_datasets, *texts)
            for path, pid, camid, dsetid, *texts in other.train
        ]
        joined.num_train_pids = self.num_train_pids + other.num_train_pids
        joined.num_train_cams = self.num_train_cams + other.num_train_cams
        joined.num_datasets = self.num_datasets + other.num_datasets
        joined.data = joined.train if self.mode == "train" else self.data
        return joined

    def show_summary(self) -> None:
        """Prints the counts of each split beside the publishers'."""
        print(f"=> Loaded {self.spec.name} (evaluating on {self.eval_split})")
        print(f"  {'split':<6} {'images':>8} {'ids':>8} {'captions':>9}   official images / ids / captions")
        for split, counts in self.counts.items():
            row = f"  {split:<6} {counts.images:>8} {counts.ids:>8} {counts.captions:>9}"
            official = self.spec.official.get(split)
            if official is not None:
                note = "the same" if official == counts else " / ".join(f"{n:,}" for n in official)
                row += f"   {note}"
            print(row)


def _caption_items(photo: Photo, pid: int, camid: int) -> list[Item]:
    return [(photo.path, pid, camid, 0, *texts) for texts in zip(photo.captions, photo.id_texts, photo.cloth_texts)]
