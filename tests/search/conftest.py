"""A trained run as ONNX files."""

import pytest

from t2ireid_plugin.cli import main


@pytest.fixture(scope="session")
def onnx_folder(tiny_run, make_once):
    """The trained run as ONNX files: ViT and BERT, ranking by both branches."""
    return make_once("onnx", lambda folder: main(["export", str(tiny_run.folder), str(folder), "--onnx"]))
