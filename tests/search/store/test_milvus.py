"""The Milvus store on a Milvus Lite server at 127.0.0.1, compared with the folder store and the store in memory."""

import contextlib
import hashlib
import json
import socket
import sys

import numpy as np
import pytest

from t2ireid_plugin.errors import ConfigError, DataError, DependencyError, InputError
from t2ireid_plugin.search import Gallery
from t2ireid_plugin.search.rows import File, Filter, Move, Row
from t2ireid_plugin.search.store import milvus
from t2ireid_plugin.search.store.folder import FolderStore
from t2ireid_plugin.search.store.milvus import MilvusStore

DIM = 16
ODD = ['a "quoted".jpg', "back\\slash\n.jpg", "100%_.jpg", '" or path != "', "人/图 1.jpg", "𝒳.jpg"]


@pytest.fixture
def address(milvus_server, request):
    """An address of a collection that no other test uses."""
    return f"{milvus_server}/c{hashlib.md5(request.node.name.encode()).hexdigest()}"


@pytest.fixture
def connect(address):
    """`connect(…)`: the store at `address`, which is closed after the test."""
    with contextlib.ExitStack() as stores:
        yield lambda *about, **root: stores.enter_context(contextlib.closing(MilvusStore(address, *about, **root)))


class WordEncoder:
    """Vectors that are drawn from a sentence's digest."""

    dim, fingerprint = DIM, "words"

    def encode_query(self, text=None, image=None, minus=None, weight=None):
        return drawn(text)


def drawn(text):
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    vector = np.random.default_rng(seed).normal(size=DIM).astype(np.float32)
    return vector / np.linalg.norm(vector)


