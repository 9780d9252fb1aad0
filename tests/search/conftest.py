"""A trained run as ONNX files, and a Milvus server."""

import pytest

from t2ireid_plugin.cli import main


@pytest.fixture(scope="session")
def onnx_folder(tiny_run, make_once):
    """The trained run as ONNX files: ViT and BERT, ranking by both branches."""
    return make_once("onnx", lambda folder: main(["export", str(tiny_run.folder), str(folder), "--onnx"]))


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory):
    """Address of a Milvus Lite server at 127.0.0.1, whose port is bound before it is known."""
    lite = pytest.importorskip("milvus_lite.adapter.grpc.server")
    server, database, port = lite.start_server_in_thread(str(tmp_path_factory.mktemp("milvus")), "127.0.0.1", 0)
    yield f"milvus://127.0.0.1:{port}"
    server.stop(None).wait()
    database.close()
