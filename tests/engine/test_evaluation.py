"""The choice of the checkpoint on val, when val could not choose, and the fused query beside its baselines."""

import json

import numpy as np
import pytest
import torch
from states import saved
from torchreid import metrics as torchreid_metrics

from t2ireid_plugin.cli import main
from t2ireid_plugin.engine import evaluation
from t2ireid_plugin.engine.evaluation import describe_undecided
from t2ireid_plugin.evaluation.compare import compare
from t2ireid_plugin.evaluation.metrics import format_table, metrics_by_target
from t2ireid_plugin.evaluation.protocols import BRANCH_WEIGHTS, WEIGHTS
from t2ireid_plugin.evaluation.query_records import load_records, records_path
from t2ireid_plugin.modeling.checkpoint import weights_digest


def run_scripted(engine, folder, scores):
    """Epochs without training, evaluated with (R@1, mAP) of `scores[target]`, one pair per epoch."""

    def metrics(sets):
        pairs = {target: scores[target][engine.epoch] for target in sets}
        return {target: {"R@1": r1, "mAP": mean_ap} for target, (r1, mean_ap) in pairs.items()}

    engine._embed, engine._log_official = lambda targets, _: dict.fromkeys(targets), metrics
    engine._best_weight = lambda *_: None
    engine.train, engine.val_targets = lambda **_: None, list(scores)
    engine.run(save_dir=str(folder), max_epoch=len(next(iter(scores.values()))), eval_freq=1)


CHOICES = {
    "R@1 first": ([(0.5, 0.9), (0.6, 0.1), (0.4, 0.9)], 2, [2]),
    "then mAP": ([(0.5, 0.3), (0.5, 0.4), (0.5, 0.2)], 2, [2]),
    "then the later epoch": ([(0.5, 0.4), (0.5, 0.4), (0.4, 0.9)], 2, [1, 2]),
    "ties below the best do not count": ([(0.5, 0.4), (0.5, 0.4), (0.6, 0.1)], 3, [3]),
    "all perfect": ([(1.0, 1.0), (1.0, 1.0), (1.0, 1.0)], 3, [1, 2, 3]),
    "perfect R@1": ([(0.9, 0.9), (1.0, 0.8), (1.0, 0.7)], 2, [2, 3]),
    "nothing learned": ([(0.0, 0.0), (0.0, 0.0)], 2, [1, 2]),
}


@pytest.mark.parametrize(("scores", "epoch", "tied"), CHOICES.values(), ids=CHOICES)
def test_the_checkpoint_is_chosen_by_r1_then_map_then_the_later_epoch(build, tmp_path, scores, epoch, tied):
    engine = build(train__max_epoch=len(scores))
    run_scripted(engine, tmp_path, {"cuhkpedes_val": scores})
    assert (engine.best["epoch"], engine.best["score"], engine.best["tied"]) == (epoch, scores[epoch - 1][0], tied)
    assert saved(tmp_path, "best.pth")["epoch"] == epoch
    assert saved(tmp_path)["best"] == engine.best


def test_with_several_val_sets_the_means_choose(build, tmp_path):
    engine = build(train__max_epoch=3)
    val = {"a": [(0.5, 0.2), (0.75, 0.2), (0.6, 0.9)], "b": [(0.5, 0.2), (0.25, 0.3), (0.3, 0.9)]}
    run_scripted(engine, tmp_path, val)  # mean R@1 0.5, 0.5, 0.45; mean mAP 0.2, 0.25, 0.9
    assert (engine.best["epoch"], engine.best["score"], engine.best["tied"]) == (2, 0.5, [2])


def test_ties_from_before_an_interruption_count(build, tmp_path):
    scores = [(0.5, 0.4)] * 3
    whole, first, second = (build(train__max_epoch=3) for _ in range(3))
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    run_scripted(whole, tmp_path / "whole", {"cuhkpedes_val": scores})
    run_scripted(first, tmp_path / "parts", {"cuhkpedes_val": scores[:2]})
    second.resume(tmp_path / "parts" / "last.pth")
    run_scripted(second, tmp_path / "parts", {"cuhkpedes_val": scores})
    assert second.best == whole.best
    assert saved(tmp_path / "parts", "best.pth")["best"] == saved(tmp_path / "whole", "best.pth")["best"]


