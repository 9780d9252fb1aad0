import argparse
import json
from dataclasses import replace

import numpy as np
import pytest

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation import compare as command
from t2ireid_plugin.evaluation.compare import compare, format_comparison
from t2ireid_plugin.evaluation.query_records import query_keys, records_path, save_records
from t2ireid_plugin.evaluation.result import RetrievalResult

PEOPLE, CAPTIONS = 30, 4


def model_result(seed, better=0.0, people=PEOPLE, protocol="t2i", target="cuhkpedes"):
    """A model's figures; all models find the same people hard, and some are `better`."""
    number = people * CAPTIONS
    hard = np.repeat(np.random.default_rng(99).uniform(0.2, 0.8, people), CAPTIONS)
    ease = hard + better + np.random.default_rng(seed).uniform(-0.05, 0.05, number)
    keys = query_keys([(f"cam_a/{i // 2}.jpg", f"caption {i}") for i in range(number)])
    pids = np.repeat(np.arange(people) * 3 + 5, CAPTIONS)
    ranks = np.ceil(3 / ease).astype(np.int32)
    return RetrievalResult(ranks, ease, ease / 2, pids, keys=keys, target=target, protocol=protocol)


def write(folder, *results):
    folder.mkdir(exist_ok=True)
    save_records(records_path(folder, results[0].target), results)
    return folder


@pytest.fixture
def runs(tmp_path):
    return write(tmp_path / "a", model_result(0)), write(tmp_path / "b", model_result(1, better=0.05))


def run_command(*words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]), "t2ireid compare …")


def test_a_better_run_is_better(runs):
    (test,) = compare(*runs)["tests"]
    assert tuple(test[name] for name in ("target", "protocol", "queries", "identities")) == (
        "cuhkpedes",
        "t2i",
        120,
        30,
    )
    assert list(test["metrics"]) == ["R@1", "R@5", "R@10", "mAP", "mINP"]
    metric = test["metrics"]["mAP"]
    assert metric["a"] == pytest.approx(model_result(0).AP.mean())
    assert metric["low"] < 0.05 < metric["high"] < 0.06
    assert metric["opposite"] == 0.0
    assert test["metrics"]["mAP"]["excludes_zero"] is test["metrics"]["mINP"]["excludes_zero"] is True
    assert test["metrics"]["R@1"]["excludes_zero"] is False  # neither has a match at rank 1


def test_a_run_does_not_differ_from_itself(runs, capsys):
    assert run_command(runs[0], runs[0]) == 0
    assert "excludes 0 for: none" in capsys.readouterr().out


def test_two_protocols_of_one_run_are_compared(tmp_path, capsys):
    """The same figures as between two runs that have them under one name."""
    fused, plain = model_result(1, better=0.05, protocol="ti2i"), model_result(0, protocol="ti2i_sum")
    run = write(tmp_path / "a", model_result(2), plain, fused)
    (test,) = compare(run, run, protocols=("ti2i_sum", "ti2i"))["tests"]
    runs = write(tmp_path / "b", replace(plain, protocol="ti2i")), write(tmp_path / "c", fused)
    assert test["metrics"] == compare(*runs)["tests"][0]["metrics"]
    assert test["metrics"]["mAP"]["difference"] == pytest.approx(fused.AP.mean() - plain.AP.mean())
    assert run_command(run, run, "--protocols", "ti2i_sum", "ti2i") == 0
    printed = capsys.readouterr().out
    assert "cuhkpedes, ti2i_sum and ti2i: 120 queries of 30 identities" in printed
    assert "was tested on" not in printed
    with pytest.raises(DataError, match=r"no test on which A has ti2i and B i2i: .* was tested on cuhkpedes, t2i and"):
        compare(run, run, protocols=("ti2i", "i2i"))


def test_order_of_the_queries_does_not_matter(runs, tmp_path):
    order = np.random.default_rng(0).permutation(PEOPLE * CAPTIONS)
    other = write(tmp_path / "c", model_result(1, better=0.05).select(order))
    assert compare(runs[0], other)["tests"] == compare(*runs)["tests"]


def test_equal_captions_of_a_photo_are_two_queries(tmp_path):
    twice = np.array([0, 0, *range(1, PEOPLE * CAPTIONS)])
    a, b = (model_result(seed).select(twice) for seed in (0, 1))
    runs = write(tmp_path / "a", a), write(tmp_path / "b", b.select(twice[::-1].argsort()))
    assert compare(*runs)["tests"][0]["queries"] == 121
    once = write(tmp_path / "c", model_result(0))
    with pytest.raises(DataError, match="the queries differ, 1 are only in A, 0 only in B, 120 in both"):
        compare(runs[0], once)


