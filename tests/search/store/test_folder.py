"""The folder store against a dictionary of rows and a plain product."""

import errno
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from t2ireid_plugin.errors import ConfigError, DataError
from t2ireid_plugin.search.rows import File, Filter, Move, Row
from t2ireid_plugin.search.store import database, folder
from t2ireid_plugin.search.store.folder import FolderStore

DIM = 8


class Naive:
    """Vectors and rows by id, searched one by one."""

    def __init__(self):
        self.rows, self.next = {}, 0

    def add(self, vectors, rows, replace=()):
        self.rows = {i: pair for i, pair in self.rows.items() if pair[1].path not in replace}
        for vector, row in zip(vectors, rows):
            self.rows[self.next] = vector, row
            self.next += 1

    def matches(self, filter, row):
        cameras = (filter.camera,) if isinstance(filter.camera, str) else filter.camera
        return (
            (cameras is None or row.camera in cameras)
            and (filter.after is None or (row.time is not None and row.time >= filter.after))
            and (filter.before is None or (row.time is not None and row.time < filter.before))
            and (filter.path is None or row.path == filter.path or row.path.startswith(filter.path + "/"))
            and (filter.track is None or row.track == filter.track)
        )

    def delete(self, filter):
        gone = [i for i, (_, row) in self.rows.items() if self.matches(filter, row)]
        for i in gone:
            del self.rows[i]
        return len(gone)

    def search(self, query, k, filter):
        scored = [
            (np.float32(vector.astype(np.float64) @ query.astype(np.float64)), i)
            for i, (vector, row) in self.rows.items()
            if self.matches(filter, row)
        ]
        return sorted(scored, key=lambda pair: (-pair[0], pair[1]))[:k]


def random_vectors(seed, n):
    """Small whole numbers, so that many scores tie and all are exact."""
    return np.random.default_rng(seed).integers(-3, 4, (n, DIM)).astype(np.float32)


PATHS = ("a.jpg", "b.jpg", "b/1.jpg", "b/2.jpg", "b0.jpg")
rows = st.builds(
    Row,
    st.sampled_from(PATHS),
    st.sampled_from([None, "c1", "c2"]),
    st.sampled_from([None, 1.0, 2.0, 3.5]),
    st.sampled_from([None, 4, 5]),
    st.sampled_from([None, (0.0, 1.0, 2.0, 3.5)]),
    st.sampled_from([None, 7]),
    st.sampled_from([b"", b"jpeg"]),
)
filters = st.builds(
    Filter,
    camera=st.sampled_from([None, None, "c1", ("c1", "c2"), "c3"]),
    after=st.sampled_from([None, None, 1.5, 2.0]),
    before=st.sampled_from([None, None, 2.0, 3.0]),
    path=st.sampled_from([None, None, "b", "a.jpg"]),
    track=st.sampled_from([None, None, None, 4]),
)
steps = st.one_of(
    st.tuples(st.just("add"), st.lists(rows, min_size=0, max_size=20), st.booleans()),
    st.tuples(st.just("delete"), filters),
    st.tuples(st.just("purge")),
    st.tuples(st.just("reopen")),
    st.tuples(st.just("search"), filters, st.integers(1, 30), st.booleans()),
)


@pytest.fixture
def small_codes(monkeypatch):
    """Codes for segments of 16 rows and more in an index of more than 16, as FAISS needs them."""
    pytest.importorskip("faiss")
    monkeypatch.setattr(folder, "MIN_INDEX", 16)
    monkeypatch.setattr(folder, "MIN_SEGMENT", 16)


