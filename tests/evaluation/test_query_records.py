import gc
import io
import json
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation import query_records
from t2ireid_plugin.evaluation.query_records import load_ranks, load_records, query_keys, records_path, save_records
from t2ireid_plugin.evaluation.result import RetrievalResult

KEY = 15747793128181094251  # of the caption and photo below
# Names in the file, and in results.
COLUMNS = dict(zip(("first_rank", "AP", "INP", "pid", "key"), ("first_rank", "AP", "INP", "pids", "keys")))


def random_result(seed, queries=6, protocol="t2i"):
    rng = np.random.default_rng(seed)
    return RetrievalResult(
        rng.integers(1, 100, queries).astype(np.int32),
        *rng.uniform(0.01, 1, (2, queries)),
        rng.integers(-5, 10**12, queries),
        keys=rng.integers(0, 2**64, queries, dtype=np.uint64),
        target="cuhkpedes",
        protocol=protocol,
    )


def assert_same(first, second):
    assert (first.target, first.protocol) == (second.target, second.protocol)
    for name in COLUMNS.values():
        assert getattr(first, name).dtype == getattr(second, name).dtype
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@pytest.fixture
def saved(tmp_path):
    path = records_path(tmp_path, "cuhkpedes")
    save_records(path, [random_result(0), random_result(1, 3, "中文/..")])
    return path


def test_saved_results_are_loaded_again(saved, tmp_path):
    assert saved.name == "queries_cuhkpedes.npz"
    results = load_records(saved)
    assert list(results) == ["t2i", "中文/.."]
    assert_same(results["t2i"], random_result(0))
    assert_same(results["中文/.."], random_result(1, 3, "中文/.."))
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]  # no draft is left
    save_records(tmp_path / "again.npz", list(results.values()))
    assert (tmp_path / "again.npz").read_bytes() == saved.read_bytes()


def test_keys_distinguish_queries_on_every_machine():
    """A change of `KEY` needs a new version of the file."""
    keys = query_keys([("/data/CUHK-PEDES/imgs/cam_a/000_45.bmp", "A man in a red coat.")])
    queries = [("a/1.jpg", "x"), ("a/1.jpg", "y"), ("a/2.jpg", "x"), ("b/1.jpg", "x"), ("a/1.jpg", ""), ("1.jpg", "x")]
    assert len(set(query_keys(queries).tolist())) == len(queries)
    assert query_keys([("a/\u00fc.jpg", "x")]) == query_keys([("a/u\u0308.jpg", "x")])  # one name, in NFC and in NFD
    assert keys.dtype == query_keys([]).dtype == np.uint64
    assert keys.tolist() == query_keys([("cam_a/000_45.bmp", "A man in a red coat.")]).tolist() == [KEY]


@given(st.text(), st.text(st.characters(codec=None)))
def test_any_text_has_a_key(path, caption):
    assert query_keys([(path, caption), ("a.jpg", "half \ud83d")]).shape == (2,)


RESULT = random_result(0, 2)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"pids": [1]}, "the columns of protocol 't2i' have the shapes"),
        ({"pids": [1.0, 2.0]}, "float64.*int64"),
        ({"keys": [-1, 2]}, "int64.*uint64"),
    ],
)
def test_columns_of_wrong_lengths_or_types_are_refused(columns, message, tmp_path):
    result = replace(RESULT, **{name: np.asarray(values) for name, values in columns.items()})
    path = tmp_path / "queries_x.npz"
    arrays = {f"0.{name}": getattr(result, field) for name, field in COLUMNS.items()}
    np.savez(path, format=1, target="x", protocols=["t2i"], **arrays)
    with pytest.raises(DataError, match=rf"queries_x\.npz' as the queries of a run: .*{message}"):
        load_records(path)


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