@pytest.mark.parametrize(
    ("people", "tied", "score", "reason"),
    [
        (19, [4], 0.5, "a_val has 19 people, fewer than 20"),
        (20, [2, 4], 0.5, "epochs 2, 4 have the same R@1 and mAP"),
        (500, [1, 2, 4], 1, "epochs 1, 2, 4 have R@1 100 %"),
        (3, [2, 4], 1, "a_val has 3 people, fewer than 20; epochs 2, 4 have R@1 100 %"),
        (20, [4], 1, None),
    ],
)
def test_the_end_of_a_run_says_why_val_could_not_choose(people, tied, score, reason):
    val = {"a_val": {"identities": people}, "b_val": {"identities": 50}}
    line = describe_undecided({"epoch": 4, "score": score, "val": val, "tied": tied})
    expected = f"Validation could not distinguish the epochs: {reason}; use more validation people"
    assert line == ("" if reason is None else expected)


def test_without_val_there_is_nothing_to_distinguish(build, tmp_path):
    engine = build(data__val="[]", train__max_epoch=2)
    engine.train = lambda **_: None
    engine.run(save_dir=str(tmp_path), max_epoch=2, eval_freq=1)
    weights = weights_digest(engine.model.state_dict())
    none = dict.fromkeys(["t2i", "ti2i_sum"])
    assert engine.best == {
        "epoch": 2, "score": 0.0, "val": {}, "tied": [2], "protocol_weights": none, "weights": weights
    }  # fmt: skip
    assert describe_undecided(engine.best) == describe_undecided({}) == ""


# Fused queries and their baselines


@pytest.fixture(scope="module")
def fused_test(tiny_run, tiny_settings, tmp_path_factory):
    """The folder of a test under `t2i` and `ti2i`, by the command line, and its output."""
    folder = tmp_path_factory.mktemp("fused") / "log"
    settings = {"model__load_weights": tiny_run.folder / "best.pth", "model__fusion__type": "enhanced_mamba"}
    words = tiny_settings(folder, test__bootstrap=100, **settings)
    assert main(["test", *words, "test.protocols", "[t2i, ti2i]", "data.id_instruction", "caption"]) == 0
    return folder / "test" / "cuhkpedes"


def test_fused_queries_are_reported_beside_their_baselines(fused_test, tiny_run):
    metrics = json.loads((fused_test / "results.json").read_text())["metrics"]["cuhkpedes"]
    assert list(metrics) == ["t2i", "ti2i", "ti2i_photo", "ti2i_sum"]
    assert {metrics[name]["queries"] for name in metrics} == {64}
    chosen = tiny_run.results["chosen"]
    weight = chosen["protocol_weights"]["ti2i_sum"]
    assert weight in WEIGHTS["ti2i_sum"]
    assert (metrics["ti2i_sum"]["weight"], metrics["ti2i_sum"]["weight_chosen"]) == (weight, True)
    log = (fused_test / "test.log").read_text()
    assert f"cuhkpedes ti2i_sum: the caption's weight is {weight:g}, chosen on val" in log


def test_fusion_and_baselines_are_compared_query_by_query(fused_test):
    records = load_records(records_path(fused_test, "cuhkpedes"))
    fused, plain = records["ti2i"], records["ti2i_sum"]
    assert np.array_equal(fused.keys, plain.keys)
    assert not np.array_equal(fused.AP, plain.AP)
    (test,) = compare(fused_test, fused_test, protocols=("ti2i_sum", "ti2i"))["tests"]
    difference = test["metrics"]["mAP"]
    assert difference["difference"] == pytest.approx(fused.AP.mean() - plain.AP.mean())
    assert difference["low"] < difference["high"]
    (same,) = compare(fused_test, fused_test, protocols=("ti2i", "ti2i"))["tests"]
    equal = [fused.AP.mean(), fused.AP.mean(), 0, 0, 1, 0, False]
    assert list(same["metrics"]["mAP"].values()) == pytest.approx(equal)


def test_without_val_the_weight_is_one_and_marked_as_not_chosen(build):
    engine = build(model__fusion__type="enhanced_mamba")
    results = engine.evaluate_protocols(["cuhkpedes"], ["ti2i"])
    metrics = metrics_by_target(results)
    assert metrics["cuhkpedes"]["ti2i_sum"]["weight"] == 1.0
    assert metrics["cuhkpedes"]["ti2i_sum"]["weight_chosen"] is False
    assert "cuhkpedes ti2i_sum: the caption's weight is 1, fixed, not chosen on val" in format_table(metrics)
    task = results[-1].task
    assert results[-1].protocol == "ti2i_sum"
    engine.best = {"protocol_weights": {"ti2i_sum": 5.0}}
    other = engine.evaluate_protocols(["cuhkpedes"], ["ti2i"])[-1]
    assert other.metrics["weight"] == 5.0
    assert not np.allclose(other.task.queries, task.queries)