@pytest.mark.parametrize("where", ["folder", "memory"])
@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # shrinking takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(steps, min_size=3, max_size=14), seed=st.integers(0, 1000))
def test_any_sequence_of_calls_equals_a_plain_model(where, small_codes, tmp_path_factory, steps, seed):
    path = tmp_path_factory.mktemp("index") / "people.idx" if where == "folder" else None
    store, naive = FolderStore(path), Naive()
    for number, (name, *arguments) in enumerate([*steps, ("search", Filter(), 50, False)]):
        if name == "add":
            vectors = random_vectors(seed + number, len(arguments[0]))
            replace = {row.path for row in arguments[0]} if arguments[1] else ()
            ids = store.add(vectors, arguments[0], replace=replace)
            naive.add(vectors, arguments[0], replace)
            assert ids.tolist() == list(range(naive.next - len(vectors), naive.next))
        elif name == "delete":
            assert store.delete(arguments[0]) == naive.delete(arguments[0])
        elif name == "purge":
            store.purge()
            assert store.info()["deleted_not_purged"] == 0
        elif name == "reopen" and path:
            store.close()
            store = FolderStore(path)
        elif name == "search":
            chosen, k, exact = arguments
            queries = random_vectors(5000 + seed + number, 3)
            scores, ids = store.search(queries, k, chosen, exact)
            wanted = [naive.search(query, k, chosen) for query in queries]
            assert [list(zip(*pair)) for pair in zip(scores.tolist(), ids.tolist())] == wanted
            assert store.rows(ids[0]) == {i: naive.rows[i][1] for i in ids[0]}
            assert store.count(chosen) == len(naive.search(queries[0], 1000, chosen))
    assert store.info(verify=True)["problems"] == []
    scanned = [row for _, part in store.scan(batch=4) for row in part]
    assert scanned == [naive.rows[i][1] for i in sorted(naive.rows)]
    store.close()


