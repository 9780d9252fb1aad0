"""`t2ireid transfer`: training on each of several datasets and testing on all."""

import csv
import json

import pytest
from PIL import Image

from t2ireid_plugin.ablation import transfer
from t2ireid_plugin.cli import main

SETS = ("cuhkpedes", "icfgpedes", "rstpreid")


@pytest.mark.slow
@pytest.mark.usefixtures("preloaded_trainings")
def test_the_matrix_of_three_datasets(benchmark_root, tiny_settings, tmp_path, capsys):
    from t2ireid_plugin.data.benchmarks import BENCHMARKS

    for name in SETS:
        folder = BENCHMARKS[name].folder
        (tmp_path / folder).symlink_to(benchmark_root(name) / folder)
    out = tmp_path / "transfer"
    words = tiny_settings(out, data__root=tmp_path, data__val_share=0.2, train__max_epoch=1, test__bootstrap=0)
    command = ["transfer", *words[:2], "--sets", ",".join(SETS), "--out", str(out), *words[2:]]
    assert main(command) == 0
    printed = capsys.readouterr().out
    metrics = json.loads((out / "transfer.json").read_text())["metrics"]
    rows = list(csv.DictReader((out / "transfer.csv").open()))
    assert [(row["trained_on"], row["tested_on"]) for row in rows] == [(a, b) for a in SETS for b in SETS]
    for row in rows:
        own = out / row["trained_on"] / "seed1" / "results.json"
        expected = json.loads(own.read_text())["metrics"][row["tested_on"]]["t2i"]
        assert float(row["mAP"]) == expected["mAP"] == metrics[row["trained_on"]][row["tested_on"]]["mAP"]
        assert f"{100 * expected['R@1']:.2f} / {100 * expected['mAP']:.2f}" in printed
    assert (out / "transfer.md").read_text().strip() in printed
    assert Image.open(out / "transfer.png").size[0] > 300
    # a second call trains nothing
    (out / "transfer.md").unlink()
    assert main(command) == 0
    assert "3 of 3 runs are done already" in capsys.readouterr().err
    assert (out / "transfer.md").is_file()


def test_cells_without_results_and_epochs_chosen_on_test_are_marked():
    """The picture of a matrix with both is made too."""
    own = {"R@1": 0.5, "mAP": 0.25, "queries": 8, "gallery": 4, "epoch_chosen_on": "a"}
    matrix = {"b": {"a": own, "b": {**own, "R@1": 1.0}}}
    table, note = transfer.format_matrix(matrix, ["a", "b"]).split("\n\n")
    assert table.splitlines()[2:] == ["| a | – | – |", "| b | 50.00 / 25.00 | 100.00 / 25.00 |"]
    assert note == transfer.CHOSEN_ON_TEST
    figure = transfer.plot_matrix(matrix, ["a", "b"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["–", "–", "50.0", "100.0"]
    assert figure.get_suptitle() == note
    assert transfer._csv(matrix).splitlines()[1].endswith(",8,4,a")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"--sets": "cuhkpedes"}, "--sets: 'cuhkpedes' must name at least two datasets"),
        ({"--sets": "cuhkpedes,nothing"}, "nothing"),
        ({"--jobs": "0"}, "--jobs: 0 must be at least 1"),
    ],
)
def test_what_is_refused(changes, reason, tmp_path, capsys):
    options = {"--config-file": "t2i_vit_mamba", "--sets": "cuhkpedes,rstpreid", "--out": str(tmp_path / "out")}
    assert main(["transfer", *(word for pair in (options | changes).items() for word in pair)]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
