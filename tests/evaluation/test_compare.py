import argparse
import json
import shutil

import numpy as np
import pytest

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation import compare as command
from t2ireid_plugin.evaluation.compare import compare, format_comparison
from t2ireid_plugin.evaluation.query_records import QueryRecord, query_keys, records_path, save_records
from t2ireid_plugin.evaluation.ranking import QueryScores

PEOPLE, CAPTIONS = 30, 4


def record(seed, better=0.0, people=PEOPLE):
    """A model's figures; all models find the same people hard, and some are `better`."""
    number = people * CAPTIONS
    hard = np.repeat(np.random.default_rng(99).uniform(0.2, 0.8, people), CAPTIONS)
    ease = hard + better + np.random.default_rng(seed).uniform(-0.05, 0.05, number)
    scores = QueryScores(np.arange(number), np.ceil(3 / ease).astype(np.int32), ease, ease / 2)
    keys = query_keys([(f"cam_a/{i // 2}.jpg", f"caption {i}") for i in range(number)])
    return QueryRecord.of(scores, np.repeat(np.arange(people) * 3 + 5, CAPTIONS), keys)


def write(folder, protocols, target="cuhkpedes"):
    folder.mkdir(exist_ok=True)
    save_records(records_path(folder, target), target, protocols)
    return folder


@pytest.fixture
def runs(tmp_path):
    return write(tmp_path / "a", {"t2i": record(0)}), write(tmp_path / "b", {"t2i": record(1, better=0.05)})


def run_command(*words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]), "t2ireid compare …")


def test_a_better_run_is_better(runs):
    (test,) = compare(*runs).tests
    assert (test.target, test.protocol, test.queries, test.identities) == ("cuhkpedes", "t2i", 120, 30)
    assert list(test.metrics) == ["R@1", "R@5", "R@10", "mAP", "mINP"]
    found = test.metrics["mAP"]
    assert found.a == pytest.approx(record(0).AP.mean())
    assert found.low < 0.05 < found.high < 0.06
    assert found.opposite == 0.0
    assert {"mAP", "mINP"} <= set(test.clear)
    assert "R@1" not in test.clear  # neither finds anybody at once


def test_a_run_does_not_differ_from_itself(runs):
    (test,) = compare(runs[0], runs[0]).tests
    assert test.clear == []
    for found in test.metrics.values():
        assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_order_of_the_queries_is_of_no_account(runs, tmp_path):
    order = np.random.default_rng(0).permutation(PEOPLE * CAPTIONS)
    other = write(tmp_path / "c", {"t2i": record(1, better=0.05).taken(order)})
    assert compare(runs[0], other).tests == compare(*runs).tests


def test_two_equal_captions_of_a_photo(tmp_path):
    """They share a key, and are still two queries."""
    twice = np.array([0, 0, *range(1, PEOPLE * CAPTIONS)])
    a, b = (record(seed).taken(twice) for seed in (0, 1))
    runs = write(tmp_path / "a", {"t2i": a}), write(tmp_path / "b", {"t2i": b.taken(twice[::-1].argsort())})
    assert compare(*runs).tests[0].queries == 121
    once = write(tmp_path / "c", {"t2i": record(0)})
    with pytest.raises(DataError, match="not the same queries, 1 are only in A, 0 only in B, 120 in both"):
        compare(runs[0], once)


def test_other_queries(runs, tmp_path):
    other = record(1)
    other = other._replace(key=np.concatenate([other.key[:-3], np.arange(2, dtype=np.uint64)]))
    other = QueryRecord(*(column[: len(other.key)] for column in other))
    write(tmp_path / "c", {"t2i": other})
    with pytest.raises(DataError, match="t2i: not the same queries, 3 are only in A, 2 only in B, 117 in both"):
        compare(runs[0], tmp_path / "c")


def test_other_identities(runs, tmp_path):
    other = record(1)
    write(tmp_path / "c", {"t2i": other._replace(pid=np.where(other.pid == 5, 8, other.pid))})
    with pytest.raises(DataError, match="4 of 120 queries have another identity in B than in A"):
        compare(runs[0], tmp_path / "c")


