"""Start of a training on millions of images with captions: CPU time and memory, on a made-up annotation.

The annotation has SYNTH-PEDES's form and about its length of captions. Each start is a new process that does what
``t2ireid train`` does up to the first step, with tiny encoders: it builds model, data and engine and draws the order of
an epoch. Then it reads the captions of many random items. There are no image files; their paths alone are read.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import memory_peak, memory_used
from benchmarks.tiny import draw_people, in_subprocess, tiny_cfg
from t2ireid_plugin.config import merge
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.utils.text import text_table

_WORDS = re.findall(
    r"\w+",
    "man woman person young walking standing with short long black brown hair wearing white blue red gray shirt jacket "
    "coat trousers jeans skirt shoes sneakers carrying backpack handbag over left right shoulder dark light striped",
)
_MEMORY = ("libraries_mb", "end_mb", "peak_mb")
_PER_SHARD = 2000  # images
_STARTS = {"folders, first": False, "folders": False, "shards, first": True, "shards": True}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``tools/benchmark.py pretraining``."""
    parser.add_argument("--images", type=int, default=5_000_000, metavar="N", help="rows of the annotation (5000000)")
    parser.add_argument("--read", type=int, default=20_000, metavar="N", help="items whose captions are read (20000)")
    parser.add_argument("--most-mb", type=int, default=2000, metavar="N", help="fail above this memory (2000)")
    parser.add_argument("--most-seconds", type=int, default=120, metavar="N", help="fail above this CPU time (120)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Writes the annotation, measures the starts, prints the table and returns the figures.

    Raises:
        DataError: when a start takes more than ``--most-mb`` or ``--most-seconds``.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw_people(root)
        size = _write_annotation(root / "SYNTH-PEDES", options.images)
        starts = {}
        for name, sharded in _STARTS.items():
            if sharded and not (root / "SYNTH-PEDES" / "shards").exists():
                _write_lists(root / "SYNTH-PEDES", options.images)
            starts[name] = in_subprocess("benchmarks.pretraining", root=folder, read=options.read)
    rows = [[name, f"{row['seconds']:.1f}", *(f"{row[key]:.0f}" for key in _MEMORY)] for name, row in starts.items()]
    print(f"{options.images:,} images, {starts['folders']['captions']:,} captions, {size / 1e9:.2f} GB of JSON")
    print(text_table(["images in", "CPU seconds", "MB of libraries", "MB in training", "peak MB"], rows))
    check(starts, options.most_mb, options.most_seconds)
    return {"images": options.images, "annotation_bytes": size, "read": options.read, "starts": starts}


def check(starts: Mapping[str, Mapping[str, Any]], most_mb: float, most_seconds: float) -> None:
    """Compares the starts with the limits.

    Raises:
        DataError: when one takes more.
    """
    for name, row in starts.items():
        if row["peak_mb"] > most_mb or row["seconds"] > most_seconds:
            raise DataError(f"{name}: {row['seconds']:.0f} s and {row['peak_mb']:.0f} MB, more than allowed")


def _write_annotation(folder: Path, images: int) -> int:
    """A row per image, 15 images per person, two or three captions of 23 words on average; returns the bytes."""
    folder.mkdir()
    draw = random.Random(0)
    captions = [" ".join(draw.choices(_WORDS, k=draw.randint(14, 32))).capitalize() + "." for _ in range(10_000)]
    file = folder / "synthpedes_dataset.json"
    with open(file, "w", encoding="utf-8") as stream:
        for number in range(images):
            row = {
                "id": number // 15,
                "file_path": _name(number),
                "attributes": ["man,black hair,black shirt,pink shorts,black shoes,unknown"],
                "captions": [f"{draw.choice(captions)} {number}" for _ in range(2 + number % 2)],
                "prompt_caption": [draw.choice(captions)],
            }
            stream.write(("[" if number == 0 else ",\n") + json.dumps(row))
        stream.write("]")
    return file.stat().st_size


def _write_lists(folder: Path, images: int) -> None:
    """Lists of the names in each shard, in random order; the shards themselves are empty files."""
    order = list(range(images))
    random.Random(1).shuffle(order)
    (folder / "shards").mkdir()
    for start in range(0, images, _PER_SHARD):
        file = folder / "shards" / f"{start // _PER_SHARD:05}.txt"
        file.write_text("".join(f"{_name(number)}\n" for number in order[start : start + _PER_SHARD]))
        file.with_suffix(".tar").touch()


def _name(number: int) -> str:
    return f"Part{1 + number * 11 // 5_000_000}/{number // 15}/{number}.jpg"


def _start(root: str, read: int) -> dict[str, Any]:
    """One start, and the reading of captions of random items, as training reads them."""
    from t2ireid_plugin.engine.build import build_run

    os.environ["XDG_CACHE_HOME"] = os.path.join(root, "cache")
    cfg = tiny_cfg(Path(root), Path(root) / "log", batch_size=1024)
    terms = {name: {"weight": 1.0 if name == "sdm" else 0.0} for name in ("sdm", "cls", "triplet", "info_nce", "bio")}
    data = {"sources": ["synthpedes"], "val": [], "workers": 0}
    merge(cfg, {"data": data, "sampler": {"train_sampler": "RandomSampler"}, "loss": {"terms": terms}}, "benchmark")
    before = memory_used()
    engine = build_run(cfg)
    loader = engine.train_loader
    batches = iter(loader.batch_sampler)
    first = next(batches)
    seconds = _cpu_seconds()
    for _ in range(max(1, read // len(first)) - 1):
        for key in next(batches):
            assert loader.dataset.train[key.item][4]
    return {
        "captions": len(loader.dataset.train),
        "seconds": seconds,  # of the process, its libraries included
        "libraries_mb": before / 1e6,
        "end_mb": memory_used() / 1e6,
        "peak_mb": memory_peak() / 1e6,
    }


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    print(json.dumps(_start(**json.loads(sys.argv[1]))))
