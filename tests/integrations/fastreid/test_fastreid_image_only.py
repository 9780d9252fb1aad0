"""The backbone with FastReID's own Baseline, EmbeddingHead and trainer, on Market-1501's format."""

import json

import pytest
import torch
from fastreid.data import build_reid_test_loader
from fastreid.engine import DefaultTrainer
from fastreid.modeling import build_model
from fastreid.utils.checkpoint import Checkpointer
from fastreid.utils.env import seed_all_rng

from t2ireid_plugin.errors import CheckpointError, InputError
from t2ireid_plugin.evaluation.metrics import evaluate_task
from t2ireid_plugin.evaluation.protocols import RetrievalTask


def test_fastreids_trainer_trains_our_backbone(make_cfg, image_yaml, market, monkeypatch, tmp_path) -> None:
    """Every part changes and the loss falls."""
    monkeypatch.setattr("fastreid.data.build._root", str(market.root))
    cfg = make_cfg(image_yaml, "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_EPOCH", "4")
    seed_all_rng(0)  # its sampler and transforms use every generator
    trainer = DefaultTrainer(cfg)
    assert type(trainer.model).__name__ == "Baseline"
    assert type(trainer.model.heads).__name__ == "EmbeddingHead"
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    assert {"Rank-1", "mAP", "mINP"} <= set(results)
    after = trainer.model.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    for part in ("visual_encoder.", "disentangle.id_", "shared_mlp.", "image_mlp."):
        assert any(name.startswith(f"backbone.{part}") for name in moved), part
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    losses = [line["total_loss"] for line in lines if "total_loss" in line]
    assert losses[-1] < losses[0]


def test_fastreids_evaluator_agrees_with_ours(image_run, make_cfg, monkeypatch) -> None:
    """On the same features."""
    monkeypatch.setattr("fastreid.data.build._root", str(image_run.root))
    model = build_model(make_cfg(image_run.yaml, "MODEL.HEADS.NUM_CLASSES", "24"))
    Checkpointer(model).load(str(image_run.folder / "model_final.pth"))
    model.eval()
    loader, queries = build_reid_test_loader(make_cfg(image_run.yaml), dataset_name="Market1501")
    with torch.no_grad():
        parts = [(model(batch), batch["targets"], batch["camids"]) for batch in loader]
    features, pids, camids = (torch.cat(column) for column in zip(*parts))
    pids, camids = pids.numpy(), camids.numpy()
    task = RetrievalTask(
        features[:queries], features[queries:], pids[:queries], pids[queries:], camids[:queries], camids[queries:]
    )
    metrics = evaluate_task(task, (1, 5, 10)).metrics
    for ours, theirs in (("R@1", "Rank-1"), ("R@5", "Rank-5"), ("R@10", "Rank-10"), ("mAP", "mAP"), ("mINP", "mINP")):
        assert 100 * metrics[ours] == pytest.approx(image_run.results[theirs], abs=1e-3)


def test_evaluation_of_a_checkpoint_repeats_the_results(image_run, run_tool) -> None:
    """Also if the weights of ``PRETRAIN_PATH`` are gone."""
    weights = ("MODEL.WEIGHTS", image_run.folder / "model_final.pth")
    weights += ("MODEL.BACKBONE.PRETRAIN", "True", "MODEL.BACKBONE.PRETRAIN_PATH", "gone.pth")
    results = run_tool(image_run.root, image_run.yaml, "--eval-only", "OUTPUT_DIR", image_run.folder / "test", *weights)
    assert results == pytest.approx(image_run.results)


def test_pretraining_without_a_path_is_refused(make_cfg, image_yaml) -> None:
    with pytest.raises(CheckpointError, match=r"MODEL\.BACKBONE\.PRETRAIN_PATH: no checkpoint at"):
        build_model(make_cfg(image_yaml, "MODEL.BACKBONE.PRETRAIN", "True", "MODEL.HEADS.NUM_CLASSES", "3"))


@pytest.mark.parametrize(("branch", "width"), [("identity", 256), ("clothing", 256), ("both", 512)])
def test_the_backbone_of_each_branch(make_cfg, image_yaml, branch, width) -> None:
    words = ("T2IREID.BRANCH", branch, "MODEL.BACKBONE.FEAT_DIM", str(width), "MODEL.HEADS.NUM_CLASSES", "3")
    model = build_model(make_cfg(image_yaml, *words)).eval()
    with torch.no_grad():
        assert model.backbone(torch.rand(2, 3, 32, 16)).shape == (2, width, 1, 1)
    with pytest.raises(InputError, match=r"torch\.uint8 pixels are not normalised"):
        model.backbone(torch.zeros(2, 3, 32, 16, dtype=torch.uint8))
