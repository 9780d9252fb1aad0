"""``t2ireid search`` and ``t2ireid index`` as typed, on drawn people."""

import csv
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time

import faiss
import numpy as np
import pytest

from t2ireid_plugin.cli import main
from t2ireid_plugin.errors import EncoderError
from t2ireid_plugin.search import Encoder, Gallery
from t2ireid_plugin.search.torch_sides import TorchSides

SENTENCE = "a woman in a red jacket with a black bag"


@pytest.fixture(scope="module")
def encoder(tiny_run):
    return Encoder.load(tiny_run.folder)


@pytest.fixture
def without_onnx(monkeypatch):
    """As for a model that cannot be exported: the index has no encoder of its own."""

    def refuse(self, folder):
        raise EncoderError("cannot be exported to ONNX")

    monkeypatch.setattr(TorchSides, "save", refuse)


@pytest.fixture
def photos(synthetic, tmp_path):
    """A folder with 24 photos, two of them in a folder within."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for i, photo in enumerate(sorted((synthetic.root / "CUHK-PEDES" / "imgs").rglob("*.jpg"))[:24]):
        shutil.copy(photo, folder / ("more" if i < 2 else "") / f"cam{i % 3}_{i}.jpg")
    return folder


@pytest.fixture
def call(tiny_run, capsys, without_onnx):
    """`call(*words)`: what the command prints, which must succeed; `call(*words, status=2)` for its errors."""

    def run(*words, status=0, model=True):
        capsys.readouterr()
        named = ["--model", str(tiny_run.folder)] if model else []
        assert main([*map(str, words), *named]) == status, capsys.readouterr().err
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    return run


def vectors_of(index):
    """Vector by path of all rows."""
    with Gallery.open(index) as gallery, gallery.store.writing():
        return {
            gallery.absolute_path(row.path): vector
            for vectors, rows in gallery.store.scan()
            for vector, row in zip(vectors, rows)
        }


def test_search_finds_what_evaluation_finds(tiny_run, encoder, synthetic):
    """R@1, R@5 and R@10 of every test sentence, with the photos of the test split in a gallery."""
    base = synthetic.root / "CUHK-PEDES"
    rows = [row for row in json.loads((base / "reid_raw.json").read_text()) if row["split"] == "test"]
    person = {str(base / "imgs" / row["file_path"]): row["id"] for row in rows}
    with Gallery.open(None, encoder) as gallery:
        gallery.add_images(list(person), progress=False)
        found = [
            [person[hit.path] == row["id"] for hit in gallery.search(caption, k=10)]
            for row in rows
            for caption in row["captions"]
        ]
    expected = tiny_run.results["metrics"]["cuhkpedes"]["t2i"]
    assert len(found) == expected["queries"]
    for k in (1, 5, 10):
        assert np.mean([any(matches[:k]) for matches in found]) == pytest.approx(expected[f"R@{k}"])


def test_a_folder_is_indexed_once_and_searched(call, photos, encoder, tmp_path, capsys):
    paths = call("search", SENTENCE, photos, "-k", 100, "--paths").splitlines()
    assert sorted(paths) == sorted(map(str, photos.rglob("*.jpg")))
    stored = encoder.encode_images(paths) @ encoder.encode_query(SENTENCE)
    assert (np.diff(stored) <= 1e-6).all()
    os.rename(photos / "cam2_2.jpg", photos / "more" / "cam2_2.jpg")
    os.remove(photos / "cam0_3.jpg")
    (photos / "damaged.jpg").write_bytes(b"\xff\xd8\xff")
    printed = json.loads(call("search", SENTENCE, photos, "-k", 5, "--json"))
    assert (printed["total"], printed["searched"], len(printed["hits"])) == (23, 23, 5)
    assert main(["search", SENTENCE, str(photos), "--model", str(tmp_path)]) == 2
    os.remove(photos / "damaged.jpg")
    call("search", SENTENCE, photos, "--out", tmp_path / "result.html", "--min-score", -1)
    assert SENTENCE in (tmp_path / "result.html").read_text(encoding="utf-8")


def test_without_onnx_later_searches_need_the_model(tiny_run, photos, without_onnx, monkeypatch, tmp_path, capsys):
    command = ["search", SENTENCE, str(photos), "--model", str(tiny_run.folder)]
    assert main(command) == 0
    assert "later searches need --model as well (cannot be exported to ONNX)" in capsys.readouterr().err
    monkeypatch.setattr("t2ireid_plugin.search.command.find_spec", lambda name: None)
    page = tmp_path / "result.html"
    assert main([*command, "--out", str(page)]) == 0
    assert capsys.readouterr().err == f"Open in a browser: {page.as_uri()}\n"  # said once, and where the page is
    assert main(["search", SENTENCE, str(photos)]) == 2
    assert "--model" in capsys.readouterr().err


def test_filters_and_options_of_an_index(call, photos, tmp_path):
    index = tmp_path / "people.idx"
    call("index", "build", photos, "--out", index, "--camera-from", r"(?P<camera>cam\d)_")

    def search(*words):
        return json.loads(call("search", *words, "--index", index, "--json"))

    assert {hit["camera"] for hit in search(SENTENCE, "--camera", "cam1", "cam2")["hits"]} == {"cam1", "cam2"}
    photo = next(photos.glob("cam0_*.jpg"))
    assert search("--image", photo)["hits"][0]["path"] == str(photo)
    assert search(SENTENCE, "--image", photo)["hits"] != search(SENTENCE)["hits"]
    assert search(SENTENCE, "--weight", 1)["hits"] != search(SENTENCE, "--weight", 0)["hits"]
    assert search(SENTENCE, "--minus", SENTENCE)["hits"][0]["score"] == 0
    top = search(SENTENCE)["hits"][0]["score"]
    assert len(search(SENTENCE, "--min-score", top)["hits"]) == 1
    nothing = call("search", SENTENCE, "--index", index, "--after", "2030-01-01")
    assert nothing == "0 of 24 rows match the filter\n"
    table = call("search", SENTENCE, "--index", index, "-k", 2).splitlines()
    assert table[0].split() == ["score", "camera", "path"]
    assert table[3].startswith("2 of 24 rows. Scores are similarities")


def test_rows_are_deleted_and_their_bytes_erased(call, photos, tmp_path):
    index = tmp_path / "people.idx"
    call("index", "build", photos, "--out", index)
    gone = vectors_of(index)[str(photos / "cam0_3.jpg")]
    assert call("index", "delete", index, "--path", photos / "cam0_3.jpg", model=False).startswith("1 rows deleted")
    assert call("index", "delete", index, "--path", photos / "more", model=False).startswith("2 rows deleted")
    assert "0 rows deleted: no row" in call("index", "delete", index, "--path", photos / "mroe", model=False)
    assert "no camera 'cam9'" in call("index", "delete", index, "--camera", "cam9", status=2, model=False)
    call("index", "purge", index, model=False)
    content = [file.read_bytes() for file in index.rglob("*") if file.is_file()]
    assert not any(gone.tobytes() in data or b"cam0_3.jpg" in data for data in content)
    assert "verified" in call("index", "info", index, "--verify", model=False)
    call("index", "add", index, photos / "cam0_3.jpg", "--camera", "cam3")
    assert json.loads(call("search", SENTENCE, "--index", index, "--camera", "cam3", "--json"))["searched"] == 1


def test_old_rows_are_deleted_by_age(call, photos, tmp_path):
    names = sorted(path.name for path in photos.glob("*.jpg"))
    (photos / "list.csv").write_text(
        "path,camera,time\n" + "".join(f"{name},c,2{i % 2}20-01-01T00:00:00+00:00\n" for i, name in enumerate(names))
    )
    index = tmp_path / "people.idx"
    assert "22 rows" in call("index", "build", photos / "list.csv", "--out", index)
    assert call("index", "delete", index, "--keep-days", 30, model=False).startswith("11 rows deleted")


def test_a_list_says_that_known_photos_keep_camera_and_time(call, photos, tmp_path, tiny_run, capsys):
    (photos / "list.csv").write_text("path,camera\ncam0_3.jpg,entrance\n")
    index = tmp_path / "people.idx"
    call("index", "build", photos, "--out", index)
    assert main(["index", "add", str(index), str(photos / "list.csv"), "--model", str(tiny_run.folder)]) == 0
    assert "1 photos of" in (said := capsys.readouterr().err)
    assert "keep their camera and time" in said


def test_shards_are_merged_to_the_index_of_one_process(call, photos, tmp_path, monkeypatch):
    whole, part = tmp_path / "whole.idx", tmp_path / "part.idx"
    call("index", "build", photos, "--out", whole)
    for number in (1, 2, 3, 4):
        assert f"{part}.*of4" in call("index", "build", photos, "--out", part, "--shard", f"{number}/4")
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert "6 rows" in call("index", "build", photos, "--out", part)  # a finished shard
    assert "24 rows" in call("index", "merge", part, *sorted(tmp_path.glob("part.idx.*of4")), model=False)
    first, second = vectors_of(whole), vectors_of(part)
    assert list(first) == list(second)
    np.testing.assert_allclose(list(first.values()), list(second.values()), atol=1e-6)  # batches of other sizes
    with Gallery.open(whole) as a, Gallery.open(part) as b:
        assert a.store.files() == b.store.files()
        assert a.store.root == b.store.root
    assert "already exists" in call("index", "merge", part, whole, status=2, model=False)
    twice = call("index", "merge", tmp_path / "twice.idx", whole, part, whole, status=2, model=False)
    assert "is given twice" in twice


def test_a_tar_archive_gives_the_vectors_of_its_photos(call, photos, tmp_path):
    archive = tmp_path / "shard.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(photos, "photos")
    index = tmp_path / "people.idx"
    build = ("index", "build", archive, "--out", index, "--camera-from", r"(?P<camera>cam\d)_")
    assert "24 rows" in call(*build)
    assert "24 rows" in call(*build)
    call("index", "build", photos, "--out", tmp_path / "plain.idx")
    plain = vectors_of(tmp_path / "plain.idx")
    for path, vector in vectors_of(index).items():
        np.testing.assert_allclose(plain[path.replace("shard.tar/", "")], vector, atol=1e-6)
    assert json.loads(call("search", SENTENCE, "--index", index, "--camera", "cam0", "--json"))["searched"] == 8


def test_faiss_has_the_vectors_and_a_table_of_their_rows(call, photos, tmp_path):
    index, file = tmp_path / "people.idx", tmp_path / "people.faiss"
    call("index", "build", photos, "--out", index, "--camera", "c")
    assert "24 rows" in call("index", "export", index, "--faiss", file, model=False)
    with open(f"{file}.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    exported = faiss.read_index(str(file)).reconstruct_n(0, 24)
    expected = vectors_of(index)
    assert [row["path"] for row in rows] == list(expected)
    assert {row["camera"] for row in rows} == {"c"}
    np.testing.assert_array_equal(exported, list(expected.values()))


def test_an_audit_names_the_search_but_not_the_sentence(call, photos, tmp_path):
    file = tmp_path / "audit.jsonl"
    for sentence in (SENTENCE, SENTENCE, "a man"):
        call("search", sentence, photos, "--audit", file, "-k", 3)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[0]["sentence"] == lines[1]["sentence"] != lines[2]["sentence"]
    assert lines[0]["hits"] == lines[0]["k"] == 3
    assert SENTENCE not in file.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search", "a man"], "give a sentence in quotes"),
        (["search", "{photos}"], "give a sentence in quotes"),
        (["search", "a", "man", "{photos}"], "give a sentence in quotes"),
        (["search", "a man", "{photos}/gone"], "no folder '{photos}/gone'"),
        (["search", "a man", "{photos}"], "'{photos}' has no index yet; name a run or an export once with --model"),
        (["search", "a man", "--index", "gone.idx"], "no index 'gone.idx'"),
        (["search", "a man", "{photos}", "--model", "{photos}"], "no model: '{photos}' has none of best.pth"),
        (["index", "build", "{photos}", "--model", "{run}", "--out", "x", "--shard", "5/4"], "'5/4' is not a part"),
        (["index", "build", "{empty}", "--model", "{run}", "--out", "x"], "no photos in '{empty}'"),
        (["index", "build", "{empty}/a.csv", "--model", "{run}", "--out", "x"], "cannot read '{empty}/a.csv'"),
        (["index", "build", "{photos}/l.csv", "--model", "{run}", "--out", "x"], "has the columns file; valid: path"),
        (["index", "build", "{photos}/m.csv", "--model", "{run}", "--out", "x"], "row 2 below the header has no path"),
        (["search", "a man", "{photos}", "--root", "{empty}"], "--root goes with --index"),
        (["index", "delete", "gone.idx", "--keep-days", "-1"], "-1 is not a number of days"),
        (["index", "info", "gone.idx"], "no index 'gone.idx'"),
        (["index", "merge", "x", "gone.idx"], "no index 'gone.idx'"),
    ],
    ids=str,
)
def test_what_cannot_work_is_one_line(words, message, photos, tiny_run, tmp_path, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    (photos / "l.csv").write_text("file\n1.jpg\n")
    (photos / "m.csv").write_text("path,camera\n1.jpg,a\n,b\n")
    monkeypatch.chdir(tmp_path)
    names = {"photos": photos, "empty": tmp_path / "empty", "run": tiny_run.folder}
    assert main([word.format(**names) for word in words]) == 2
    error = capsys.readouterr().err
    assert message.format(**names) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_the_index_of_another_model_is_refused(call, photos, tmp_path, tiny_run):
    index = tmp_path / "people.idx"
    call("index", "build", photos, "--out", index)
    error = call("search", SENTENCE, "--index", index, "--model", tiny_run.other, status=2, model=False)
    assert Encoder.load(tiny_run.folder).fingerprint in error
    assert Encoder.load(tiny_run.other).fingerprint in error


QUERY = """
import sys
from t2ireid_plugin.cli import main
assert main(sys.argv[1:]) == 0
print(sorted({"torch", "transformers", "torchreid", "cv2"} & set(sys.modules)))
"""


@pytest.mark.slow
def test_a_query_needs_neither_pytorch_nor_the_run(onnx_folder, photos, tmp_path, repository):
    index = tmp_path / "people.idx"
    assert main(["search", SENTENCE, str(photos), "--model", str(onnx_folder)]) == 0

    def query(*words):
        command = [sys.executable, "-c", QUERY, "search", SENTENCE, *words, "-k", "1", "--paths"]
        environment = {**os.environ, "PYTHONPATH": str(repository)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()

    hit, modules = query(str(photos), "--out", str(tmp_path / "result.html"))
    assert modules == "['cv2']"
    assert main(["index", "build", str(photos), "--model", str(onnx_folder), "--out", str(index)]) == 0
    assert query("--index", str(index)) == [hit, "[]"]


@pytest.mark.slow
def test_a_killed_shard_continues(onnx_folder, photos, tmp_path, repository):
    index = tmp_path / "part.idx"
    words = ["index", "build", str(photos), "--model", str(onnx_folder), "--out", str(index), "--shard"]
    command = [sys.executable, "-m", "t2ireid_plugin", *words, "1/2"]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(repository)}) as process:
        while process.poll() is None and not (tmp_path / "part.idx.1of2" / "rows.sqlite").exists():
            time.sleep(0.01)
        process.kill()
    for shard in ("1/2", "2/2"):
        assert main([*words, shard]) == 0
    assert main(["index", "merge", str(index), f"{index}.1of2", f"{index}.2of2"]) == 0
    assert sorted(vectors_of(index)) == sorted(map(str, photos.rglob("*.jpg")))
    assert Encoder.load(index / "encoder").fingerprint == Encoder.load(onnx_folder).fingerprint
