"""torchreid's own configuration files and script, from its source tree: `make test-layouts TORCHREID_SRC=…`."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torchreid

from t2ireid_plugin import cli
from t2ireid_plugin.cli import main
from t2ireid_plugin.config import image_only, load_cfg
from t2ireid_plugin.integrations.torchreid.checks import check_config

if "TORCHREID_SRC" not in os.environ:
    pytest.skip("needs torchreid's source tree, see make test-layouts", allow_module_level=True)

SOURCE = Path(os.environ["TORCHREID_SRC"]).resolve()
FILES = sorted((SOURCE / "configs").glob("*.yaml"))


def default_config():
    """torchreid's own defaults, from the file beside its script."""
    content: dict = {}
    code = (SOURCE / "scripts" / "default_config.py").read_text()
    exec(compile(code, "default_config.py", "exec"), content)
    return content["get_default_config"]()


def leaves(table, prefix=""):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_torchreid_is_imported_from_the_source_tree():
    assert Path(torchreid.__file__).resolve().is_relative_to(SOURCE)
    assert torchreid.data.__name__ == "torchreid.data"


def test_there_are_configuration_files():
    assert len(FILES) >= 9


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_torchreids_files_load_unchanged(file):
    theirs = default_config()
    theirs.merge_from_file(str(file))
    ours = load_cfg(file)
    check_config(ours)
    assert image_only(ours)
    settings = dict(leaves(ours))
    own = dict.fromkeys(("data.norm_mean", "data.norm_std"))  # the model's own, which are torchreid's defaults
    for name, value in leaves(theirs):
        assert settings[name] == own.get(name, value), name


def test_every_option_of_torchreids_script_is_supported():
    script = (SOURCE / "scripts" / "main.py").read_text()
    theirs = set(re.findall(r"'(--?[a-z-]+)'", script))
    assert {"--config-file", "-s", "--sources", "-t", "--targets", "--transforms", "--root"} == theirs
    commands = argparse.ArgumentParser().add_subparsers()
    cli._add_train(commands, "train", "")
    assert theirs <= set(commands.choices["train"]._option_string_actions)


def test_torchreids_script_gives_the_same_metrics_for_our_weights(reid_data, tmp_path):
    file = SOURCE / "configs" / "im_osnet_x0_25_softmax_256x128_amsgrad.yaml"
    words = ["--config-file", str(file), "-t", "market1501", "--root", str(reid_data)]
    words += ["data.height", "64", "data.width", "32", "data.workers", "0", "model.pretrained", "False"]
    words += ["train.batch_size", "24"]
    quick = ["train.max_epoch", "1", "train.fixbase_epoch", "0", "use_gpu", "False"]
    assert main(["train", *words, *quick, "data.save_dir", str(tmp_path / "ours")]) == 0
    metrics = json.loads((tmp_path / "ours" / "results.json").read_text())["metrics"]["market1501"]["i2i"]
    words += ["model.load_weights", str(tmp_path / "ours" / "best.pth"), "test.evaluate", "True"]
    words += ["data.save_dir", str(tmp_path / "theirs")]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(SOURCE / "scripts" / "main.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    mean_precision = float(re.search(r"mAP: ([0-9.]+)%", done.stdout)[1])
    assert 100 * metrics["mAP"] == pytest.approx(mean_precision, abs=0.051)
    for k in (1, 5, 10, 20):
        theirs = float(re.search(rf"Rank-{k} *: ([0-9.]+)%", done.stdout)[1])
        assert 100 * metrics[f"R@{k}"] == pytest.approx(theirs, abs=0.051)
