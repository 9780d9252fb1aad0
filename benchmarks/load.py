"""Memory of an evaluation on a large gallery of image files, with tiny encoders, in a separate process."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from benchmarks.machine import memory_peak, memory_used, reset_memory_peak
from benchmarks.tiny import draw_people, in_subprocess, tiny_cfg
from t2ireid_plugin.engine.build import build_run
from t2ireid_plugin.errors import DataError

_FILES_PER_FOLDER = 1000
_BATCH = 100  # captions at a time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``tools/benchmark.py load``."""
    parser.add_argument("--gallery", type=int, default=100_000, metavar="N", help="images of the gallery (100000)")
    parser.add_argument("--queries", type=int, default=2000, metavar="N", help="captions used as queries (2000)")
    parser.add_argument("--most-mb", type=int, default=2000, metavar="N", help="fail above this memory (2000)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Writes the gallery, evaluates it, prints the memory and returns the figures.

    Raises:
        DataError: when the evaluation takes more than ``--most-mb`` in all.
    """
    with tempfile.TemporaryDirectory() as folder:
        draw_people(Path(folder))
        _write_gallery(Path(folder) / "CUHK-PEDES", options.gallery)
        figures = in_subprocess("benchmarks.load", root=folder, queries=options.queries)
    print(
        f"{figures['gallery']:,} images, {figures['queries']:,} queries: peak {figures['peak_mb']:.0f} MB, of which "
        f"{figures['start_mb']:.0f} MB before any data was loaded; {figures['seconds']:.0f} s"
    )
    if figures["peak_mb"] > options.most_mb:
        raise DataError(f"the evaluation took {figures['peak_mb']:.0f} MB, more than {options.most_mb}")
    return figures


def _write_gallery(folder: Path, images: int) -> None:
    """Adds test rows with this many image files, four per person: copies of the drawn ones."""
    file = folder / "reid_raw.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    drawn = [row for row in rows if row["split"] == "test"]
    first_id = 1 + max(row["id"] for row in rows)
    for number in range(images):
        row = drawn[number % len(drawn)]
        path = f"gallery/{number // _FILES_PER_FOLDER}/{number}.jpg"
        target = folder / "imgs" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / "imgs" / row["file_path"], target)  # a link would be the same gallery entry
        one = {key: row[key][:1] for key in row if key.endswith("captions")}
        rows.append({**row, **one, "file_path": path, "id": first_id + number // 4})
    file.write_text(json.dumps([row for row in rows if row not in drawn]), encoding="utf-8")


def _evaluate(root: str, queries: int) -> dict[str, Any]:
    """Evaluates the official protocol on the test split, as `t2ireid test` does, with the first ``queries``."""
    start = memory_used()
    reset_memory_peak()
    began = time.perf_counter()
    engine = build_run(tiny_cfg(Path(root), Path(root) / "log"), None)
    (target,) = engine.test_targets
    loaders = engine.test_loader[target]
    captions = loaders["query"].dataset
    captions.data = captions.data[:queries]
    loaders["query"] = DataLoader(captions, batch_size=_BATCH)
    metrics = engine.evaluate_protocols([target], ["t2i"])[0].metrics
    return {
        "gallery": metrics["gallery"],
        "queries": metrics["queries"],
        "start_mb": start / 1e6,
        "peak_mb": memory_peak() / 1e6,
        "seconds": time.perf_counter() - began,
    }


if __name__ == "__main__":
    print(json.dumps(_evaluate(**json.loads(sys.argv[1]))))