def test_other_queries_or_identities_are_refused(runs, tmp_path):
    other = model_result(1)
    new_keys = np.concatenate([other.keys[:-3], np.arange(2, dtype=np.uint64)])
    write(tmp_path / "c", replace(other.select(np.arange(119)), keys=new_keys))
    with pytest.raises(DataError, match="t2i: the queries differ, 3 are only in A, 2 only in B, 117 in both"):
        compare(runs[0], tmp_path / "c")
    write(tmp_path / "c", replace(other, pids=np.where(other.pids == 5, 8, other.pids)))
    with pytest.raises(DataError, match="4 of 120 queries have another identity in B than in A"):
        compare(runs[0], tmp_path / "c")


def test_only_tests_of_both_runs_are_compared(runs, tmp_path):
    a = write(tmp_path / "a", *(model_result(0, protocol=name) for name in ("t2i", "i2t", "both")))
    b = write(tmp_path / "b", *(model_result(1, protocol=name) for name in ("both", "t2i")))
    write(b, model_result(5, target="rstpreid"))
    result = compare(a, b)
    assert [(test["target"], test["protocol"]) for test in result["tests"]] == [
        ("cuhkpedes", "t2i"),
        ("cuhkpedes", "both"),
    ]
    assert (result["only_a"], result["only_b"]) == (["cuhkpedes, i2t"], ["rstpreid, t2i"])
    text = format_comparison(result)
    assert "only A was tested on cuhkpedes, i2t\nonly B was tested on rstpreid, t2i\n" in text


def test_runs_that_cannot_be_compared_are_refused(runs, tmp_path):
    write(tmp_path / "c", model_result(0, protocol="i2t"))
    with pytest.raises(DataError, match=r"'.*a' was tested on cuhkpedes, t2i, '.*c' on cuhkpedes, i2t"):
        compare(runs[0], tmp_path / "c")
    with pytest.raises(DataError, match=r"nowhere' is not a folder"):
        compare(runs[0], tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty' has no queries_<target>\.npz"):
        compare(tmp_path / "empty", runs[0])
    records_path(runs[1], "cuhkpedes").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"b.queries_cuhkpedes\.npz' as the queries of a run"):
        compare(*runs)


def test_the_printed_table(runs, capsys):
    assert run_command(*runs) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["A", str(runs[0])]
    assert lines[3] == "cuhkpedes, t2i: 120 queries of 30 identities"
    assert lines[4].split() == ["A", "B", "B", "-", "A", "[95", "%", "interval]", "other", "sign"]
    (test,) = compare(*runs)["tests"]
    metric = test["metrics"]["mAP"]
    row = next(line for line in lines if line.startswith("mAP"))
    shares = [f"{100 * metric['a']:.2f}", f"{100 * metric['b']:.2f}", f"{100 * metric['difference']:+.2f}"]
    assert row.split()[1:4] == shares
    assert row.endswith("0.0 %  excludes 0")
    assert next(line for line in lines if line.startswith("R@1 ")).endswith("100.0 %")
    clear = [name for name, row in test["metrics"].items() if row["excludes_zero"]]
    assert f"The 95 % interval of B - A excludes 0 for: {', '.join(clear)}" in lines
    assert "not a p-value" in lines[-1]


@pytest.mark.parametrize(
    ("people", "note"),
    [(1, "There is only one identity"), (19, "With fewer than 20 identities the intervals are too narrow"), (20, None)],
)
def test_few_identities_are_pointed_out(people, note, tmp_path):
    runs = (write(tmp_path / name, model_result(0, by, people)) for name, by in (("a", 0.0), ("b", 0.05)))
    result = compare(*runs)
    text = format_comparison(result)
    notes = [line for line in text.splitlines() if "one identity" in line or "too narrow" in line]
    assert notes == [] if note is None else notes[0].startswith(note)
    if people == 1:  # an interval without width excludes zero, which means nothing
        assert not any(metric["excludes_zero"] for metric in result["tests"][0]["metrics"].values())
        assert "excludes 0 for: none" in text


def test_the_json_file(runs, tmp_path):
    run_command(*runs, "--json", tmp_path / "out.json", "--samples", 300, "--seed", 4)
    content = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert content == {**compare(*runs, samples=300, seed=4), "command": "t2ireid compare …"}
    assert (content["run_a"], content["samples"], content["seed"], content["level"]) == (str(runs[0]), 300, 4, 0.95)
    (test,) = content["tests"]
    assert (test["target"], test["protocol"], test["queries"], test["identities"]) == ("cuhkpedes", "t2i", 120, 30)
    metric = test["metrics"]["mAP"]
    assert sorted(metric) == ["a", "b", "difference", "excludes_zero", "high", "low", "opposite"]
    assert metric["difference"] == metric["b"] - metric["a"]
    assert metric["excludes_zero"] is True
    assert test["metrics"]["R@1"]["excludes_zero"] is False


def test_bad_options_are_refused(runs, tmp_path):
    with pytest.raises(DataError, match=r"cannot write '.*out\.json'"):
        run_command(*runs, "--json", tmp_path / "no" / "out.json")
    with pytest.raises(DataError, match="samples must be at least 1, got 0"):
        run_command(*runs, "--samples", 0)
