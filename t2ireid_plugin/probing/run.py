"""``t2ireid probe``: probes a run's embeddings for identity and clothing, and measures retrieval across outfits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm
from yacs.config import CfgNode

from t2ireid_plugin.config import require_texts
from t2ireid_plugin.data.manager import explain_dead_workers
from t2ireid_plugin.engine.build import build_run
from t2ireid_plugin.engine.checks import check_config, check_files, for_testing
from t2ireid_plugin.engine.record import open_run
from t2ireid_plugin.engine.training_state import make_folder, save_json
from t2ireid_plugin.evaluation.embeddings import embed_target
from t2ireid_plugin.evaluation.metrics import evaluate_task, format_table
from t2ireid_plugin.modeling.checkpoint import weights_digest
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel
from t2ireid_plugin.probing.cross_outfit import outfit_tasks
from t2ireid_plugin.probing.probes import FOLDS, SAMPLES, C, format_probes, probe_attributes
from t2ireid_plugin.synthetic.truth import read_truth
from t2ireid_plugin.utils.logging import versions

# Fields of `T2IReIDOutput`: both branches' gated features, and the embeddings used for retrieval.
PROBED = ("id_embeds", "cloth_embeds", "image_embeds", "cloth_image_embeds")


@explain_dead_workers()
def run_probes(source: str | Path | None, cfg: CfgNode | None, command: str, typed: Sequence[str] = ()) -> None:
    """Probes a run on its targets of drawn people and writes ``probes_<target>.json``.

    Args:
        source, cfg, typed: see `open_run`.
        command: the command line, for the file.

    Raises:
        T2IReIDError: for every error that a user can fix.
    """
    cfg, checkpoint, changed = open_run(source, cfg, typed)
    require_texts(cfg, "t2ireid probe")
    check_config(cfg)
    cfg = for_testing(cfg)
    check_files(cfg)
    folder, digest = Path(cfg.data.save_dir), weights_digest(checkpoint.state)
    engine = build_run(cfg, checkpoint)
    engine.set_model_mode("eval")
    loaders = engine.test_loader
    truths = {
        target: read_truth(cfg.data.root, [path for path, *_ in loaders[target]["gallery"].dataset.data])
        for target in cfg.data.targets
    }
    make_folder(folder)
    about = {"checkpoint": str(checkpoint.path), "weights": digest, "changed": changed, "data": cfg.data.root}
    about |= {"command": command, "versions": versions()}
    for target, truth in truths.items():
        query, gallery = (loaders[target][side] for side in ("query", "gallery"))
        table = probe_attributes(embed_photos(engine.model, gallery, target), truth.attributes, truth.pids)
        print(f"\n{target}, {len(truth.pids):,} photos\n{format_probes(table)}")
        results: dict[str, Any] = {"target": target, **about, "photos": len(truth.pids)}
        results["probes"] = {"folds": FOLDS, "C": C, "samples": SAMPLES, **table}
        if truth.outfits.any():  # someone wears a second one
            embeddings = embed_target(engine.model, query, gallery, ["identity"], target)
            results["outfits"] = {
                name: evaluate_task(task, cfg.test.ranks, samples=cfg.test.bootstrap).metrics
                for name, task in outfit_tasks(embeddings, truth.outfits).items()
            }
            print(f"\n{format_table({target: results['outfits']})}")
        save_json(results, probes_path(folder, target))
        print(f"\nResults: '{probes_path(folder, target)}'")


def probes_path(folder: Path, target: str) -> Path:
    """The file for a run's probes on a target."""
    return folder / f"probes_{target}.json"


@torch.no_grad()
def embed_photos(model: T2IReIDModel, gallery_loader: DataLoader, label: str = "") -> dict[str, Tensor]:
    """The `PROBED` embeddings ``[m, D]`` that the model has, of each image, on the CPU; it should be in eval mode."""
    probed = PROBED if model.disentangle is not None else [name for name in PROBED if "cloth" not in name]
    parts: dict[str, list[Tensor]] = {name: [] for name in probed}
    for batch in tqdm(gallery_loader, desc=f"{label} gallery", leave=False, disable=None):
        output = model(batch["img"])
        for name in probed:
            parts[name].append(getattr(output, name).cpu())
    return {name: torch.cat(batches) for name, batches in parts.items()}
