"""Image reading and transforms against torchreid's, and loading of an annotation of CUHK-PEDES's size."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torchreid import data as torchreid_data
from torchreid import utils as torchreid_utils

from t2ireid_plugin.data.benchmarks import CUHKPEDES
from t2ireid_plugin.data.dataset import CaptionDataset
from t2ireid_plugin.data.images import read_pixels, resize
from t2ireid_plugin.data.transforms import TestTransform, TrainTransform
from t2ireid_plugin.synthetic import write_synthetic
from t2ireid_plugin.utils.text import text_table

MEAN, STD = [0.5] * 3, [0.5] * 3
# Height and width of crops: Market-1501's, a usual one, a large one; and of the model's input.
CROPS = ((128, 64), (260, 100), (420, 170))
SIZES = ((384, 128), (224, 224))
CHANGES = ["random_flip", "random_crop", "random_erase"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``tools/benchmark.py data``."""
    parser.add_argument("--images", type=int, default=200, metavar="N", help="JPEG files of each size (200)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="measurements of each, in turns (7)")
    parser.add_argument("--rows", type=int, default=40_206, metavar="N", help="rows of the large annotation (40206)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Times both sides in turns in this process, on one thread; prints a table and returns the figures."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            crops = [_write_images(Path(folder) / f"{crop[0]}", options.images, *crop) for crop in CROPS]
            rows = [_compare(paths, crop, size, options.rounds) for size in SIZES for crop, paths in zip(CROPS, crops)]
            dataset = _dataset_seconds(Path(folder) / "large", options.rows)
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])
    table = []
    for row in rows:
        test, train = row["test"], row["training"]
        rates = f"{test['torchreid']:.0f}/s", f"{test['ours']:.0f}/s"
        table.append([row["what"], *rates, f"{test['ratio']:.2f}x", f"{train['ratio']:.2f}x"])
    print(text_table(["crop -> input", "torchreid", "ours", "ratio", "training"], table))
    print(f"dataset of {dataset['captions']:,} captions in {dataset['images']:,} images: {dataset['seconds']:.2f} s")
    return {"images": options.images, "transforms": rows, "dataset": dataset}


def _compare(paths: Sequence[str], crop: Sequence[int], size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Times the way from files to test tensors and to training tensors on both sides."""
    ours, ours_train = TestTransform(*size, MEAN, STD), TrainTransform(*size, MEAN, STD, CHANGES)
    with contextlib.redirect_stdout(io.StringIO()):  # torchreid prints what it builds
        build = torchreid_data.transforms.build_transforms
        train, test = build(*size, transforms=CHANGES, norm_mean=MEAN, norm_std=STD)
    read = torchreid_utils.read_image
    return {
        "what": f"{crop[0]}x{crop[1]} -> {size[0]}x{size[1]}",
        "test": _timed(lambda path: test(read(path)), lambda path: ours.tensor(ours.load(path)), paths, rounds),
        "training": _timed(
            lambda path: train(read(path)),
            lambda path: ours_train.tensor(ours_train.change(ours_train.load(path))[0]),
            paths,
            rounds,
        ),
    }


def _timed(
    theirs: Callable[[str], Any], ours: Callable[[str], Any], paths: Sequence[str], rounds: int
) -> dict[str, Any]:
    """Images per second of both sides, and the median and range of their ratio over the rounds."""
    seconds: dict[str, list[float]] = {"torchreid": [], "ours": []}
    for _ in range(rounds + 1):  # the first warms caches and is not counted
        for name, function in (("torchreid", theirs), ("ours", ours)):
            start = time.perf_counter()
            for path in paths:
                function(path)
            seconds[name].append(time.perf_counter() - start)
    times = {name: np.array(values[1:]) for name, values in seconds.items()}
    ratios = times["torchreid"] / times["ours"]
    rates = {name: len(paths) / float(np.median(values)) for name, values in times.items()}
    return {**rates, "ratio": float(np.median(ratios)), "ratio_range": [float(ratios.min()), float(ratios.max())]}


def _write_images(folder: Path, number: int, height: int, width: int) -> list[str]:
    """Writes drawn people as JPEG files of one size."""
    write_synthetic(folder, train_ids=8, val_ids=0, test_ids=0, progress=False)
    drawn = [read_pixels(path) for path in sorted((folder / "CUHK-PEDES" / "imgs").rglob("*.jpg"))]
    paths = []
    for i in range(number):
        path = folder / f"{i}.jpg"
        pixels = cv2.cvtColor(resize(drawn[i % len(drawn)], height, width), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(path), pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])
        paths.append(str(path))
    return paths


def _dataset_seconds(root: Path, number: int) -> dict[str, Any]:
    """Seconds to load a dataset of ``number`` images with two captions of 24 words each; the image files are empty."""
    source = random.Random(0)
    words = ("a", "young", "man", "with", "short", "black", "hair", "wears", "the", "red", "jacket", "and", "blue")
    rows = []
    for i in range(number):
        path = f"{('cam_a', 'cam_b', 'CUHK01', 'CUHK03', 'Market')[i % 5]}/{i:06}.jpg"
        split = "train" if i < 0.85 * number else "val" if i < 0.92 * number else "test"
        captions = [" ".join(source.choices(words, k=24)) for _ in range(2)]
        tokens = [caption.split() for caption in captions]
        pid = i // 3 + {"train": 0, "val": number, "test": 2 * number}[split]  # no person is in two splits
        rows.append({"split": split, "captions": captions, "file_path": path, "processed_tokens": tokens, "id": pid})
        (root / CUHKPEDES.folder / CUHKPEDES.images / path).parent.mkdir(parents=True, exist_ok=True)
        (root / CUHKPEDES.folder / CUHKPEDES.images / path).touch()
    (root / CUHKPEDES.folder / CUHKPEDES.annotations[0]).write_text(json.dumps(rows), encoding="utf-8")
    start = time.perf_counter()
    dataset = CaptionDataset(root, spec=CUHKPEDES, verbose=False)
    seconds = time.perf_counter() - start
    total = sum(counts.captions or 0 for counts in dataset.counts.values())
    return {"images": number, "captions": total, "seconds": seconds}
