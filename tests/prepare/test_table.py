import argparse
import csv
import errno
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from states import largest_file

from t2ireid_plugin.data.annotations import read_photos
from t2ireid_plugin.data.benchmarks import CUSTOM, SPLITS
from t2ireid_plugin.errors import ConfigError, DataError
from t2ireid_plugin.prepare.table import write
from t2ireid_plugin.prepare.table.photos import TablePhoto, drawn_splits
from t2ireid_plugin.prepare.table.table import read_table
from t2ireid_plugin.prepare.table.write import write_table

JPEG = b"\xff\xd8\xff\xe0 and the rest of an image"


class Place:
    """A folder for a table, its images and the dataset."""

    def __init__(self, base):
        self.base, self.images, self.out = Path(base), Path(base) / "photos", Path(base) / "data"
        self.images.mkdir()

    def put(self, *names):
        for name in names:
            (self.images / name).parent.mkdir(parents=True, exist_ok=True)
            (self.images / name).write_bytes(JPEG + name.encode() + b"\xff\xd9")

    def table(self, content, name="people.csv"):
        file = self.base / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    def write(self, content, name="people.csv", **choices):
        return write_table(self.table(content, name), self.images, self.out, progress=False, **choices)

    def rows(self):
        return json.loads((self.out / "custom" / "reid_raw.json").read_text(encoding="utf-8"))

    def people(self):
        return json.loads((self.out / "custom" / "identities.json").read_text(encoding="utf-8"))

    def error(self, content, name="people.csv", **choices):
        """The one line of the error that a table raises; nothing is left behind."""
        with pytest.raises(DataError) as error:
            self.write(content, name, **choices)
        assert not self.out.exists() or not list(self.out.iterdir())
        text = str(error.value)
        assert "\n" not in text
        return text


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    place.put("a.jpg", "b.jpg", "c.jpg", "more/d.jpg")
    return place


def columns(photo):
    """Captions, identity texts and clothing texts."""
    return tuple(zip(*photo.texts, strict=True))


def as_csv(rows, delimiter=",", terminator="\r\n"):
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=delimiter, lineterminator=terminator, quoting=csv.QUOTE_ALL).writerows(rows)
    return stream.getvalue()


