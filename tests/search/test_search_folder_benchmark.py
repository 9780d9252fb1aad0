"""``tools/benchmark.py search-folder``."""

import json

import pytest

from benchmarks.main import main


@pytest.mark.slow
def test_each_step_reads_the_photos_that_changed_and_no_pytorch(onnx_folder, tmp_path):
    file = tmp_path / "figures.json"
    assert main(["search-folder", "--photos", "30", "--model", str(onnx_folder), "--json", str(file)]) == 0
    figures = json.loads(file.read_text())["search-folder"]
    reports = {step: values["report"] for step, values in figures.items()}
    changes = "1 replaced, 2 moved, 1 removed, 26 unchanged"  # a touched photo has moved in time
    assert reports == {"first": "30 new", "again": "", "index": "", "changed": changes}
    assert not any(values["torch"] for values in figures.values())
