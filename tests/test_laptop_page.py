"""docs/laptop.md: its commands run as printed, with tiny encoders in place of those from the hub."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from t2ireid_plugin.cli import main
from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.engine.checks import check_config
from t2ireid_plugin.errors import DependencyError
from t2ireid_plugin.prepare.table.table import read_table
from t2ireid_plugin.search.torch_sides import TorchSides

QUICK = "train.max_epoch 1 data.height 32 data.width 32 test.bootstrap 0 test.pictures 0 use_gpu False"
ENCODERS = "model.vit_pretrained weights/dinov2 model.bert_base_path weights/minilm"


def blocks(repository: Path, language: str) -> list[str]:
    text = (repository / "docs" / "laptop.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_example_table_is_read(repository, tmp_path) -> None:
    (content,) = blocks(repository, "csv")
    (tmp_path / "people.csv").write_text(content, encoding="utf-8")
    assert [row.identity for row in read_table(tmp_path / "people.csv").rows] == ["anna", "007"]


def without_onnx(_sides, _folder):
    raise DependencyError("as without the package onnx")


@pytest.mark.slow
def test_the_commands_run(repository, synthetic, encoders, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(TorchSides, "save", without_onnx)  # which takes most of the time
    Path("weights").mkdir()
    Path("weights/dinov2").symlink_to(encoders.vit)
    Path("weights/minilm").symlink_to(encoders.bert)
    drawn = synthetic.root / "CUHK-PEDES"
    shutil.copytree(drawn / "imgs", "photos")  # the search writes its index there
    with open("people.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("image", "identity", "caption"))
        rows = json.loads((drawn / "reid_raw.json").read_text(encoding="utf-8"))
        table.writerows((row["file_path"], row["id"], row["captions"][0]) for row in rows)
    commands, offline = (block.strip() for block in blocks(repository, "bash"))
    downloads, benchmark = blocks(repository, "sh")
    for settings in benchmark.split("--settings ")[1].strip().strip('"').split('" "'):
        check_config(load_cfg(None, settings.split()))
    assert all(f"--local-dir {folder}\n" in downloads for folder in ENCODERS.split()[1::2])
    *prepare, train, search = commands.splitlines()
    assert offline == f"{train} {ENCODERS}"
    for command in (*prepare, f"{offline} {QUICK}", search):
        program, *words = shlex.split(command)
        assert (program, main(words)) == ("t2ireid", 0)
    assert len(list(Path("cache/t2ireid_plugin").glob("*_features/*.npy"))) == 2
    assert re.search(r'<img[^>]+src="', Path("result.html").read_text(encoding="utf-8"))
