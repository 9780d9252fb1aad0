"""The choice of the checkpoint on val, when val could not choose, and the fused query beside its baselines."""

import json

import numpy as np
import pytest
from states import saved

from t2ireid_plugin.cli import main
from t2ireid_plugin.engine.evaluation import describe_undecided
from t2ireid_plugin.evaluation.compare import compare
from t2ireid_plugin.evaluation.metrics import format_table, metrics_by_target
from t2ireid_plugin.evaluation.protocols import TEXT_WEIGHTS
from t2ireid_plugin.evaluation.query_records import load_records, records_path
from t2ireid_plugin.modeling.checkpoint import weights_digest


def run_scripted(engine, folder, scores):
    """Epochs without training whose `evaluate` returns (R@1, mAP) of `scores[target]`, one pair per epoch."""

    def evaluate(targets):
        pairs = {target: scores[target][engine.epoch] for target in targets}
        return {target: {"R@1": r1, "mAP": mean_ap, "text_weights": {}} for target, (r1, mean_ap) in pairs.items()}

    engine.evaluate, engine.train, engine.val_targets = evaluate, lambda **_: None, list(scores)
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
    assert engine.best == {
        "epoch": 2, "score": 0.0, "val": {}, "tied": [2], "text_weight": None, "weights": weights
    }  # fmt: skip
    assert describe_undecided(engine.best) == describe_undecided({}) == ""


# Fused queries and their baselines


@pytest.fixture(scope="module")
def fused_test(tiny_run, tiny_settings, tmp_path_factory):
    """The folder of a test under `t2i` and `ti2i`, by the command line, and its output."""
    folder = tmp_path_factory.mktemp("fused") / "log"
    words = tiny_settings(folder, test__bootstrap=100, model__load_weights=tiny_run.folder / "best.pth")
    assert main(["test", *words, "test.protocols", "[t2i, ti2i]"]) == 0
    return folder / "test" / "cuhkpedes"


def test_fused_queries_are_reported_beside_their_baselines(fused_test, tiny_run):
    metrics = json.loads((fused_test / "results.json").read_text())["metrics"]["cuhkpedes"]
    assert list(metrics) == ["t2i", "ti2i", "ti2i_photo", "ti2i_sum"]
    assert {metrics[name]["queries"] for name in metrics} == {64}
    chosen = tiny_run.results["chosen"]
    on_val = chosen["val"]["cuhkpedes_val"]["text_weights"]
    assert list(on_val) == [f"{weight:g}" for weight in TEXT_WEIGHTS]
    assert on_val[f"{chosen['text_weight']:g}"] == max(on_val.values())
    assert metrics["ti2i_sum"]["text_weight"] == chosen["text_weight"]
    assert metrics["ti2i_sum"]["text_weight_chosen"] is True
    log = (fused_test / "test.log").read_text()
    assert f"cuhkpedes ti2i_sum: the caption's weight is {chosen['text_weight']:g}, chosen on val" in log


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
    assert list(same["metrics"]["mAP"].values()) == [fused.AP.mean(), fused.AP.mean(), 0, 0, 1, 0, False]


def test_the_weight_with_the_highest_mean_over_the_val_sets_is_chosen(build, tmp_path):
    engine = build(train__max_epoch=1)
    weights = [f"{weight:g}" for weight in TEXT_WEIGHTS]
    grids = {"a": [0.1, 0.6, 0.2, 0.3, 0.1, 0.1, 0.1], "b": [0.1, 0.1, 0.2, 0.5, 0.6, 0.1, 0.1], "alone": None}
    values = {
        target: {"R@1": 0.5, "mAP": 0.5, "text_weights": dict(zip(weights, grid)) if grid else {}}
        for target, grid in grids.items()
    }
    engine.evaluate, engine.train = lambda _: values, lambda **_: None
    engine.run(save_dir=str(tmp_path), max_epoch=1)
    assert saved(tmp_path, "best.pth")["best"]["text_weight"] == 1.0  # means 0.1, 0.35, 0.2, 0.4, 0.35, 0.1, 0.1


def test_without_val_the_weight_is_one_and_marked_as_not_chosen(build):
    engine = build()
    results = engine.evaluate_protocols(["cuhkpedes"], ["ti2i"])
    metrics = metrics_by_target(results)
    assert metrics["cuhkpedes"]["ti2i_sum"]["text_weight"] == 1.0
    assert metrics["cuhkpedes"]["ti2i_sum"]["text_weight_chosen"] is False
    assert "cuhkpedes ti2i_sum: the caption's weight is 1, fixed, not chosen on val" in format_table(metrics)
    task = results[-1].task
    assert results[-1].protocol == "ti2i_sum"
    engine.best = {"text_weight": 5.0}
    other = engine.evaluate_protocols(["cuhkpedes"], ["ti2i"])[-1]
    assert other.metrics["text_weight"] == 5.0
    assert not np.allclose(other.task.queries, task.queries)
