"""Stock ResNet-50 against the same backbone with `DisentangleHead`, on images of drawn people, in torchreid's engine.

    t2ireid prepare synthetic data/synthetic --train-ids 2000
    python -m benchmarks.image_heads data/synthetic --out log/heads

Both train with torchreid's triplet engine, optimizer, sampler and evaluation for as many epochs, from
`configs/market1501_resnet50_t2ireid.yaml`. Finished runs are skipped. ImageNet's weights are not at hand everywhere,
and from random weights neither learns within so few steps. So the backbone is first trained to name the attributes of
other drawn people, and both start from these weights, in the file where torchreid keeps those of ImageNet.

The people are written in Market-1501's layout, with the number of a photo among those of its person as its camera; the
first photo of a test person is a query.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from t2ireid_plugin.cli import main as t2ireid
from t2ireid_plugin.data.images import normalise, read_pixels, resize
from t2ireid_plugin.utils.atomic_io import atomic_folder

CONFIG = "configs/market1501_resnet50_t2ireid.yaml"
MODELS = {"resnet50": "resnet50", "DisentangleHead": "t2ireid_resnet50"}
METRICS = ("R@1", "mAP")
SIZE = (64, 32)
BATCH = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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


def pretrain(source: Path, home: Path, skip: int, steps: int) -> None:
    """Writes a backbone trained on the attributes of all but the first ``skip`` people, as torchreid's weights."""
    import torch
    import torchreid

    model_file = vars(sys.modules[torchreid.models.resnet50.__module__])["model_urls"]["resnet50"].rpartition("/")[2]
    file = home / "hub" / "checkpoints" / model_file
    if file.is_file():
        return
    folder = source / "CUHK-PEDES"
    people = json.loads((folder / "attributes.json").read_text(encoding="utf-8"))["people"]
    rows = json.loads((folder / "reid_raw.json").read_text(encoding="utf-8"))
    used = sorted({row["id"] for row in rows if row["split"] == "train"})[skip:]
    kinds = {pid: {(key, value) for own in people[str(pid)].values() for key, value in own.items()} for pid in used}
    names = sorted(set().union(*kinds.values()))
    targets = {pid: torch.tensor([float(name in own) for name in names]) for pid, own in kinds.items()}
    photos = [(folder / "imgs" / row["file_path"], targets[row["id"]]) for row in rows if row["id"] in kinds]
    torch.manual_seed(0)
    model = torchreid.models.build_model("resnet50", len(names), loss="softmax", pretrained=False)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    for step in range(1, steps + 1):
        chosen = [photos[i] for i in torch.randint(len(photos), (BATCH,)).tolist()]
        images = np.stack([normalise(resize(read_pixels(path), *SIZE), MEAN, STD) for path, _ in chosen])
        logits = model(torch.from_numpy(images))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.stack([own for _, own in chosen]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            print(f"attributes: step {step}/{steps}, loss {loss.item():.3f}", flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({key: value for key, value in model.state_dict().items() if "classifier" not in key}, file)


def train(name: str, seed: int, lr: float, root: Path, folder: Path, epochs: int) -> dict[str, float]:
    """R@1 and mAP of one training."""
    if not (folder / "results.json").is_file():
        steps = f"train.max_epoch {epochs} train.batch_size {BATCH} train.lr {lr} train.staged_lr False"
        fixed = f"train.fixbase_epoch 0 data.height {SIZE[0]} data.width {SIZE[1]} data.workers 0"
        own = f"model.name {name} train.seed {seed} data.root {root} data.save_dir {folder}"
        status = t2ireid(["train", "--config-file", CONFIG, *f"{steps} {fixed} {own}".split()])
        if status:
            raise SystemExit(status)
    metrics = json.loads((folder / "results.json").read_text(encoding="utf-8"))["metrics"]["market1501"]
    found = next(iter(metrics.values()))
    return {metric: 100 * found[metric] for metric in METRICS}


def main() -> None:
    """Prints R@1 and mAP of both at each learning rate, and the differences of the seeds with a 95 % t interval."""
    from scipy import stats

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of t2ireid prepare synthetic")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--people", type=int, default=400, help="for training (400)")
    parser.add_argument("--steps", type=int, default=400, help="of the training on attributes (400)")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lrs", type=float, nargs="+", default=[3.5e-4, 5e-5], help="learning rates (3.5e-4 5e-5)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    root = options.out / "data"
    if not (root / "market1501").is_dir():
        write_market1501(options.source, root, options.people)
    os.environ["TORCH_HOME"] = str(options.out / "torch_home")
    pretrain(options.source, options.out / "torch_home", options.people, options.steps)
    for lr in options.lrs:
        found = {
            label: [
                train(name, seed, lr, root, options.out / f"{name}_{lr}_{seed}", options.epochs)
                for seed in options.seeds
            ]
            for label, name in MODELS.items()
        }
        for metric in METRICS:
            values = {label: np.array([run[metric] for run in runs]) for label, runs in found.items()}
            for label, own in values.items():
                each = ", ".join(f"{value:.2f}" for value in own)
                print(f"learning rate {lr}, {label}: {metric} {own.mean():.2f} ({each})")
            gap = values["DisentangleHead"] - values["resnet50"]
            half = stats.sem(gap) * stats.t.ppf(0.975, len(gap) - 1) if len(gap) > 1 else np.nan
            ends = f"[{gap.mean() - half:+.2f}, {gap.mean() + half:+.2f}]"
            print(f"learning rate {lr}, difference: {metric} {gap.mean():+.2f} {ends}")


if __name__ == "__main__":
    main()
