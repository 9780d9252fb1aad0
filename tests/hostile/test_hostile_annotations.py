"""Annotations, tables and records of runs that lead outside, never end or hold what no text is."""

import io
import json
import zipfile

import numpy as np
import pytest

from t2ireid_plugin.data.annotations import read_photos, stays_inside
from t2ireid_plugin.data.benchmarks import BENCHMARKS
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation.query_records import QueryRecord, load_records, save_records
from t2ireid_plugin.prepare.table.table import read_table
from t2ireid_plugin.utils.safe_io import parse_json

SPEC = BENCHMARKS["cuhkpedes"]


def refusal(cuhk, content):
    cuhk.file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    with pytest.raises(DataError) as error:
        read_photos(cuhk.root, SPEC)
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 2500
    return text


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd",
        "a/../../../etc/passwd",
        "/etc/passwd",
        "//etc/passwd",
        "..",
        "a/..",
        "..\\..\\secret.png",
        "a\\..\\..\\secret.png",
        "\\\\server\\share\\a.png",
    ],
)
def test_paths_that_leave_the_folder(cuhk, refused, tiny_settings, tmp_path, path):
    assert not stays_inside(path)
    cuhk.rows[3]["file_path"] = path
    cuhk.save()
    line = refused("train", *tiny_settings(tmp_path / "log", data__root=cuhk.root))
    assert line == f"'{cuhk.file}', row 3: file_path {path!r} leaves the folder 'imgs'"


@pytest.mark.parametrize("path", ["a.png", "cam_a/a.png", "a..b/c.png", "...", ".a/b.png", "./a.png", "a b/ü.png"])
def test_paths_that_stay(path):
    assert stays_inside(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[" * 10**7, "it is nested too deeply"),
        ('[{"a":' * 50_000, "it is nested too deeply"),
        (b"[{\xff}]", "can't decode byte 0xff"),
        ("[]".encode("utf-16"), "can't decode byte 0xff"),
        ('[{"id": NaN}]', "NaN is no JSON number"),
        ('[{"x": -Infinity}]', "-Infinity is no JSON number"),
        ('[{"id": 1, "id": 2}]', "the key 'id' is twice in one object"),
        ("[{" + ", ".join(f'"{i % 100_000}": 0' for i in range(100_001)) + "}]", "the key '0' is twice in one object"),
        ("[{" + ", ".join(f'"{min(i, 99_999)}": 0' for i in range(100_001)) + "}]", "the key '99999' is twice"),
        ('[{"id": ' + "9" * 5000 + "}]", "4300 digits"),
        (json.dumps([{str(i): 0 for i in range(100_000)}]), "row 0: no 'split' (found 0, 1, "),
        (json.dumps([{"split": "x" * 10**7, "captions": [], "id": 1, "file_path": ""}]), "row 0: split 'xxx"),
    ],
    ids=["brackets", "objects", "utf8", "utf16", "nan", "infinity", "twice", "first", "last", "digits", "keys", "long"],
)
def test_what_no_annotation_is(cuhk, content, reason):
    text = refusal(cuhk, content)
    assert text.startswith(f"'{cuhk.file}'")
    assert reason in text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"captions": ["x " * 50_000_000]}, "has 100,000,000 characters, more than the 10,000 taken"),
        ({"captions": ["a\0man"]}, "'a\\x00man' holds a zero byte"),
        ({"captions": ["\ud800 man"]}, "holds half a character (a lone surrogate)"),
        ({"id": 10**400}, "does not fit into 64 bits"),
        ({"id": 1e300}, "id 1e+300 is not a whole number"),
        ({"id": eval("[" * 90 + "]" * 90)}, "id [[[[[[[...]]]]]]] is not a whole number"),
        ({"split": {"a": [1] * 10**5}}, "split {'a': [1, 1, 1, 1, 1, 1, ...]} is none of train"),
        ({"camera": {"a": 1}}, "camera {'a': 1} is no text or whole number"),
        ({"camera": "\ud800"}, "camera '\\ud800' is no text or whole number"),
    ],
    ids=["100MB", "zero", "surrogate", "bigint", "float", "deep", "split", "camera", "camera2"],
)
def test_what_no_row_is(cuhk, changes, reason):
    cuhk.rows[2].update(changes)
    text = refusal(cuhk, json.dumps(cuhk.rows))
    assert text.startswith(f"'{cuhk.file}', row 2")
    assert reason in text


@pytest.mark.parametrize("path", ["cam_a/\0.png", "cam_a/\ud800.png", "a" * 5000, "\x1b[2J.png"])
def test_names_that_no_image_has(cuhk, path):
    cuhk.rows[2]["file_path"] = path
    text = refusal(cuhk, json.dumps(cuhk.rows))
    assert text.startswith(f"missing image '{cuhk.base / 'imgs'}")
    assert text.isprintable()