def test_composed_search_is_reported_beside_its_baselines_with_weights_from_val(build, two_outfits, tmp_path):
    settings = {"data__id_instruction": "identity", "test__protocols": "[t2i, composed]", "train__max_epoch": 1}
    engine = build(data__root=two_outfits, model__fusion__type="enhanced_mamba", **settings)
    engine.train = lambda **_: None
    engine.run(save_dir=str(tmp_path), max_epoch=1, eval_freq=1)
    (metrics,) = metrics_by_target(engine.evaluate_protocols(["cuhkpedes"], ["composed"])).values()
    assert list(metrics) == ["composed", *(f"composed_{name}" for name in ("words", "photo", "sum", "pair"))]
    weights = engine.best["protocol_weights"]
    assert weights["composed_sum"] in WEIGHTS["composed_sum"]
    for name in ("composed_sum", "composed_pair"):
        assert (metrics[name]["weight"], metrics[name]["weight_chosen"]) == (weights[name], True)
    assert {own["identities"] for own in metrics.values()} == {8}


def test_itcpr_may_choose_the_checkpoint_and_the_weights(build, two_outfits, tmp_path):
    """As in its authors' training."""
    settings = {"data__val": "[itcpr]", "test__protocols": "[t2i, composed]", "train__max_epoch": 1}
    engine = build(data__root=two_outfits, **settings)
    engine.train = lambda **_: None
    engine.run(save_dir=str(tmp_path), max_epoch=1, eval_freq=1)
    assert list(engine.best["val"]) == ["itcpr"]
    assert {"composed_sum", "composed_pair"} <= {name for name, own in engine.best["protocol_weights"].items() if own}


# Ranking by both branches


def test_each_epoch_is_scored_at_its_own_best_weight_of_the_branches(build, tmp_path):
    """The weight in the checkpoint is the one with the highest mAP on val among all, each evaluated by torchreid."""
    engine = build(data__id_instruction="identity", train__max_epoch=1)
    engine.train = lambda **_: None
    engine.run(save_dir=str(tmp_path), max_epoch=1)
    (target,) = engine.val_targets
    (e,) = engine._embed([target], ["t2i"]).values()
    identity, clothing = e.identity_parts @ e.images.T, e.clothing_parts @ e.cloth_images.T
    scores = {}
    for weight in BRANCH_WEIGHTS:
        distances = 1 - (weight * identity + (1 - weight) * clothing).numpy()
        labels = e.pids[e.described], e.pids, np.full(len(distances), -1), np.zeros_like(e.pids)
        scores[weight] = torchreid_metrics.evaluate_rank(distances, *labels, max_rank=5)[1]
    stored = saved(tmp_path, "best.pth")
    weight = stored["ranking"]["weight"]
    assert stored["ranking"] == {"by": "both", "weight": weight, "clothing": "clothing", "chosen": True}
    assert stored["best"]["protocol_weights"]["t2i"] == engine.model.ranking.weight == weight
    assert scores[weight] == pytest.approx(max(scores.values()), abs=1e-6)
    assert stored["best"]["val"][target]["mAP"] == pytest.approx(scores[weight], abs=1e-6)


def test_every_process_broadcasts_equally_often(build, tmp_path, monkeypatch):
    """Otherwise the others would take a weight for the chosen checkpoint, or wait forever."""
    counts = []
    for first in (True, False):
        engine, sent = build(data__id_instruction="identity"), []
        monkeypatch.setattr(evaluation, "is_main_process", lambda first=first: first)
        monkeypatch.setattr(evaluation, "broadcast_object", lambda value, sent=sent: sent.append(value) or value)
        engine.choose(tmp_path)
        counts.append(len(sent))
    assert counts[0] == counts[1] > 0


def test_a_fixed_weight_is_not_chosen(build, tmp_path):
    engine = build(data__id_instruction="identity", test__identity_weight=0.3, train__max_epoch=1)
    engine.train = lambda **_: None
    engine.run(save_dir=str(tmp_path), max_epoch=1)
    stored = saved(tmp_path, "best.pth")
    assert stored["ranking"]["weight"] == 0.3
    assert stored["best"]["protocol_weights"]["t2i"] is None
    assert engine.evaluate(engine.val_targets)["cuhkpedes_val"]["weight_chosen"] is False


def test_a_model_trained_on_captions_ranks_by_captions(build):
    engine = build(data__id_instruction="caption")
    (e,) = engine._embed(["cuhkpedes"], ["t2i", "i2i"]).values()
    assert torch.equal(e.queries, e.captions)
    assert torch.equal(e.gallery, e.images)
