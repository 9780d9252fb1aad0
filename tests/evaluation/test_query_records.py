import gc
import io
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation.query_records import (
    QueryRecord,
    load_records,
    query_keys,
    records_path,
    save_records,
)
from t2ireid_plugin.evaluation.ranking import QueryScores, score_queries
from t2ireid_plugin.evaluation.ranks import PositiveRanks

KEY = 15747793128181094251  # of the caption and photo below


def random_record(seed, queries=6):
    rng = np.random.default_rng(seed)
    return QueryRecord(
        rng.integers(1, 100, queries).astype(np.int32),
        *rng.uniform(0.01, 1, (2, queries)),
        rng.integers(-5, 10**12, queries),
        rng.integers(0, 2**64, queries, dtype=np.uint64),
    )


def same(first, second):
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.fixture
def saved(tmp_path):
    path = records_path(tmp_path, "cuhkpedes")
    save_records(path, "cuhkpedes", {"t2i": random_record(0), "中文/..": random_record(1, 3)})
    return path


def test_what_was_saved_comes_back(saved):
    assert saved.name == "queries_cuhkpedes.npz"
    target, protocols = load_records(saved)
    assert target == "cuhkpedes"
    assert list(protocols) == ["t2i", "中文/.."]
    assert same(protocols["t2i"], random_record(0))
    assert same(protocols["中文/.."], random_record(1, 3))
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]  # no draft is left


def test_other_integers_are_stored_alike(tmp_path):
    """Ranks and pids of other widths, as lists or other code may have them."""
    record = random_record(0)
    wider = record._replace(first_rank=record.first_rank.astype(np.int64), pid=record.pid.tolist())
    save_records(tmp_path / "queries_x.npz", "x", {"t2i": wider})
    assert same(load_records(tmp_path / "queries_x.npz").protocols["t2i"], record)


def test_the_same_records_give_the_same_bytes(saved, tmp_path):
    target, protocols = load_records(saved)
    save_records(tmp_path / "again.npz", target, protocols)
    assert (tmp_path / "again.npz").read_bytes() == saved.read_bytes()


def test_a_record_of_scores_keeps_the_queries_that_have_a_positive():
    scores = score_queries(PositiveRanks(np.array([1, 4, 2, 3], np.int32), np.array([0, 2, 2, 3, 4])))
    record = QueryRecord.of(scores, [5, 99, 6, 7], np.arange(4, dtype=np.uint64))
    assert record.pid.tolist() == [5, 6, 7]
    assert record.key.tolist() == [0, 2, 3]
    back = record.scores
    assert back.query_index.tolist() == [0, 1, 2]
    for one, other in zip(back[1:], scores[1:], strict=True):
        np.testing.assert_array_equal(one, other)


def test_keys_are_the_same_everywhere():
    """A number that another machine must come to as well; a change of it needs a new version of the file."""
    keys = query_keys([("/data/CUHK-PEDES/imgs/cam_a/000_45.bmp", "A man in a red coat.")])
    assert keys.dtype == np.uint64
    assert keys.tolist() == query_keys([("cam_a/000_45.bmp", "A man in a red coat.")]).tolist() == [KEY]


def test_keys_tell_queries_apart():
    queries = [("a/1.jpg", "x"), ("a/1.jpg", "y"), ("a/2.jpg", "x"), ("b/1.jpg", "x"), ("a/1.jpg", ""), ("1.jpg", "x")]
    assert len(set(query_keys(queries).tolist())) == len(queries)
    assert query_keys([*queries, queries[0]]).tolist()[-1] == query_keys(queries[:1])[0]
    assert query_keys([]).shape == (0,)


@given(st.text(), st.text(st.characters(codec=None)))
def test_any_text_has_a_key(path, caption):
    assert query_keys([(path, caption), ("a.jpg", "half \ud83d")]).shape == (2,)


def broken(record, **columns):
    return record._replace(**{name: np.asarray(values) for name, values in columns.items()})