def vectors_of(seed, n):
    vectors = np.random.default_rng(seed).standard_normal((n, DIM), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def named(n, prefix="p"):
    return [Row(f"{prefix}{i}.jpg") for i in range(n)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "people.idx"


def everything_in(path):
    return b"".join(file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file())


@pytest.mark.parametrize("network", [False, True])
def test_purge_leaves_no_byte_of_a_deleted_row(path, network, small_codes, monkeypatch):
    monkeypatch.setattr(database, "on_network", lambda _: network)
    store, reader = FolderStore(path), FolderStore(path)
    vectors = vectors_of(0, 40)
    secrets = [vectors[7].tobytes(), b"row7-secret.jpg", b"a crop of seven"]
    rows = [Row(f"row{i}-secret.jpg", crop=b"a crop of seven" if i == 7 else b"another") for i in range(40)]
    files = [File(row.path, 1, 1, b"digest") for row in rows]
    store.add(vectors, rows, files)
    store.add(vectors_of(1, 3), named(3))
    assert all(secret in everything_in(path) for secret in secrets)
    assert (path / "rows.sqlite-wal").exists() != network
    reader.search(vectors[:1], 5)
    assert store.delete(Filter(path="row7-secret.jpg")) == 1
    assert [reader.search(vectors[7:8], 99)[1][0].tolist().count(i) for i in (7, 8)] == [0, 1]
    store.purge()
    assert not [secret for secret in secrets if secret in everything_in(path)]
    assert vectors[8].tobytes() in everything_in(path)
    assert b"row8-secret.jpg" in everything_in(path)
    assert reader.search(vectors[8:9], 1)[1].tolist() == [[8]]
    assert reader.info(verify=True)["problems"] == []
    reader.close()
    store.close()


def test_codes_may_be_deleted_at_any_time(path, small_codes):
    vectors = vectors_of(0, 300)
    with FolderStore(path) as store:
        store.add(vectors, named(300))
        wanted = store.search(vectors[:5], 10, exact=True)
    (codes,) = (path / "codes").iterdir()
    for damage in (lambda: None, lambda: codes.write_bytes(b"?"), codes.unlink):
        damage()
        with FolderStore(path) as store:
            assert np.array_equal(store.search(vectors[:5], 10), wanted)
    with FolderStore(path) as store:
        store.add(vectors[:1], named(1))
        assert store.info()["segments_with_codes"] == 1


def test_without_faiss_search_is_exact_and_says_what_that_costs(path, small_codes, monkeypatch, caplog):
    vectors = vectors_of(0, 300)
    monkeypatch.setattr(folder, "has_faiss", lambda: False)
    with FolderStore(path) as store:
        store.add(vectors, named(300))
        for _ in range(2):
            assert store.search(vectors[:1], 1)[1].tolist() == [[0]]
    assert caplog.messages == ["without faiss-cpu a query compares all 300 vectors, about 0.0 s of CPU"]


def test_deleting_the_best_of_the_codes_loses_no_result(path, small_codes):
    """Codes keep deleted vectors until a purge; hundreds of them may be nearer than all others."""
    rng = np.random.default_rng(0)
    near = np.ones((900, DIM), np.float32) + rng.normal(0, 0.01, (900, DIM)).astype(np.float32)
    far = vectors_of(1, 200)
    with FolderStore(path) as store:
        store.add(np.concatenate([near, far]), [*named(900, "near"), *named(200, "far")])
        store.add(near[:0], [], replace=[f"near{i}.jpg" for i in range(895)])
        query = np.ones((1, DIM), np.float32)
        assert np.array_equal(store.search(query, 20), store.search(query, 20, exact=True))
        assert set(store.search(query, 5)[1][0]) == set(range(895, 900))


def test_small_batches_give_few_segments(path):
    with FolderStore(path) as store:
        for n in range(40):
            store.add(vectors_of(n, 1), named(1, f"{n}-"))
        assert store.info()["segments"] <= 7
        assert len(list((path / "segments").iterdir())) == store.info()["segments"]
        assert [row.path for _, rows in store.scan(8) for row in rows] == [f"{n}-0.jpg" for n in range(40)]


def test_a_failed_addition_changes_nothing(path, monkeypatch):
    """Full disk while a segment is written, or rows that are fewer than vectors."""
    with FolderStore(path) as store:
        store.add(vectors_of(0, 3), named(3))
        before = sorted(path.rglob("*"))
        with pytest.raises(ValueError, match="zip"):
            store.add(vectors_of(1, 3), named(2), replace=["p0.jpg"])
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
        with pytest.raises(DataError, match="No space left"):
            store.add(vectors_of(1, 3), named(3), replace=["p0.jpg"])
        assert sorted(path.rglob("*")) == before
        assert store.count() == 3
        assert store.count(Filter(path="p0.jpg")) == 1


def test_sqlite_on_a_full_disk_is_one_line(path):
    with FolderStore(path) as store:
        store.add(vectors_of(0, 3), named(3))
        store._db.execute("PRAGMA max_page_count = 12")
        with pytest.raises(DataError, match="full; the index is as after its last commit"):
            store.add(vectors_of(0, 9000), named(9000))
        assert store.count() == 3
        assert store.info(verify=True)["problems"] == []


def test_one_writer_at_a_time_is_named(path, tmp_path):
    """The lock is of a process, so another process holds it here."""
    with FolderStore(path) as store:
        store.add(vectors_of(0, 1), named(1))
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        with FolderStore(path) as store, store.writing():
            os.write(ready[1], b"1")
            os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    with FolderStore(path) as store:
        with pytest.raises(ConfigError, match=f"another run is writing to '{path}' \\(process {child} on"):
            store.add(vectors_of(0, 1), named(1))
        assert store.count() == 1
        os.write(done[1], b"1")
        os.waitpid(child, 0)
        store.add(vectors_of(0, 1), named(1))


def test_a_reader_sees_each_commit_whole(path):
    """Batches of 5 rows are added, and others deleted, while another connection counts."""
    stop, counts, problems = threading.Event(), set(), []

    def read():
        with FolderStore(path) as store:
            while not stop.is_set():
                ids = store.search(np.ones((1, DIM), np.float32), 10_000)[1]
                counts.add(ids.shape[1])
                if len(store.rows(ids[0])) % 5:
                    problems.append(ids)

    with FolderStore(path) as store:
        store.add(vectors_of(0, 5), named(5, "0-"))
        thread = threading.Thread(target=read)
        thread.start()
        for n in range(1, 40):
            store.add(vectors_of(n, 5), named(5, f"{n}/"))
            if n % 3 == 0:
                store.delete(Filter(path=f"{n}"))
            if n % 13 == 0:
                store.purge()
        stop.set()
        thread.join()
    assert not problems
    assert len(counts) > 3
    assert {count % 5 for count in counts} == {0}


def test_moved_files_keep_their_vectors(path):
    with FolderStore(path) as store:
        store.add(
            vectors_of(0, 2), [Row("a.jpg", "c1"), Row("a.jpg", "c1", box=(0, 0, 1, 1))], [File("a.jpg", 1, 1, b"d")]
        )
        store.move([Move("a.jpg", File("b.jpg", 1, 2, b"d"), "c2")])
        assert {(row.path, row.camera) for row in store.rows([0, 1]).values()} == {("b.jpg", "c2")}
        assert store.files() == {"b.jpg": File("b.jpg", 1, 2, b"d")}
        store.delete(Filter(path="b.jpg"))
        assert store.files() == {}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "index.json").write_text("{"), r"index.json' is damaged"),
        (lambda p: (p / "index.json").write_text('{"format": 1}'), r"index.json' is damaged"),
        (
            lambda p: (p / "index.json").write_text(
                json.dumps({"format": 2, "dim": 8, "fingerprint": "", "root": ".."})
            ),
            "has the format 2, newer than 1; update t2ireid_plugin",
        ),
        (lambda p: (p / "rows.sqlite").write_bytes(b"not SQLite at all" * 100), "file is not a database"),
        (lambda p: (p / "rows.sqlite").unlink(), "unable to open database file"),
        (lambda p: next((p / "segments").iterdir()).unlink(), "is damaged: .* is missing"),
        (lambda p: ((p / "index.json").unlink(), (p / "me.jpg").touch()), "is not an index: it holds 'me.jpg'"),
    ],
)
def test_damage_is_one_line(path, damage, message):
    with FolderStore(path) as store:
        store.add(vectors_of(0, 3), named(3))
    damage(path)
    with pytest.raises(DataError, match=message) as raised, FolderStore(path) as store:
        store.search(vectors_of(0, 1), 1)
    assert "\n" not in str(raised.value)


