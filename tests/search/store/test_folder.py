"""The folder store against a dictionary of rows and a plain product."""

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from t2ireid_plugin.search.rows import Filter, Row
from t2ireid_plugin.search.store import folder
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
    max_examples=25,
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