def as_json(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def test_a_table_becomes_a_dataset(place):
    summary = place.write(
        "image,identity,caption\n"
        "a.jpg,anna,A red coat.\nb.jpg,007,A blue hat.\nmore/d.jpg,7,A dog.\na.jpg,anna,Boots.\n"
    )
    assert summary == {
        "root": str(place.out / "custom"),
        "images": {"train": 1, "val": 1, "test": 1},
        "ids": {"train": 1, "val": 1, "test": 1},
        "captions": summary["captions"],
        "identities": "given",
        "splits": "drawn",
        "undescribed": 0,
        "chinese": False,
    }
    assert sum(summary["captions"].values()) == 4
    assert place.people() == {"007": 1, "7": 2, "anna": 3}
    assert [(row["file_path"], row["id"], row["captions"]) for row in place.rows()] == [
        ("a.jpg", 3, ["A red coat.", "Boots."]),
        ("b.jpg", 1, ["A blue hat."]),
        ("more/d.jpg", 2, ["A dog."]),
    ]
    assert place.rows()[0]["processed_tokens"] == [["a", "red", "coat"], ["boots"]]
    assert (place.out / "custom/imgs/more/d.jpg").read_bytes() == JPEG + b"more/d.jpg\xff\xd9"
    assert os.stat(place.out / "custom").st_mode & 0o777 == 0o755
    assert [columns(photo)[0] for photo in read_photos(place.out, CUSTOM)] == [
        tuple(row["captions"]) for row in place.rows()
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("terminator", ["\n", "\r\n"])
def test_delimiters_line_ends_and_byte_order_marks(place, delimiter, mark, terminator):
    captions = ['一名身穿红色外套、黑色长裤的女子。"走"', "One, two; three\tfour\nfive\r\nsix", " blanks stay "]
    rows = [("Image", "PERSON", "Description"), *zip(("a.jpg", "b.jpg", "c.jpg"), "xyz", captions)]
    place.write(
        mark + as_csv(rows, delimiter, terminator).encode(), "people.tsv" if delimiter == "\t" else "people.csv"
    )
    assert [row["captions"] for row in place.rows()] == [[caption] for caption in captions]


def test_json_lines_with_lists(place):
    rows = [
        {"file_path": "a.jpg", "id": 7, "captions": ["One.", "两名。"], "id_captions": ["i", "j"], "cam": 3},
        {"file_path": "a.jpg", "id": "7", "caption": "Three.\u2028Still three.", "id_captions": "k", "cam": "3"},
        {"file_path": "b.jpg", "id": "anna", "caption": "Four.", "cloth-text": ["coat"], "cam": None},
    ]
    place.write(as_json(rows) + "\n", "people.jsonl")
    first, second = place.rows()
    assert first["captions"] == ["One.", "两名。", "Three.\u2028Still three."]
    assert first["id_captions"] == ["i", "j", "k"]
    assert first["camera"] == "3"
    assert "cloth_captions" not in first
    assert second["cloth_captions"] == ["coat"]
    assert "camera" not in second
    photos = read_photos(place.out, CUSTOM)
    assert [photo.camera for photo in photos] == ["3", ""]
    assert columns(photos[0])[1] == ("i", "j", "k")
    assert columns(photos[1])[1] == (None,)


@pytest.mark.parametrize(
    "names",
    [
        ("FILE", "Pid", "TEXT", "cam", "Identity Text", "clothing text"),
        ("img_path", "person", "captions", "CamID", "id_caption", "Cloth_Captions"),
        ("path", "ID", "description", "Camera", "id_text", "cloth-text"),
    ],
)
def test_aliases_of_columns(place, names):
    rows = [names, ("a.jpg", "1", "A man.", "left", "man", "coat"), ("b.jpg", "2", "A woman.", "", "", "")]
    place.write(as_csv(rows))
    first, second = place.rows()
    assert (first["camera"], first["id_captions"], first["cloth_captions"]) == ("left", ["man"], ["coat"])
    assert set(second) == {"split", "captions", "file_path", "processed_tokens", "id"}


def test_without_identities_each_image_is_a_different_one(place):
    summary = place.write(
        ",image,caption,age,split\n0,b.jpg,One.,31,no\n1,a.jpg,Two.,32,\n2,b.jpg,Three.,31,x\n3,more\\d.jpg,Four.,9,y\n",
        ignore=["", "Split", "age"],
    )
    assert place.people() == {"a.jpg": 1, "b.jpg": 2, "more/d.jpg": 3}
    assert summary["identities"] == "images"
    assert [row["id"] for row in place.rows()] == [2, 1, 3]


def test_photos_without_a_caption_are_for_the_gallery(place, capsys):
    """The people among them without any caption are test people, whatever the seed."""
    content = (
        "image,id,caption,cloth_text\na.jpg,anna,,\na.jpg,anna,x,coat\nb.jpg,anna, ,\nc.jpg,007,,\nmore/d.jpg,7,y,hat\n"
    )
    for seed in ("0", "1"):
        assert run_command(place, content, "--seed", seed) == 0
        rows = {row["file_path"]: row for row in place.rows()}
        assert (rows["c.jpg"]["split"], rows["c.jpg"]["captions"]) == ("test", None)
        anna = rows["a.jpg"]["split"]
        assert {anna, rows["more/d.jpg"]["split"]} == {"train", "test"}
        assert rows.keys() - {"a.jpg", "c.jpg", "more/d.jpg"} == ({"b.jpg"} if anna == "test" else set())
        assert [photo.path for photo in read_photos(place.out, CUSTOM) if photo.texts] == [
            str(place.out / "custom" / "imgs" / name) for name in ("a.jpg", "more/d.jpg")
        ]
        assert "Photos without a caption: 2; those in val and test are in the gallery" in capsys.readouterr().out
        shutil.rmtree(place.out)


@pytest.mark.parametrize(
    "content", ["image,id,split\na.jpg,1,train\nb.jpg,2,test\n", "image,caption\na.jpg,\nb.jpg,\n"]
)
def test_photos_without_captions_are_to_be_searched(place, capsys, content):
    run_command(place, content)
    assert [(row["split"], row["captions"]) for row in place.rows()] == [("test", None)] * 2
    lines = capsys.readouterr().out.splitlines()
    assert "Without captions there is nothing to train or test on." in lines[-3]
    program, command, _, folder, *model = shlex.split(lines[-1])
    assert [program, command, *model] == ["t2ireid", "search", "--model", "RUN"]
    assert sorted(os.listdir(folder)) == ["a.jpg", "b.jpg"]


def test_chinese_columns_splits_and_captions(place, capsys):
    header = "图片,编号,描述,摄像头,划分,身份描述,服装描述\n"
    run_command(place, f"{header}a.jpg,7,穿红色外套的女子。,左,训练,女子,红色外套\nb.jpg,8,A man.,右,测试集,man,coat\n")
    keys = ("split", "id", "captions", "camera", "id_captions", "cloth_captions")
    assert [[row[key] for key in keys] for row in place.rows()] == [
        ["train", 1, ["穿红色外套的女子。"], "左", ["女子"], ["红色外套"]],
        ["test", 2, ["A man."], "右", ["man"], ["coat"]],
    ]
    assert "--config-file t2i_vit_mamba data.root" in capsys.readouterr().out  # half of the captions
    shutil.rmtree(place.out)
    run_command(place, "照片,句子\na.jpg,穿红色外套的女子。\nb.jpg,背着白色的包。\nc.jpg,A man.\n")
    printed = capsys.readouterr().out
    assert "--config-file t2i_vit_mamba_zh data.root" in printed
    assert f"--config-file t2i_frozen data.root {place.out} model.bert_base_path bert-base-chinese" in printed


def test_given_splits(place):
    summary = place.write("image,id,caption,split\na.jpg,1,x,Train\nb.jpg,1,y,train\nc.jpg,2,z,TEST\n")
    assert summary["splits"] == "given"
    assert [row["split"] for row in place.rows()] == ["train", "train", "test"]
    assert summary["ids"] == {"train": 1, "val": 0, "test": 1}


def test_windows_and_absolute_paths_inside_the_folder(place):
    inside = place.images / "b.jpg"
    place.write(f"image,caption\n.\\more\\..\\a.jpg,One.\n{inside},Two.\n more//d.jpg ,Three.\n\n,\n")
    assert [row["file_path"] for row in place.rows()] == ["a.jpg", "b.jpg", "more/d.jpg"]
    linked = place.base / "linked"
    linked.symlink_to(place.images)
    table = place.table(f"image,caption\n{place.images}/a.jpg,One.\n{linked}/b.jpg,Two.\n")
    write_table(table, linked, place.base / "again", progress=False)
    assert (place.base / "again" / "custom" / "imgs" / "b.jpg").is_file()


@pytest.mark.parametrize("link", ["symlink", "hard"])
def test_links_instead_of_copies(place, link, monkeypatch):
    (place.images / "e.jpg").symlink_to("a.jpg")
    place.write("image,caption\ne.jpg,One.\nb.jpg,Two.\n", link=link)
    for name, source in (("e.jpg", "a.jpg"), ("b.jpg", "b.jpg")):
        written = place.out / "custom/imgs" / name
        assert written.is_symlink() == (link == "symlink")
        assert written.samefile(place.images / source)
    place.out = place.base / "on another disk"
    error = OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b")
    monkeypatch.setitem(write._LINKS, link, Mock(side_effect=error))
    assert "hard links must stay on one disk, use --link copy" in place.error("image,caption\na.jpg,x\n", link=link)


def test_rows_of_one_file_are_one_image(place):
    """Copied under each of its names, a linked photo would be several gallery entries."""
    (place.images / "link.jpg").symlink_to("a.jpg")
    summary = place.write("image,caption\na.jpg,One.\nlink.jpg,Two.\n./a.jpg,One.\nmore\\d.jpg,One.\n", link="copy")
    assert [(row["file_path"], row["captions"]) for row in place.rows()] == [
        ("a.jpg", ["One.", "Two."]),
        ("more/d.jpg", ["One."]),
    ]
    assert (sum(summary["images"].values()), sum(summary["captions"].values())) == (2, 3)
    place.out = place.base / "other"
    words = place.error("image,identity,caption\na.jpg,1,x\nlink.jpg,2,y\n")
    assert "lines 2 and 3: image 'a.jpg' has the identity '1' and '2'; keep one" in words


HEADER = "image,identity,caption\n"
SPLITTED = "image,split,text\n"
SIX = HEADER + "".join(f"{name}.jpg,1,x\n" for name in "axbyzw")
AGREE = "lines 2 and 3: image 'a.jpg' has "
OUTSIDE = "is not inside 'photos'"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "'people.csv' has no rows"),
        (HEADER, "has no rows"),
        ("image,age,text\n", "line 1: unknown column 'age'; valid: image, identity, caption, camera, split, identity"),
        ("id,caption\n1,x\n", "line 1: no column 'image'"),
        ("image,path,caption\n", "line 1: the columns 'image', 'path' all mean 'image'; keep one"),
        (HEADER + "a.jpg,1,A man, walking.\n", "line 2: 4 cells for 3 columns; put texts that contain ','"),
        (HEADER + "a.jpg,1\n", "line 2: 2 cells for 3 columns"),
        (HEADER + 'a.jpg,1,"one\ntwo"\nb.jpg,2,"A "red" coat"\n', "line 4: not valid CSV"),
        (HEADER + 'a.jpg,1,x\nb.jpg,2,"A man.\nc.jpg,3,y\n', "line 3: not valid CSV"),
        (HEADER + ",1,A man.\n", "line 2: the column 'image' is empty"),
        (HEADER + "a.jpg,,x\nb.jpg,1,y\nc.jpg, ,z\n", "line 2: the column 'identity' is empty in 2 of 3 rows"),
        (SPLITTED + "a.jpg,,x\nb.jpg,test,y\n", "line 2: the column 'split' is empty in 1 of 2 rows"),
        (SPLITTED + "a.jpg,valid,x\n", "line 2: split 'valid' must be one of train, val, test"),
        (SPLITTED + "a.jpg,Query,x\n", "line 2: split 'Query' must be one of train, val, test; use test for both"),
        (HEADER + "a.jpg,1,x\nb.jpg,2,y\na.jpg,3,z\n", "lines 2 and 4: image 'a.jpg' has the identity '1' and '3'"),
        ("image,cam,text\na.jpg,1,x\n./a.jpg,2,y\n", AGREE + "the camera '1' and '2'"),
        (SPLITTED + "a.jpg,test,x\na.jpg,val,y\n", AGREE + "the split 'test' and 'val'"),
        ("image,text,id_text\na.jpg,x,man\na.jpg,y,\n", AGREE + "'identity_text' in one of them only"),
        (
            "image,id,split,text\na.jpg,1,test,x\nb.jpg,2,train,y\nc.jpg,1,train,z\n",
            "lines 2 and 4: identity '1' is in the splits test and train",
        ),
        (HEADER + "/etc/passwd,1,x\n", f"line 2: image '/etc/passwd' {OUTSIDE}"),
        (HEADER + "../photos2/a.jpg,1,x\n", f"line 2: image '../photos2/a.jpg' {OUTSIDE}"),
        (HEADER + "more\\..\\..\\x.jpg,1,x\n", OUTSIDE),
        (HEADER + "C:\\photos\\a.jpg,1,x\n", "missing image 'photos/C:/photos/a.jpg', listed in 'people.csv'"),
        (HEADER + ".,1,x\n", f"line 2: image '.' {OUTSIDE}"),
        (
            HEADER + "A.jpg,1,x\n",
            "'photos/A.jpg', listed in 'people.csv'; 'photos' has 'a.jpg', which differs in case",
        ),
        (HEADER + "more,1,x\n", "missing image 'photos/more' (Is a directory)"),
        (SIX, "missing image 'photos/x.jpg' (and 3 more), listed in 'people.csv'"),
        (HEADER + '"x\ny.jpg",1,x\n', "missing image 'photos/x\\ny.jpg'"),
        (
            HEADER.encode() + "a.jpg,1,红\n".encode("gb18030"),
            "line 2: not UTF-8 (byte 0xba); save it as UTF-8, in",
        ),
        (HEADER.encode("utf-16"), "line 1: not UTF-8 (byte 0xff)"),
    ],
)
def test_bad_csv_is_refused(place, monkeypatch, content, words):
    monkeypatch.chdir(place.base)
    place.images, place.out, place.base = Path("photos"), Path("data"), Path()
    assert words in place.error(content)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"image": "a.jpg", "caption": "x"', "line 1: not valid JSON (Expecting"),
        ("[" * 100_000, "line 1: not valid JSON"),
        ('["a.jpg", "x"]', 'line 1: expected an object such as {"image"'),
        ('{"caption": "x"}', "line 1: no column 'image'"),
        ('{"image": "a.jpg", "text": "x", "caption": "y"}', "the columns 'text', 'caption' all mean 'caption'"),
        ('{"image": "a.jpg", "caption": "x", "Size": 3}', "line 1: unknown column 'Size'; valid: image,"),
        ('{"image": 3, "caption": "x"}', "line 1: image 3 must be a string"),
        ('{"image": "a.jpg", "caption": 3}', "line 1: caption 3 must be a string or a list of strings"),
        ('{"image": "a.jpg", "caption": ["x", 3]}', "must be a string or a list of strings"),
        ('{"image": "a.jpg", "caption": ["x", ""]}', "line 1: the column 'caption' is empty"),
        ('{"image": "a.jpg", "caption": null, "id_text": "i"}', "1 texts in 'identity_text' for 0 captions"),
        ('{"image": "a.jpg", "caption": ["x", "y"], "id_text": "i"}', "1 texts in 'identity_text' for 2 captions"),
        ('{"image": "a.jpg", "caption": "x", "identity": 1.5}', "identity 1.5 must be a string or an integer"),
        ('{"image": "a.jpg", "caption": "x", "identity": true}', "identity True must be a string or an integer"),
        ('{"image": "a.jpg", "caption": "x", "identity": null}', "the column 'identity' is empty in 1 of 1 rows"),
        (
            '{"image": "a.jpg", "caption": "x", "id": 1}\n{"image": "b.jpg", "caption": "x"}',
            "line 2: the column 'identity'",
        ),
        ('{"image": "a.jpg", "caption": "half \\ud83d"}', "lone surrogate"),
        ('{"image": "a\\u0000/b.jpg", "caption": "x"}', "line 1: image 'a\\x00/b.jpg'"),
        ('{"image": "a.jpg", "image": "b.jpg", "caption": "x"}', "line 1: not valid JSON"),
        ('{"image": "a.jpg", "caption": "x", "id": NaN}', "NaN"),
        ('{"image": "a.jpg", "caption": "' + "x" * 20_000 + '"}', "20,000 characters"),
    ],
)
def test_bad_json_lines_are_refused(place, line, words):
    assert words in place.error(line, "people.jsonl")


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"val_share": -0.1}, "--val-share -0.1 must be at least 0"),
        ({"val_share": float("nan")}, "--val-share nan"),
        ({"test_share": 0}, "--test-share 0 above 0"),
        ({"test_share": 1.0}, "--test-share 1.0"),
        ({"val_share": 0.5, "test_share": 0.5}, "their sum less than 1"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_bad_options_are_refused(place, choices, words):
    assert words in place.error("image,caption\na.jpg,x\n", **choices)


def test_unknown_links_are_refused(place):
    with pytest.raises(ConfigError, match="--link: unknown 'teleport'; valid: copy, symlink, hard"):
        place.write("image,caption\na.jpg,x\n", link="teleport")


def test_bad_files_are_refused(place):
    assert "unknown type of table; use one of .csv, .tsv" in place.error("", "people.xlsx")
    with pytest.raises(DataError, match=r"cannot read the table .*No such file"):
        write_table(place.base / "none.csv", place.images, place.out)
    with pytest.raises(DataError, match="is not a folder"):
        write_table(place.table("image,caption\na.jpg,x\n"), place.base / "none", place.out)
    (place.images / "text.jpg").write_text("not an image")
    (place.images / "empty.jpg").write_bytes(b"")
    words = place.error("image,caption\na.jpg,x\ntext.jpg,x\nempty.jpg,x\n")
    assert "photos/text.jpg': not an image file (and 1 more)" in words
    place.out.write_text("a file")
    with pytest.raises(DataError, match="cannot be written"):
        place.write("image,caption\na.jpg,x\n")


def test_an_existing_dataset_is_left_alone(place):
    place.write("image,caption\na.jpg,x\n")
    before = (place.out / "custom" / "reid_raw.json").read_bytes()
    with pytest.raises(DataError, match="already exists; remove it or choose another --out"):
        place.write("image,caption\nb.jpg,y\n")
    assert (place.out / "custom" / "reid_raw.json").read_bytes() == before
    assert [path.name for path in place.out.iterdir()] == ["custom"]


def test_a_full_disk_leaves_nothing(place):
    with largest_file(30):
        assert "cannot be written: [Errno 27] File too large" in place.error("image,caption\na.jpg,x\n")


def test_two_at_once_are_refused(place):
    draft = place.out / ".custom.tmp"
    code = f"""
import pathlib, time
from t2ireid_plugin.utils.atomic_io import atomic_folder
with atomic_folder(pathlib.Path({str(place.out / "custom")!r}), "--out"):
    print("started", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"started\n"
            with pytest.raises(
                ConfigError, match=rf"--out: another run is writing to '{draft}' \(process {process.pid}"
            ):
                place.write("image,caption\na.jpg,x\n")
        finally:
            process.kill()
    place.write("image,caption\na.jpg,x\n")
    assert [path.name for path in place.out.iterdir()] == ["custom"]


SLOW = """
import shutil, sys, time
from t2ireid_plugin.prepare.table import write
def slow(source, target):
    shutil.copyfile(source, target)
    print("copied", flush=True)
    for _ in range(600):  # a signal that comes just before a long sleep begins is only seen after it
        time.sleep(0.1)
write._LINKS["copy"] = slow
write.write_table(*sys.argv[1:], progress=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_leaves_no_dataset(place, sent):
    table = place.table("image,caption\na.jpg,x\nb.jpg,y\n")
    command = [sys.executable, "-c", SLOW, str(table), str(place.images), str(place.out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == b"copied\n"
        process.send_signal(sent)
        assert process.wait(timeout=300) != 0
    left = [path.name for path in place.out.iterdir()]
    assert not any(name == "custom" for name in left)
    if sent == signal.SIGINT:
        assert left == []
    place.write("image,caption\na.jpg,x\nb.jpg,y\n")
    assert [path.name for path in place.out.iterdir()] == ["custom"]
    assert len(read_photos(place.out, CUSTOM)) == 2


def run_command(place, content, *words):
    parser = argparse.ArgumentParser()
    write.add_arguments(parser)
    words = [str(place.table(content)), "--images", str(place.images), "--out", str(place.out), *words]
    return write.run(parser.parse_args(words), "")


def test_the_command_line(place, capsys):
    content = "image,caption,age\na.jpg,x,1\nb.jpg,y,2\nc.jpg,z,3\n"
    assert run_command(place, content, "--ignore-column", "age", "--seed", "5") == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["split", "images", "ids", "captions"],
        *([name, "1", "1", "1"] for name in SPLITS),
    ]
    assert "Without an identity column" in printed.out
    assert "at random with seed 5" in printed.out
    assert f"  t2ireid prepare check {place.out} --dataset custom" in lines
    assert f"  t2ireid train --config-file t2i_frozen data.root {place.out}" in lines
    assert lines[-1].endswith(f"data.root {place.out} data.sources custom data.targets custom")
    assert printed.err.splitlines()[-1] == "images: 3 of 3"
    place.out = place.base / "again"
    run_command(place, "image,id,caption\na.jpg,1,x\nb.jpg,1,y\n")
    printed = capsys.readouterr().out
    assert "The split test is empty: testing needs more identities" in printed
    assert "The split val is empty: training will hold out" in printed


def numbered(count):
    return [TablePhoto(f"{i}.jpg", f"p{i}", "", None, {"x": ("x", "", "")}) for i in range(count)]


def test_the_random_split_depends_on_the_seed_alone():
    photos = numbered(100)
    first = drawn_splits(photos, 0.1, 0.2, 3)
    assert drawn_splits(photos[::-1], 0.1, 0.2, 3) == first
    assert drawn_splits(photos, 0.1, 0.2, 4) != first
    assert [list(first.values()).count(name) for name in SPLITS] == [70, 10, 20]


@given(st.integers(1, 60), st.floats(0, 0.99), st.floats(0.001, 0.99), st.integers(0, 2**32))
def test_no_split_is_empty_where_there_are_enough_identities(count, val_share, test_share, seed):
    splits = drawn_splits(numbered(count), val_share, test_share, seed)
    train, val, test = (list(splits.values()).count(name) for name in SPLITS)
    assert train + val + test == count
    assert train >= 1
    assert test >= min(1, count - 1)
    assert val >= min(1, count - 1 - test) * (val_share > 0)


# A zero byte is the one character that the csv module of Python 3.10 cannot read.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
CAPTION = TEXT.filter(str.strip)
NAME = st.one_of(st.integers(-9, 999), CAPTION)
PERSON = st.tuples(NAME, st.lists(st.lists(CAPTION, min_size=1, max_size=3), min_size=1, max_size=3))


@settings(max_examples=25)
@given(st.lists(PERSON, min_size=1, max_size=5), st.sampled_from(",;\t"), st.sampled_from(["\n", "\r\n"]))
def test_csv_and_json_lines_give_the_same_dataset(people, delimiter, terminator):
    numbered_photos = [(name, captions) for name, photos in people for captions in photos]
    rows = [(f"{i}.jpg", name, captions) for i, (name, captions) in enumerate(numbered_photos)]
    flat = [(image, name, caption) for image, name, captions in rows for caption in captions]
    tables = {
        "people.csv": as_csv([("image", "identity", "caption"), *flat], delimiter, terminator),
        "people.jsonl": as_json({"image": image, "pid": name, "captions": captions} for image, name, captions in rows),
    }
    written = []
    for name, content in tables.items():
        with tempfile.TemporaryDirectory() as base:
            place = Place(base)
            place.put(*(image for image, *_ in rows))
            place.write(content, name)
            written.append((place.rows(), place.people()))
            photos = read_photos(place.out, CUSTOM)
            numbers = place.people()
        assert [columns(photo)[0] for photo in photos] == [tuple(dict.fromkeys(captions)) for *_, captions in rows]
        assert [photo.pid for photo in photos] == [numbers[str(name).strip()] for _, name, _ in rows]
        assert sorted(numbers.values()) == list(range(1, len(numbers) + 1))
    assert written[0] == written[1]


@given(st.binary(max_size=200), st.sampled_from(["people.csv", "people.tsv", "people.jsonl"]))
def test_any_bytes_are_read_or_refused_in_one_line(content, name):
    with tempfile.TemporaryDirectory() as base:
        file = Path(base) / name
        file.write_bytes(b"image,caption\n" * (name != "people.jsonl") + content)
        try:
            message = str(len(read_table(file).rows))
        except DataError as error:
            message = str(error)
    assert "\n" not in message