def test_only_what_both_were_tested_on_is_compared(runs, tmp_path):
    a = write(tmp_path / "a", {"t2i": record(0), "i2t": record(2), "both": record(3)})
    b = write(tmp_path / "b", {"both": record(4), "t2i": record(1)})
    write(b, {"t2i": record(5)}, target="rstpreid")
    result = compare(a, b)
    assert [(test.target, test.protocol) for test in result.tests] == [("cuhkpedes", "t2i"), ("cuhkpedes", "both")]
    assert (result.only_a, result.only_b) == (["cuhkpedes, i2t"], ["rstpreid, t2i"])
    text = format_comparison(result)
    assert "only A was tested on cuhkpedes, i2t\nonly B was tested on rstpreid, t2i\n" in text


def test_nothing_in_common(runs, tmp_path):
    write(tmp_path / "c", {"i2t": record(0)})
    with pytest.raises(DataError, match=r"nothing in common: '.*a' on cuhkpedes, t2i, '.*c' on cuhkpedes, i2t"):
        compare(runs[0], tmp_path / "c")


def test_folders_that_are_no_runs(runs, tmp_path):
    with pytest.raises(DataError, match=r"there is no folder '.*nowhere'"):
        compare(runs[0], tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty' has no queries_<target>\.npz"):
        compare(tmp_path / "empty", runs[0])
    shutil.copy(records_path(runs[0], "cuhkpedes"), records_path(tmp_path / "empty", "rstpreid"))
    with pytest.raises(DataError, match=r"queries_rstpreid\.npz' holds the queries of cuhkpedes"):
        compare(tmp_path / "empty", runs[0])
    records_path(runs[1], "cuhkpedes").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"b.queries_cuhkpedes\.npz' is damaged"):
        compare(*runs)


def test_the_printed_table(runs, capsys):
    assert run_command(*runs) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["A", str(runs[0])]
    assert lines[3] == "cuhkpedes, t2i: 120 queries of 30 identities"
    assert lines[4].split() == ["A", "B", "B", "-", "A", "[95", "%", "interval]", "other", "sign"]
    (test,) = compare(*runs).tests
    found = test.metrics["mAP"]
    row = next(line for line in lines if line.startswith("mAP"))
    assert row.split()[1:4] == [f"{100 * found.a:.2f}", f"{100 * found.b:.2f}", f"{100 * found.value:+.2f}"]
    assert row.endswith("0.0 %   excludes 0")
    assert next(line for line in lines if line.startswith("R@1 ")).endswith("100.0 %")
    assert f"The 95 % interval of B - A excludes 0 for: {', '.join(test.clear)}" in lines
    assert "not a p-value" in lines[-1]


def test_no_difference_is_called_none(runs, capsys):
    run_command(runs[0], runs[0])
    assert "excludes 0 for: none" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("people", "note"),
    [(1, "There is but one identity"), (19, "With fewer than 20 identities the intervals are too narrow"), (20, None)],
)
def test_few_identities_are_pointed_out(people, note, tmp_path):
    runs = (write(tmp_path / name, {"t2i": record(0, by, people)}) for name, by in (("a", 0.0), ("b", 0.05)))
    result = compare(*runs)
    text = format_comparison(result)
    notes = [line for line in text.splitlines() if "one identity" in line or "too narrow" in line]
    assert notes == [] if note is None else notes[0].startswith(note)
    if people == 1:  # an interval without width excludes zero, which means nothing
        assert result.tests[0].clear == []
        assert "excludes 0 for: none" in text


def test_the_json_file(runs, tmp_path):
    run_command(*runs, "--json", tmp_path / "out.json", "--samples", 300, "--seed", 4)
    content = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    result = compare(*runs, samples=300, seed=4)
    assert content == {**result.as_dict(), "command": "t2ireid compare …"}
    assert (content["run_a"], content["samples"], content["seed"], content["level"]) == (str(runs[0]), 300, 4, 0.95)
    (test,) = content["tests"]
    assert (test["target"], test["protocol"], test["queries"], test["identities"]) == ("cuhkpedes", "t2i", 120, 30)
    found = test["metrics"]["mAP"]
    assert sorted(found) == ["a", "b", "difference", "excludes_zero", "high", "low", "opposite"]
    assert found["difference"] == found["b"] - found["a"]
    assert found["excludes_zero"] is True
    assert test["metrics"]["R@1"]["excludes_zero"] is False


def test_a_json_file_that_cannot_be_written(runs, tmp_path):
    with pytest.raises(DataError, match=r"cannot write '.*out\.json'"):
        run_command(*runs, "--json", tmp_path / "no" / "out.json")


def test_numbers_out_of_range(runs):
    with pytest.raises(DataError, match="samples must be at least 1, got 0"):
        run_command(*runs, "--samples", 0)