RECORD = random_record(0, 2)
WRONG = [
    (broken(RECORD, pid=[1]), "columns of protocol 't2i' have the shapes"),
    (random_record(0, 0), "columns of protocol 't2i' have the shapes"),
    (QueryRecord(*(column[None] for column in RECORD)), "columns of protocol 't2i' have the shapes"),
    (broken(RECORD, pid=[1.0, 2.0]), "pid of protocol 't2i' is float64, not int64"),
    (broken(RECORD, key=[-1, 2]), "key of protocol 't2i' is int64, not uint64"),
    (broken(RECORD, key=["a", "b"]), "key of protocol 't2i' is <U1, not uint64"),
    (broken(RECORD, AP=[0.5, np.nan]), "AP or INP not between 0 and 1"),
    (broken(RECORD, INP=[0.5, 1.5]), "AP or INP not between 0 and 1"),
    (broken(RECORD, first_rank=[0, 1]), "ranks below 1"),
]


@pytest.mark.parametrize(("record", "message"), WRONG)
def test_what_no_query_can_have_is_not_written(record, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_records(tmp_path / "queries_x.npz", "x", {"t2i": record})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("record", "message"), WRONG)
def test_nor_is_it_read(record, message, tmp_path):
    columns = {f"0.{name}": column for name, column in record._asdict().items()}
    np.savez(tmp_path / "queries_x.npz", format=1, target="x", protocols=["t2i"], **columns)
    with pytest.raises(DataError, match=rf"queries_x\.npz' holds what no run writes: .*{message}"):
        load_records(tmp_path / "queries_x.npz")


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"there is no '.*queries_x\.npz'"):
        load_records(tmp_path / "queries_x.npz")


class Harmful:
    def __reduce__(self):
        return (pytest.fail, ("code of the file was run",))


def array_file(content, **options):
    stream = io.BytesIO()
    np.save(stream, content, **options)
    return stream.getvalue()


def zip_file(**members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged, or no file of a run's queries"),
        (b"R@1 is 50 %\n", "is damaged, or no file of a run's queries"),
        (pickle.dumps(Harmful()), "is damaged, or no file of a run's queries"),
        (array_file(np.arange(3)), "is damaged, or no file of a run's queries: a single array"),
        (zip_file(target=array_file(np.array(Harmful()), allow_pickle=True)), "Object arrays cannot be loaded"),
        (zip_file(target=array_file(np.array("x"))), "is no file of a run's queries: it has no 'format"),
        (zip_file(format=array_file(np.array(2))), "is of version 2, this program reads 1: test that run again"),
        (zip_file(format=array_file(np.arange(2))), "holds what no run writes"),
    ],
)
def test_foreign_files(content, message, tmp_path):
    path = tmp_path / "queries_x.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_records(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.filterwarnings("error")
def test_damaged_files_are_closed(tmp_path):
    (tmp_path / "queries_x.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError):
        load_records(tmp_path / "queries_x.npz")
    gc.collect()


def test_a_folder_in_its_place(tmp_path):
    with pytest.raises(DataError, match="is damaged, or no file of a run's queries"):
        load_records(tmp_path)


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_says_the_same(data, tmp_path_factory):
    """Not every byte of an archive means something; those that do are guarded."""
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / "queries_x.npz"
    save_records(path, "x", {"t2i": RECORD})
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        target, protocols = load_records(path)
    except DataError:
        return
    assert target == "x"
    assert same(protocols["t2i"], RECORD)


def test_a_write_that_fails_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def full(draft, **content):
        draft.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(DataError, match="No space left on device; the existing file is unchanged"):
        save_records(saved, "cuhkpedes", {"t2i": random_record(5)})
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"cannot write .*: No such file or directory"):
        save_records(records_path(tmp_path / "no", "x"), "x", {"t2i": random_record(0)})


def test_scores_are_accepted_as_they_are(tmp_path):
    """What `score_queries` gives needs no conversion before it is kept."""
    scores = QueryScores(np.array([0, 2]), np.array([1, 3], np.int32), np.array([1.0, 0.4]), np.array([1.0, 0.2]))
    record = QueryRecord.of(scores, np.array([4, 5, 6]), query_keys([("a/1.jpg", text) for text in "xyz"]))
    save_records(records_path(tmp_path, "x"), "x", {"t2i": record})
    assert same(load_records(records_path(tmp_path, "x")).protocols["t2i"], record)
