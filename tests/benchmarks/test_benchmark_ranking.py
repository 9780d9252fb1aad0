"""``tools/benchmark.py ranking``."""

import json

import numpy as np
import pytest
import torch

from benchmarks import contenders
from benchmarks.main import main
from benchmarks.ranking import _check_agreement
from t2ireid_plugin.evaluation.metrics import evaluate_task
from t2ireid_plugin.evaluation.protocols import RetrievalTask


def evaluate(task):
    sides = torch.from_numpy(task.queries), torch.from_numpy(task.gallery)
    return evaluate_task(RetrievalTask(*sides, *task[2:]))


@pytest.mark.slow
@pytest.mark.usefixtures("preloaded_processes")
def test_ranking_measures_checks_and_writes(tmp_path, capsys):
    file = tmp_path / "new" / "ranking.json"
    words = ["ranking", "--size", "200x150x20", "--against", "python", "--repeats", "2", "--json", str(file)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "200 queries, 150 images, 20 identities" in printed
    assert "queries that rounding does not decide: R@1 0.8" in printed
    report = json.loads(file.read_text())
    assert report["command"] == "python tools/benchmark.py " + " ".join(words)
    assert report["machine"]["cores"] >= 1
    assert report["machine"]["versions"]["numpy"]
    figures = report["ranking"]["contenders"]
    assert list(figures) == ["ours", "python"]
    for figure in figures.values():
        assert figure["repeats"] == 2
        assert 0 < figure["seconds_min"] <= figure["seconds"] <= figure["seconds_max"]
        assert figure["checked_mAP"] == pytest.approx(figures["ours"]["checked_mAP"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("preloaded_processes")
def test_the_slow_evaluator_is_timed_on_a_part_of_the_queries(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.ranking._SLOW_PAIRS", 3000)
    assert main(["ranking", "--size", "120x100x10", "--against", "python", "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    assert "Python*" in printed
    assert "* timed on 30 queries and scaled up" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--against", "cython"], "needs --cython SRC"),
        (["--against", "cython", "--cython", "{empty}"], "no rank_cy.pyx in it"),
    ],
)
def test_cython_needs_torchreids_source(words, message, tmp_path, capsys):
    words = [word.format(empty=tmp_path) for word in words]
    assert main(["ranking", "--size", "20x20x5", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("size", ["marketlike", "0x3x4", "3x4", "3x4x-5"])
def test_an_invalid_size_is_refused(size, capsys):
    with pytest.raises(SystemExit):
        main(["ranking", "--size", size])
    assert "icfgpedes, cuhkpedes nor QUERIESxGALLERYxIDS" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ours", "draft", "python"])
def test_contenders_agree(name):
    task = contenders.make_task(150, 120, 20)._replace(q_camids=np.arange(150) % 6)
    (cmc, mean_ap), expected = contenders.load_evaluator(name)(task), evaluate(task)
    np.testing.assert_allclose(cmc, expected.cmc(), rtol=0, atol=1e-6)
    assert mean_ap == pytest.approx(expected.metrics["mAP"], abs=1e-6)


def test_queries_that_rounding_decides_are_not_checked():
    """The second query's positive and a negative differ by 1e-7; the third one's positive is far away."""
    gallery = np.array([[1, 0, 0], [0, 1, 0], [0, 1 - 1e-7, 0], [0, 0, 1]], np.float32)
    task = contenders.Task(
        np.eye(3, dtype=np.float32), gallery, np.arange(3), np.array([0, 1, 3, 2]), *[np.zeros(4)] * 2
    )
    assert task.decidable(3).q_pids.tolist() == [0, 2]
    assert task.decidable(2).q_pids.tolist() == [0]


def test_disagreeing_contenders_are_an_error():
    same = {"checked_queries": 10, "checked_cmc": [0.5, 0.7], "checked_mAP": 0.4}
    _check_agreement({"ours": same, "python": {**same, "checked_mAP": 0.4 + 1e-7}})
    for other in ({"checked_mAP": 0.4 + 2e-6}, {"checked_cmc": [0.5, 0.6]}):
        with pytest.raises(ValueError, match="ours and python disagree on 10 queries"):
            _check_agreement({"ours": same, "python": {**same, **other}})


def test_the_embeddings_are_as_hard_as_real_ones():
    """IRRA on ICFG-PEDES: R@1 63.5, mAP 38.1, mINP 7.9 (Jiang & Ye 2023). Here 1,000 queries of as many."""
    task = contenders.make_task(19848, 19848, 1000).of(slice(1000))
    metrics = evaluate(task).metrics
    assert metrics["R@1"] == pytest.approx(0.62, abs=0.04)
    assert metrics["mAP"] == pytest.approx(0.42, abs=0.05)
    assert metrics["mINP"] == pytest.approx(0.1, abs=0.05)
