"""Stock ResNet-50 against the same backbone with `DisentangleHead`, on images of drawn people, in torchreid's engine.

    t2ireid prepare synthetic data/synthetic --train-ids 2000
    python -m benchmarks.image_heads data/synthetic --out log/heads

Both train from random weights with torchreid's triplet engine, optimizer, sampler and evaluation for as many epochs,
from `configs/market1501_resnet50_t2ireid.yaml`. Finished runs are skipped. The people are written in Market-1501's
layout, with the number of a photo among those of its person as its camera; the first photo of a test person is a query.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np

from t2ireid_plugin.cli import main as t2ireid
from t2ireid_plugin.utils.atomic_io import atomic_folder

CONFIG = "configs/market1501_resnet50_t2ireid.yaml"
MODELS = {"resnet50": "resnet50", "DisentangleHead": "t2ireid_resnet50"}
METRICS = ("R@1", "mAP")


def write_market1501(source: Path, root: Path, people: int) -> None:
    """Links the photos of some training people and all test people of a CUHK-PEDES folder in Market-1501's layout."""
    rows = json.loads((source / "CUHK-PEDES" / "reid_raw.json").read_text(encoding="utf-8"))
    trained = sorted({row["id"] for row in rows if row["split"] == "train"})[:people]
    tested = sorted({row["id"] for row in rows if row["split"] == "test"})
    pids = {person: pid for pid, person in enumerate(trained + tested, 1)}  # torchreid knows them up to 1501
    seen: Counter[int] = Counter()
    with atomic_folder(root / "market1501", "--out") as folder:
        for part in ("bounding_box_train", "query", "bounding_box_test"):
            (folder / "Market-1501-v15.09.15" / part).mkdir(parents=True)
        for row in rows:
            if row["id"] in pids:
                seen[row["id"]] += 1
                number = seen[row["id"]]
                test = "query" if number == 1 else "bounding_box_test"
                part = "bounding_box_train" if row["split"] == "train" else test
                name = f"{pids[row['id']]:04}_c{number}s1_{number:06}_00.jpg"
                photo = (source / "CUHK-PEDES" / "imgs" / row["file_path"]).resolve()
                (folder / "Market-1501-v15.09.15" / part / name).symlink_to(photo)


def train(name: str, seed: int, root: Path, folder: Path, epochs: int) -> dict[str, float]:
    """R@1 and mAP of one training."""
    if not (folder / "results.json").is_file():
        steps = f"train.max_epoch {epochs} train.batch_size 32 train.lr 3.5e-4 train.staged_lr False"
        fixed = "train.fixbase_epoch 0 model.pretrained False data.height 64 data.width 32 data.workers 0"
        own = f"model.name {name} train.seed {seed} data.root {root} data.save_dir {folder}"
        status = t2ireid(["train", "--config-file", CONFIG, *f"{steps} {fixed} {own}".split()])
        if status:
            raise SystemExit(status)
    metrics = json.loads((folder / "results.json").read_text(encoding="utf-8"))["metrics"]["market1501"]
    found = next(iter(metrics.values()))
    return {metric: 100 * found[metric] for metric in METRICS}


def main() -> None:
    """Prints R@1 and mAP of both, and the differences of the seeds with a 95 % t interval."""
    from scipy import stats

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of t2ireid prepare synthetic")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--people", type=int, default=400, help="for training (400)")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    root = options.out / "data"
    if not (root / "market1501").is_dir():
        write_market1501(options.source, root, options.people)
    found = {
        label: [train(name, seed, root, options.out / f"{name}_{seed}", options.epochs) for seed in options.seeds]
        for label, name in MODELS.items()
    }
    for metric in METRICS:
        values = {label: np.array([run[metric] for run in runs]) for label, runs in found.items()}
        for label, own in values.items():
            print(f"{label}: {metric} {own.mean():.2f} ({', '.join(f'{value:.2f}' for value in own)})")
        gap = values["DisentangleHead"] - values["resnet50"]
        half = stats.sem(gap) * stats.t.ppf(0.975, len(gap) - 1) if len(gap) > 1 else np.nan
        print(f"difference: {metric} {gap.mean():+.2f} [{gap.mean() - half:+.2f}, {gap.mean() + half:+.2f}]")


if __name__ == "__main__":
    main()
