import json

import pytest

from benchmarks.main import main


@pytest.mark.slow
def test_it_measures_every_size_and_writes_the_figures_that_it_prints(tmp_path, capsys):
    words = ["data", "--images", "3", "--rounds", "2", "--rows", "60", "--json", str(tmp_path / "data.json")]
    assert main(words) == 0
    printed = capsys.readouterr().out
    figures = json.loads((tmp_path / "data.json").read_text())["data"]
    assert [row["what"] for row in figures["transforms"]] == [
        f"{crop} -> {size}" for size in ("384x128", "224x224") for crop in ("128x64", "260x100", "420x170")
    ]
    for row in figures["transforms"]:
        assert row["what"] in printed
        for kind in ("test", "training"):
            low, high = row[kind]["ratio_range"]
            assert 0 < low <= row[kind]["ratio"] <= high
            assert row[kind]["ours"] > 0
    assert figures["dataset"]["images"] == 60
    assert figures["dataset"]["captions"] == 120