DAMAGED = "cannot read '.*' as the queries of a run"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", DAMAGED),
        (b"R@1 is 50 %\n", DAMAGED),
        (pickle.dumps(Harmful()), DAMAGED),
        (array_file(np.arange(3)), f"{DAMAGED}: a single array"),
        (zip_file(target=array_file(np.array(Harmful()), allow_pickle=True)), "Object arrays cannot be loaded"),
        (zip_file(format=array_file(np.array(1))[1:]), DAMAGED),
        (zip_file(target=array_file(np.array("x"))), f"{DAMAGED}: it lacks 'format"),
        (
            zip_file(format=array_file(np.array(2))),
            f"{DAMAGED}: it has version 2, this program reads 1; test that run again",
        ),
        (zip_file(format=array_file(np.arange(2))), DAMAGED),
    ],
)
def test_foreign_files_are_refused(content, message, tmp_path):
    path = tmp_path / "queries_x.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_records(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.filterwarnings("error")  # a damaged file is closed
def test_missing_large_and_damaged_files(saved, tmp_path, monkeypatch):
    (tmp_path / "queries_y.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=DAMAGED):
        load_records(tmp_path / "queries_y.npz")
    gc.collect()
    monkeypatch.setattr(query_records, "_MAX_BYTES", 1000)
    with pytest.raises(DataError, match=r"unpacks to \d,\d+ bytes, more than the limit of 1,000"):
        load_records(saved)
    with pytest.raises(DataError, match="No such file"):
        load_records(tmp_path / "queries_x.npz")
    with pytest.raises(DataError, match=DAMAGED):
        load_records(tmp_path)


@given(data=st.data())
def test_a_damaged_file_is_refused_or_reads_the_same(data, tmp_path_factory):
    """Not every byte of an archive carries content; those that do are guarded."""
    path = tmp_path_factory.mktemp("damaged") / "queries_x.npz"
    save_records(path, [RESULT])
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        results = load_records(path)
    except DataError:
        return
    assert_same(results["t2i"], RESULT)


# The ranks of another program

QUERY = {"image": "imgs/cam_a/000_45.bmp", "caption": "A man in a red coat.", "pid": 7, "ranks": [2, 3, 8]}


def ranks_file(folder, *lines):
    path = folder / "queries_cuhkpedes.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_ranks_give_the_figures_of_each_query(tmp_path):
    other = {**QUERY, "caption": "Ein Mann\u2028im roten Mantel.", "pid": 8, "ranks": [1]}
    result = load_ranks(ranks_file(tmp_path, *(json.dumps(row, ensure_ascii=False) for row in (QUERY, other))))
    assert result.first_rank.tolist() == [2, 1]
    np.testing.assert_allclose(result.AP, [(1 / 2 + 2 / 3 + 3 / 8) / 3, 1])
    np.testing.assert_allclose(result.INP, [3 / 8, 1])
    assert (result.pids.tolist(), result.keys[0], result.target, result.protocol) == ([7, 8], KEY, "cuhkpedes", "t2i")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "line 2: "),
        ("[1, 2]", r'line 2: it must be \{"image": "…", "caption": "…", "pid": 7, "ranks": \[1, 4\]\}'),
        (json.dumps({**QUERY, "pid": "7"}), "line 2: it must be"),
        (json.dumps({**QUERY, "ranks": []}), "line 2: ranks must be integers from 1, ascending, one for each match"),
        (json.dumps({**QUERY, "ranks": [0, 4]}), "line 2: ranks must be integers from 1"),
        (json.dumps({**QUERY, "ranks": [4, 2]}), "line 2: ranks must be integers from 1, ascending"),
        (json.dumps({**QUERY, "ranks": [1.5]}), "line 2: ranks must be integers"),
    ],
)
def test_lines_that_are_not_ranks_are_named(line, message, tmp_path):
    path = ranks_file(tmp_path, json.dumps(QUERY), line, json.dumps(QUERY))
    with pytest.raises(DataError, match=rf"cannot read '.*queries_cuhkpedes\.jsonl' as ranks: {message}"):
        load_ranks(path)
    with pytest.raises(DataError, match="No such file"):
        load_ranks(tmp_path / "queries_x.jsonl")


def test_ranks_of_the_best_results_alone_are_refused(tmp_path):
    rows = [{**QUERY, "image": f"imgs/cam_a/{i}.bmp", "ranks": ranks} for i, ranks in enumerate(([1, 3, 9], [2], [4]))]
    path = ranks_file(tmp_path, *map(json.dumps, rows))
    with pytest.raises(DataError, match="line 2: 1 of the ranks, but the queries describe 3 photos of pid 7"):
        load_ranks(path)