def test_a_depth_just_below_pythons_own_limit_is_named_or_taken(cuhk):
    """Where reading still works, writing the message must."""
    for depth in (*range(900, 1000, 7), 990, 991, 992, 993):
        rows = json.dumps(cuhk.rows[:1]).replace('"train"', "[" * depth + "]" * depth)
        text = refusal(cuhk, rows)
        assert "nested too deeply" in text or "row 0: split [[[[[[[...]]]]]]] is none of" in text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"image": "a.jpg", "caption": "' + "x" * 100_000_000 + '"}', "line 1: caption 'xxx"),
        ("[" * 10**7, "line 1: not valid JSON"),
        ('{"image": "a.jpg", "image": "b.jpg", "caption": "x"}', "the key 'image' is twice in one object"),
        ('{"image": "a.jpg", "caption": "x", "id": NaN}', "NaN is no JSON number"),
        ('{"image": "a.jpg", "caption": "x", "id": ' + "9" * 5000 + "}", "4300 digits"),
    ],
    ids=["long", "brackets", "twice", "nan", "digits"],
)
def test_what_no_line_of_a_table_is(tmp_path, content, reason):
    file = tmp_path / "x.jsonl"
    file.write_text(content)
    with pytest.raises(DataError) as error:
        read_table(file)
    assert reason in str(error.value)
    assert len(str(error.value)) < 2500


def test_a_csv_of_one_endless_line(tmp_path):
    file = tmp_path / "x.csv"
    file.write_bytes(b"image,caption\na.jpg," + b"x" * 100_000_000)
    with pytest.raises(DataError, match=r"line 2: .*field larger than field limit"):
        read_table(file)


def test_a_table_that_is_a_device(tmp_path):
    (tmp_path / "x.csv").symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"x\.csv' \(not a file but a pipe, socket or device\)"):
        read_table(tmp_path / "x.csv")


def npz(file, member):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("format.npy", member)


def array_header(shape, kind):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def test_records_hold_no_objects_and_unpack_to_what_records_have(tmp_path):
    mark, file = tmp_path / "created", tmp_path / "queries_x.npz"

    class Creates:
        def __reduce__(self):
            return open, (str(mark), "w")

    np.savez(file, format=np.array([Creates()], dtype=object))
    with pytest.raises(DataError, match="allow_pickle=False"):
        load_records(file)
    assert not mark.exists()
    npz(file, array_header((10**12,), "<f8"))
    with pytest.raises(DataError, match="Unable to allocate"):
        load_records(file)
    npz(file, array_header((3 * 10**8,), "|u1") + bytes(3 * 10**8))
    assert file.stat().st_size < 2 * 10**6
    with pytest.raises(DataError, match=r"it unpacks to 300,000,\d\d\d bytes, more than the 268,435,456 taken"):
        load_records(file)


def test_letters_beyond_unicode(tmp_path):
    """Found by tools/fuzz.py: NumPy's own error for them is one of the interpreter."""
    file = tmp_path / "queries_x.npz"
    np.savez(
        file,
        format=np.array(1),
        target=np.array([0x110000], np.uint32).view("<U1")[0:1].reshape(()),
        protocols=np.array([], "U1"),
    )
    with pytest.raises(DataError, match="holds what no run writes: invalid maximum character"):
        load_records(file)


def test_a_member_that_is_no_array(tmp_path):
    """Found by tools/fuzz.py: NumPy hands out the bytes of a member whose header is damaged."""
    file = tmp_path / "queries_x.npz"
    record = QueryRecord(*(np.ones(3, kind) for kind in (np.int32, float, float, np.int64, np.uint64)))
    save_records(file, "x", {"t2i": record})
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part[1:] if name == "protocols.npy" else part)
    with pytest.raises(DataError, match="it holds more than arrays"):
        load_records(file)


def test_a_message_has_no_letter_that_a_terminal_would_not_show(cuhk):
    """Found by tools/fuzz.py: a byte order mark in the middle, among others."""
    cuhk.rows[2]["file_path"] = "\ufeffa\u202e\x1b[2J\r\u2028.png"
    assert refusal(cuhk, json.dumps(cuhk.rows)).isprintable()


def test_json_is_what_pythons_own_reader_gives():
    text = json.dumps({"a": [1, 2.5, None, True, "ü\n"], "b": {"c": {}}})
    assert parse_json(text) == parse_json(b"\xef\xbb\xbf" + text.encode()) == json.loads(text)
