"""The commands with an index on a Milvus server."""

import json

import numpy as np
import pytest

from t2ireid_plugin.cli import main
from t2ireid_plugin.search import Gallery


@pytest.fixture
def call(capsys):
    """`call(*words)`: what the command prints; with ``status=2`` its error."""

    def run(*words, status=0):
        assert main([*map(str, words)]) == status, capsys.readouterr().err
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    return run


def test_an_index_is_exported_changed_and_described(call, milvus_server, tmp_path):
    index, address = tmp_path / "people.idx", f"{milvus_server}/exported"
    vectors = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    paths = [tmp_path / f"{i}.jpg" for i in range(30)]
    with Gallery.open(index) as gallery:
        gallery.add_embeddings(vectors, paths, camera=[f"c{i % 3}" for i in range(30)], track=list(range(30)))
    assert call("index", "export", index, "--milvus", address) == f"30 rows in '{address}'\n"
    assert "has rows already" in call("index", "export", index, "--milvus", address, status=2)
    assert call("index", "delete", address, "--camera", "c1").startswith("10 rows deleted")
    assert "garbage collection" in call("index", "purge", address)
    assert "problem" not in call("index", "info", address, "--verify")
    with Gallery.open(index) as gallery, Gallery.open(address) as cluster:
        gallery.delete(camera="c1")
        own, others = (g.search_embedding(vectors[0], 40) for g in (cluster, gallery))
        assert len(own) == 20
        assert [hit._replace(id=0) for hit in own] == [hit._replace(id=0) for hit in others]


@pytest.mark.slow
def test_photos_are_indexed_and_searched(call, milvus_server, tiny_run, synthetic):
    photos, address = synthetic.root / "CUHK-PEDES" / "imgs", f"{milvus_server}/photos"
    built = call("index", "build", photos, "--out", address, "--model", tiny_run.folder)
    search = "search", "a woman in a red jacket", "--index", address
    found = json.loads(call(*search, "--model", tiny_run.folder, "--json", "-k", 5))
    assert built == f"{found['total']} rows in '{address}'\n"
    assert len(found["hits"]) == 5
    again = call("index", "build", photos, "--out", address, "--model", tiny_run.folder)
    assert again == built
    assert "name its model (--model" in call(*search, status=2)


def test_a_missing_server_or_index_is_one_line(call, milvus_server):
    for address in ("milvus://127.0.0.1:9/people", f"{milvus_server}/missing"):
        (line,) = call("index", "info", address, status=2).splitlines()
        assert address in line