def test_verify_finds_changed_bytes(path):
    with FolderStore(path) as store:
        store.add(vectors_of(0, 3), named(3))
        assert store.info(verify=True)["problems"] == []
    (segment,) = (path / "segments").iterdir()
    content = bytearray(segment.read_bytes())
    content[-1] ^= 1
    segment.write_bytes(content)
    with FolderStore(path) as store:
        assert store.info(verify=True)["problems"] == [f"segments/{segment.name} differs from what was written"]


def test_a_folder_that_cannot_be_written_can_be_searched(path, monkeypatch):
    with FolderStore(path) as store:
        store.add(vectors_of(0, 3), named(3))
    before = sorted(path.iterdir())
    monkeypatch.setattr(os, "access", lambda *_: False)
    with FolderStore(path) as store:
        assert store.search(vectors_of(0, 1), 1)[1].tolist() == [[0]]
        assert sorted(path.iterdir()) == before


def test_network_file_systems_are_recognised(monkeypatch):
    mounts = (
        "none / ext4 rw 0 0\nhost:/a /data nfs4 rw 0 0\nx /data/local xfs rw 0 0\nme@host: /ssh fuse.sshfs rw 0 0\n"
    )
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: mounts)
    places = ("/data/people.idx", "/data/local/people.idx", "/ssh/people.idx", "/database")
    assert [database.on_network(Path(place)) for place in places] == [True, False, True, False]
