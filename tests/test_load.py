"""`t2ireid_plugin.load`: a trained model by its folder, its file or its name on the Hugging Face hub."""

import logging
import shutil
import warnings

import numpy as np
import pytest
from huggingface_hub import constants

import t2ireid_plugin
from t2ireid_plugin.cli import main
from t2ireid_plugin.errors import CheckpointError, ConfigError
from t2ireid_plugin.modeling.encoders import loading
from t2ireid_plugin.search import Encoder


def test_a_run_is_loaded_quietly(tiny_run, capfd, caplog):
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        model = t2ireid_plugin.load(tiny_run.folder, device="cpu")
    assert isinstance(model, Encoder)
    assert model.encode_texts(["a woman in a red jacket"]).shape == (1, model.dim)
    assert (*capfd.readouterr(), caplog.text) == ("", "", "")


def test_devices_that_cannot_be_used_are_refused(tiny_run, tmp_path):
    with pytest.raises(ConfigError, match=r"device: 'gpu' cannot be used \(.*\); give 'cpu', or 'cuda'"):
        t2ireid_plugin.load(tiny_run.folder, device="gpu")
    (tmp_path / "onnx.json").touch()
    with pytest.raises(ConfigError, match="device: 'cuda' is for PyTorch; leave it out"):
        t2ireid_plugin.load(tmp_path, device="cuda")


@pytest.mark.slow
def test_a_hub_id_in_the_cache_needs_no_network(tiny_run, tmp_path, monkeypatch):
    """Laid out as after a download."""
    repository = tmp_path / "hub" / "models--somebody--finder"
    assert main(["export", str(tiny_run.folder), str(tmp_path / "finder")]) == 0
    shutil.copytree(tmp_path / "finder", repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(loading, "_hub_reachable", lambda: False)
    texts = ["a woman in a red jacket"]
    run, hub = t2ireid_plugin.load(tiny_run.folder), t2ireid_plugin.load("somebody/finder")
    assert hub.fingerprint == run.fingerprint
    np.testing.assert_allclose(hub.encode_texts(texts), run.encode_texts(texts), atol=1e-6)


def refuse(*_, **options):
    raise ConnectionError(f"no such repository, {options}\nand more")


@pytest.mark.parametrize(
    ("reachable", "reason"),
    [(False, "the hub is not reachable from here"), (True, "no such repository, .*'local_files")],
)
def test_an_unknown_name_says_where_it_was_looked_for(tmp_path, monkeypatch, reachable, reason):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "_hub_reachable", lambda: reachable)
    monkeypatch.setattr(loading, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=rf"no model: 'some/body' is not a file or folder here, nor .*\({reason}"):
        t2ireid_plugin.load("some/body")


def test_a_path_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    """A name in a folder that exists, and anything but ``owner/name``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log").mkdir()
    monkeypatch.setattr(loading, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    for name in ("log/dmeo", "./dmeo", "dmeo", "log/run/best.pth"):
        with pytest.raises(CheckpointError, match="does not exist; name a run, a checkpoint or an exported folder"):
            t2ireid_plugin.load(name)