@pytest.mark.slow
def test_memory_folder_and_milvus_give_the_same_hits_for_100_sentences(address, tmp_path):
    galleries = [
        Gallery.open(where, WordEncoder(), root=tmp_path) for where in (None, tmp_path / "people.idx", address)
    ]
    paths = [f"d{i % 5}/{i}.jpg" for i in range(120)] + ODD
    chance = np.random.default_rng(0)
    days = chance.integers(1, 29, len(paths))
    about = {
        "camera": [None if i % 7 == 0 else f"cam {i % 4}" for i in range(len(paths))],
        "time": [None if i % 11 == 0 else f"2026-11-{day:02}T08:00:00+01:00" for i, day in enumerate(days)],
        "track": [i // 3 if i % 2 else None for i in range(len(paths))],
        "box": [(i, 0.5, i + 10.25, 99.1) if i % 3 else None for i in range(len(paths))],
    }
    filters = [
        {},
        {"camera": "cam 1"},
        {"camera": ["cam 1", "cam 2"], "after": "2026-11-10T00:00:00+01:00", "before": "2026-11-17T00:00:00+01:00"},
        {"path": tmp_path / "d3"},
        {"per": "track", "camera": "cam 3"},
        {"per": "file", "min_score": 0.1},
        {"track": 33},
        {"exact": True},
    ]

    def results(gallery, batch):
        hits = []
        for i in range(batch * 25, batch * 25 + 25):
            options = filters[i % len(filters)]
            hits.append([hit._replace(id=0) for hit in gallery.search(f"sentence {i}", k=10, **options)])
        return len(gallery), hits

    vectors = np.stack([drawn(path) for path in paths])
    changes = [
        lambda g: g.add_embeddings(vectors, [tmp_path / path for path in paths], **about),
        lambda g: (g.delete(camera="cam 2", before="2026-11-08T00:00:00+01:00"), g.delete(path=tmp_path / "d1")),
        lambda g: g.add_embeddings(vectors[20:60], [tmp_path / p for p in paths[60:100]], camera="new", replace=True),
        lambda g: g.purge(),
    ]
    for batch, change in enumerate(changes):
        for gallery in galleries:
            change(gallery)
        memory, folder, cluster = (results(gallery, batch) for gallery in galleries)
        assert memory[1][0]
        assert memory == folder
        assert memory == cluster
    for gallery in galleries:
        gallery.close()


def test_the_index_of_the_server_finds_what_an_exact_search_finds(connect, monkeypatch):
    store = connect()
    store.add(np.stack([drawn(str(i)) for i in range(300)]), [Row(f"{i}.jpg", f"c{i % 2}") for i in range(300)])
    queries = np.stack([drawn(f"sentence {i}") for i in range(10)])
    exact = [store.search(queries, 10, chosen, exact=True) for chosen in (None, Filter("c1"))]
    monkeypatch.setattr(milvus, "_CANDIDATES", 60)
    monkeypatch.setattr(store, "_query", None)  # reads all that match
    for chosen, (scores, ids) in zip((None, Filter("c1")), exact):
        own_scores, own_ids = store.search(queries, 10, chosen)
        np.testing.assert_array_equal(own_ids, ids)
        np.testing.assert_array_equal(own_scores, scores)


def test_rows_files_and_moves_are_kept_as_in_memory(connect):
    rows = [Row(path, f"c{i % 2}", i + 0.25, i, (0.1, 1.0, 2.0, 3.5), 7, b"jpeg") for i, path in enumerate(ODD)]
    rows += [Row("plain.jpg"), Row("video.avi", track=1_000_003)]
    vectors = np.stack([drawn(str(row)) for row in rows])
    files = [File(row.path, 1 << 40, 1_793_000_000_123_456_789, b"\x00\xff", "a\n'note'") for row in rows]
    moves = [
        Move(ODD[1], File("moved/人.jpg", 5, 6, b"\x01"), "c9"),
        Move("plain.jpg", File("plain.jpg", 7, 8, b"\x02")),
    ]
    stores = FolderStore(None), connect()
    for store in stores:
        assert (store.count(), store.files(), store.last_track(), store.cameras()) == (0, {}, -1, [])
        assert (store.exists, store.search(vectors[:1], 3)[1].shape) == (False, (1, 0))
        store.add(vectors, rows, files)
        store.add(np.empty((0, DIM)), [], [File("no person.jpg", 1, 2, b"\x03", "no person")])
    for store in (*stores, connect()):
        assert (store.exists, store.dim, store.last_track(), store.cameras()) == (True, DIM, 1_000_003, ["c0", "c1"])
    for path in ODD:
        assert [store.count(Filter(path=path)) for store in stores] == [1, 1]
    for store in stores:
        store.move(moves)
        assert store.delete(Filter(path="moved")) == 1
        store.add(np.empty((0, DIM)), [], replace=[ODD[3], "no person.jpg", *(f"missing {i}" for i in range(1500))])
        assert store.delete(Filter(track=2)) == 1
    memory, cluster = stores
    assert cluster.files() == memory.files()
    assert cluster.files().keys() == {ODD[0], ODD[4], ODD[5], "plain.jpg", "video.avi"}
    for (vectors, rows), (own_vectors, own_rows) in zip(memory.scan(), cluster.scan(), strict=True):
        assert sorted(rows) == sorted(own_rows)
        np.testing.assert_array_equal(np.sort(vectors, axis=0), np.sort(own_vectors, axis=0))
    assert cluster.info(verify=True)["problems"] == []
    ids = cluster.search(drawn("a")[None], 3)[1][0]
    assert list(cluster.rows([*ids, 1 << 40])) == ids.tolist()


def test_a_large_crop_becomes_smaller(connect):
    import cv2

    pixels = np.random.default_rng(0).integers(0, 256, (800, 300, 3), np.uint8)
    crop = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    store = connect()
    (number,) = store.add(drawn("a")[None], [Row("a.avi", crop=crop)])
    stored = cv2.imdecode(np.frombuffer(store.rows([number])[number].crop, np.uint8), cv2.IMREAD_COLOR)
    assert stored.shape == (400, 150, 3)


def test_another_model_or_dimension_is_refused_with_both_named(connect):
    connect(DIM, "model-a").add(drawn("a")[None], [Row("a.jpg")])
    with pytest.raises(DataError, match="fingerprint model-a; this model has model-b"):
        connect(DIM, "model-b")
    with pytest.raises(DataError, match=f"holds vectors of {DIM} values, not 512"):
        connect(512)
    store = connect(root="/photos")
    assert (store.fingerprint, store.root) == ("model-a", "/photos")
    for wrong in (np.ones((1, DIM + 1)), np.full((1, DIM), np.nan)):
        with pytest.raises(InputError):
            store.add(wrong, [Row("a.jpg")])


def test_a_strange_collection_or_a_newer_format_is_refused(connect, address):
    store = connect()
    name = address.rsplit("/", 1)[1]
    store._client.create_collection(name, dimension=4)
    with pytest.raises(DataError, match="is not an index; name a new collection"):
        connect()
    header = json.dumps({"format": 99, "fingerprint": "", "root": ""})
    store._client.create_collection(f"{name}b", dimension=4, properties={"t2ireid": header})
    with pytest.raises(DataError, match="has the format 99, newer than 1"):
        MilvusStore(f"{address}b")


@pytest.mark.parametrize("kind", ["closed", "silent"])
def test_a_server_that_does_not_answer_is_one_line(kind, monkeypatch, capfd):
    pytest.importorskip("pymilvus")
    monkeypatch.setattr(milvus, "TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"milvus://127.0.0.1:{listener.getsockname()[1]}/people"
        if kind == "closed":
            listener.close()
        with pytest.raises(DataError) as error:
            MilvusStore(address)
    assert address in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_a_wrong_address_and_a_missing_client_are_explained(monkeypatch):
    with pytest.raises(ConfigError, match="milvus://localhost:19530/people"):
        MilvusStore("milvus://localhost/people")
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(DependencyError, match="pip install pymilvus"):
        MilvusStore("milvus://localhost:19530/people")
