"""`prepare check` on folders that are clean, and on folders broken in every way that it reports."""

import io
import json
import os
import random
import re
import shutil
import struct

import numpy as np
import pytest
from PIL import Image, ImageFont

from t2ireid_plugin.cli import main
from t2ireid_plugin.data.annotations import check_images as check_first_bytes
from t2ireid_plugin.data.annotations import read_photos
from t2ireid_plugin.data.benchmarks import BENCHMARKS
from t2ireid_plugin.data.images import read_pixels
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.prepare.check import images, sheet
from t2ireid_plugin.prepare.check.command import check_dataset
from t2ireid_plugin.prepare.check.report import KINDS
from t2ireid_plugin.prepare.check.sheet import write_sheet
from t2ireid_plugin.utils import fonts

SPEC = BENCHMARKS["cuhkpedes"]
# Always reported: images of 8 x 16 pixels, other counts than CUHK-PEDES, digits in test captions only.
ALWAYS = {"image_tiny", "counts_differ", "caption_unknown_tokens"}
SEVERITIES = ("error", "warning", "info")


def check(cuhk, **options):
    return check_dataset(cuhk.save(), SPEC, **{"progress": False, "workers": 1, **options})


def first(report, kind):
    """The first example of a finding: (row, path, value)."""
    return report.finding(kind).examples[0]


def reported(report):
    """`{kind: count}` of the findings that are not in `ALWAYS`."""
    return {finding.kind: finding.count for finding in report.findings if finding.kind not in ALWAYS}


def photo(seed=0, height=160, width=64):
    """A picture with smooth areas, as photos have."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encode(image, **options):
    stream = io.BytesIO()
    image.save(stream, **{"format": "JPEG", "quality": 85, **options})
    return stream.getvalue()


JPEG = encode(photo())


def with_thumbnail(jpeg):
    """The JPEG with a smaller JPEG in its EXIF data, end marker included, as cameras write it."""
    thumbnail = encode(photo(9, 40, 16))
    entries = [(0x103, 3, 6), (0x201, 4, 8 + 6 + 42), (0x202, 4, len(thumbnail))]
    tiff = b"II*\x00" + struct.pack("<IHI", 8, 0, 14) + struct.pack("<H", 3)
    tiff += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries) + bytes(4)
    part = b"Exif\x00\x00" + tiff + thumbnail
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part + jpeg[2:]


def replace_image(cuhk, number, data, name=None):
    """Other bytes for a row's image, and optionally another name."""
    row = cuhk.rows[number]
    cuhk.image(row["file_path"]).unlink()
    row["file_path"] = name or row["file_path"]
    cuhk.image(row["file_path"]).write_bytes(data)


# Clean folders


@pytest.mark.parametrize("name", ["cuhkpedes", "icfgpedes", "rstpreid", "ufine6926", "custom"])
def test_clean_folders_of_every_benchmark(benchmark_root, name):
    report = check_dataset(benchmark_root(name), BENCHMARKS[name], progress=False)
    assert report.status == 0, report.table()
    assert report.counts["train"][:2] == ((128, 32) if name in ("icfgpedes", "ufine6926") else (96, 24))
    assert len(report.facts) == 160
    assert report.tokens.captions == sum(counts.captions for counts in report.counts.values()) >= 160
    assert "learned from the training captions" in report.tokenizer


def test_a_clean_folder_has_only_the_findings_of_its_size(cuhk):
    assert reported(check(cuhk)) == {}


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(cuhk, monkeypatch):
    monkeypatch.setattr(images, "_CHUNK", 2)
    replace_image(cuhk, 2, b"")
    cuhk.rows[3]["captions"] = [""]
    cuhk.image(cuhk.rows[5]["file_path"]).unlink()
    reports = [check(cuhk, workers=workers) for workers in (1, 2, 7)]
    assert reports[0].as_dict() == reports[1].as_dict() == reports[2].as_dict()
    assert [*reports[0].facts.items()] == [*reports[2].facts.items()]


def die(path):
    os._exit(3)


@pytest.mark.slow
def test_a_process_that_dies_is_reported(cuhk, monkeypatch):
    monkeypatch.setattr(images, "_CHUNK", 2)
    monkeypatch.setattr(images, "inspect_image", die)
    with pytest.raises(DataError, match=r"^reading images: a process died.*; lower --workers"):
        check(cuhk, workers=2)


# Images


def test_missing_images(cuhk):
    cuhk.image("cam_b/0011_1.png").unlink()
    cuhk.rows[4]["file_path"] = "nowhere/a.png"
    report = check(cuhk)
    assert reported(report).items() >= {"image_missing": 2, "image_unnamed": 1}.items()
    assert report.finding("image_missing").examples == ((1, "cam_b/0011_1.png", ""), (4, "nowhere/a.png", ""))
    assert report.finding("image_unnamed").severity == "info"
    assert report.status == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>404 Not Found</html>", "not an image file, it begins with b'<html>404 No'"),
        (b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 0) + b"IEND\xae\x42\x60\x82", "damaged, too large or not an image"),
        (b"RIFF\x04\x00\x00\x00WAVE", "not an image file"),
        (bytes(5000), "not an image file"),
    ],
)
def test_files_that_are_not_images(cuhk, data, reason):
    replace_image(cuhk, 0, data)
    report = check(cuhk)
    assert first(report, "image_unreadable")[:2] == (0, "cam_a/0011_0.png")
    assert reason in first(report, "image_unreadable").value
    assert report.status == 1


@pytest.mark.parametrize(
    ("make", "reason"), [(os.mkdir, "Is a directory"), (os.mkfifo, "not a file but a pipe, socket or device")]
)
def test_only_regular_files_are_read(cuhk, make, reason):
    path = cuhk.image("cam_a/0011_0.png")
    path.unlink()
    make(path)
    assert first(check(cuhk), "image_unreadable").value == reason


@pytest.mark.parametrize("thumbnail", [False, True])
@pytest.mark.parametrize("share", [0.25, 0.75, 0.99])
def test_truncated_jpegs(cuhk, share, thumbnail):
    """Also where the thumbnail's end marker is in the last 4 kB, in which training looks for it."""
    data = with_thumbnail(JPEG) if thumbnail else JPEG
    data = data[: len(data) - len(JPEG) + int(share * len(JPEG))]
    assert (b"\xff\xd9" in data[-4096:]) == thumbnail
    replace_image(cuhk, 0, data, "cam_a/cut.jpg")
    report = check(cuhk)
    assert first(report, "image_truncated").value == "the file is truncated"
    assert report.status == 1


def test_jpegs_damaged_inside_are_not_called_truncated(cuhk, capfd):
    """Decoders fill what they cannot decode with grey, or continue after damage, and only print a warning."""
    half = len(JPEG) // 2
    replace_image(cuhk, 0, JPEG[:half] + b"\xff\xd9", "cam_a/half.jpg")
    replace_image(cuhk, 2, JPEG[:half] + b"\xff\xe0\xff\xff" + JPEG[half:], "cam_a/marker.jpg")
    data = encode(photo(), restart_marker_blocks=2).replace(b"\xff\xd3", b"\x12\x34\x56\xff\xd3", 1)
    replace_image(cuhk, 1, data, "cam_a/more.jpg")
    report = check(cuhk)
    assert set(reported(report)) == {"image_damaged"}
    values = [example.value.lower() for example in report.finding("image_damaged").examples]
    assert ["premature end of data" in value for value in values] == [True, False, True]
    assert "extraneous bytes" in values[1]
    assert report.status == 1  # part of an image is missing
    replace_image(cuhk, 0, JPEG)
    replace_image(cuhk, 2, encode(photo(2)))
    assert check(cuhk).finding("image_damaged").severity == "warning"
    assert capfd.readouterr().err == ""


def test_transparent_images(cuhk):
    pixels = photo().convert("RGBA")
    replace_image(cuhk, 0, encode(pixels, format="PNG"))
    pixels.putpixel((3, 5), (10, 20, 30, 254))
    replace_image(cuhk, 1, encode(pixels, format="PNG"))
    report = check(cuhk)
    assert report.finding("image_transparent").examples == ((1, "cam_b/0011_1.png", ""),)
    assert report.finding("image_transparent").severity == "warning"


def test_a_motion_photo_is_clean(cuhk):
    replace_image(cuhk, 0, JPEG + b"\0\0\0\x18ftypmp42" + bytes(10_000), "cam_a/MVIMG.jpg")
    assert reported(check(cuhk)) == {}


def test_tiny_images(cuhk):
    sizes = [(10, 5), (31, 16), (32, 15), (32, 16), (200, 80)]
    for number, (height, width) in enumerate(sizes):
        replace_image(cuhk, number, encode(photo(number, 80, 80).resize((width, height)), format="PNG"))
    finding = check(cuhk).finding("image_tiny")
    assert [example.value for example in finding.examples[:3]] == ["5 x 10 pixels", "16 x 31 pixels", "15 x 32 pixels"]
    assert finding.count == 3 + 3
    assert finding.severity == "warning"


def test_a_format_that_differs_from_the_file_name(cuhk):
    replace_image(cuhk, 0, encode(photo(0), format="PNG"), "cam_a/a.jpg")
    replace_image(cuhk, 1, encode(photo(1), format="WEBP"), "cam_b/b.PNG")
    replace_image(cuhk, 2, encode(photo(2)), "cam_a/c.JPEG")
    finding = check(cuhk).finding("image_extension")
    assert [example.value for example in finding.examples] == ["PNG in '.jpg'", "WebP in '.png'"]
    assert finding.severity == "warning"


@pytest.mark.parametrize(
    ("other", "kind", "severity"), [(1, "file_twice", "warning"), (2, "file_contradicted", "error")]
)
def test_identical_files(cuhk, other, kind, severity):
    for number in (4, 6):
        replace_image(cuhk, number, b"")  # empty files are not identical
    shutil.copy(cuhk.image(cuhk.rows[0]["file_path"]), cuhk.image(cuhk.rows[other]["file_path"]))
    report = check(cuhk)
    assert reported(report) == {kind: 1, "image_unreadable": 2}
    assert report.finding(kind).severity == severity
    assert cuhk.rows[other]["file_path"] in first(report, kind).value


@pytest.mark.parametrize(
    ("pid", "split", "kinds"),
    [
        (11, "train", {"image_in_two_rows"}),
        (7, "train", {"image_contradicted"}),
        (11, "test", {"image_contradicted", "identity_in_two_splits"}),
    ],
)
def test_one_image_in_two_rows(cuhk, pid, split, kinds):
    cuhk.add(split, pid, "cam_a/0011_0.png")
    cuhk.rows[-1]["file_path"] = "./cam_a//0011_0.png"
    report = check(cuhk)
    assert set(reported(report)) == kinds
    assert report.status == int("image_contradicted" in kinds)


def test_repeated_rows_and_links_change_no_count(cuhk):
    once = check(cuhk)
    os.symlink("0011_0.png", cuhk.image("cam_a/link.png"))
    cuhk.rows += [{**cuhk.rows[0], "file_path": name} for name in ("cam_a/0011_0.png", "cam_a\\link.png")]
    again = check(cuhk)
    assert (again.counts, again.tokens, list(again.facts)) == (once.counts, once.tokens, list(once.facts))
    assert reported(again) == {"image_in_two_rows": 1}  # and the link is not an image without a row
    assert first(again, "image_in_two_rows").value == "rows 0, 8, 9: identity 11 in train"


def test_a_similar_name_is_reported_for_a_missing_image(cuhk):
    cuhk.rows[0]["file_path"] = "cam_a/0011_0.PNG"
    value = first(check(cuhk), "image_missing").value
    assert value.endswith("has 'cam_a/0011_0.png', which differs in case, spaces, extension or the like")


def test_paths_that_leave_the_folder_are_not_opened(cuhk):
    cuhk.rows[0]["file_path"] = "../reid_raw.json"
    cuhk.rows[1]["file_path"] = str(cuhk.file)
    cuhk.rows[2]["file_path"] = "a\x00b.png"
    report = check(cuhk)
    assert reported(report).items() >= {"row_refused": 2, "image_missing": 1}.items()


# Rows and identities


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ({"split": "validation"}, {"row_refused"}),
        ({"split": None}, {"row_refused"}),
        ({"captions": "one text"}, {"row_refused"}),
        ({"captions": []}, {"row_refused"}),
        ({"id_captions": ["one for two"]}, {"row_refused"}),
        ({"id": 2**70}, {"row_refused"}),
        ({"file_path": 5}, {"row_refused", "image_unnamed"}),
        ({"id": "11"}, {"row_refused"}),
        ({"id": 11.0}, {"row_refused"}),
        ({"id": True}, {"row_refused"}),
        ({"captions": ["Fine.", "  \n"]}, {"row_refused"}),
        ({"captions": ["Fine.", None]}, {"row_refused"}),
        ({"captions": [["nested"]]}, {"row_refused"}),
        ({"captions": ["half \ud83d"]}, {"row_refused"}),
        ({"captions": ["long " * 3000]}, {"row_refused"}),
        ({"captions": [""], "id": None, "split": "?"}, {"row_refused"}),
        ({"captions": ["The same.", "the  same."]}, {"caption_twice_in_row"}),
    ],
)
def test_bad_rows(cuhk, change, kinds):
    cuhk.rows[1].update(change)
    report = check(cuhk)
    assert set(reported(report)) - {"identity_of_one_photo"} == kinds
    for kind in kinds - {"image_unnamed"}:
        assert report.finding(kind).count == 1
        assert report.finding(kind).examples[0].row == 1
    assert report.status == int(kinds != {"caption_twice_in_row"})


def test_rows_that_are_not_objects_do_not_end_the_check(cuhk):
    cuhk.rows[2:2] = [17, None, [], "row", {}]
    cuhk.image("cam_a/0003_0.png").unlink()
    report = check(cuhk)
    assert report.finding("row_refused").count == 5
    assert "expected an object, not int" in report.finding("row_refused").examples[0].value
    assert report.finding("image_missing").examples[0].row == 11


def test_identities_in_two_splits_and_of_one_photo(cuhk):
    cuhk.rows[3]["split"] = "test"
    cuhk.add("train", 5, "cam_a/0005_0.png", ["Somebody else."])
    cuhk.add("trian", 6, "cam_a/0006_0.png", ["Another one."])
    report = check(cuhk)
    assert reported(report) == {"identity_in_two_splits": 1, "identity_of_one_photo": 1, "row_refused": 1}
    assert first(report, "identity_in_two_splits") == (2, "cam_a/0007_0.png", "identity 7 in train and test")
    assert first(report, "identity_of_one_photo") == (8, "cam_a/0005_0.png", "identity 5 in train")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_empty_split(cuhk, split):
    """A set may serve for testing alone, or for training alone."""
    cuhk.rows = [row for row in cuhk.rows if row["split"] != split]
    report = check(cuhk)
    assert first(report, "split_empty").value == split
    assert report.finding("split_empty").severity == "warning"
    assert report.status == 0


def test_texts_for_images_without_a_row(cuhk):
    companion = {"cam_a/none.png": {"identity": ["a man"], "clothing": ["a coat"]}}
    (cuhk.base / "instructions.json").write_text(json.dumps(companion))
    assert first(check(cuhk), "instructions_unknown").path == "cam_a/none.png"


def test_counts_beside_the_publishers(cuhk):
    report = check(cuhk)
    assert first(report, "counts_differ").value == "train: 4 images, official 34,054"
    assert re.search(r"train +4 +2 +8 +34,054 / 11,003 / 68,126 +<- differs", report.table())


def damaged_folders(cuhk):
    """Folders with two random changes each."""
    generator = np.random.default_rng(0)
    changes = [
        lambda row, path: row.update(captions=[""]),
        lambda row, path: row.update(captions=[3]),
        lambda row, path: row.update(split="none"),
        lambda row, path: row.update(id="x"),
        lambda row, path: row.update(split="test"),
        lambda row, path: row.update(id_captions=[]),
        lambda row, path: path.write_bytes(path.read_bytes()[: generator.integers(len(path.read_bytes()))]),
        lambda row, path: path.write_bytes(b"text"),
        lambda row, path: path.unlink(),
        lambda row, path: row.pop("captions"),
        lambda row, path: row.update(captions=["fine"]),
        lambda row, path: path.write_bytes(encode(photo(1), format="JPEG")),
    ]
    rows, files = json.dumps(cuhk.rows), {path: path.read_bytes() for path in cuhk.base.rglob("*.png")}
    for _ in range(40):
        cuhk.rows = json.loads(rows)
        for path, data in files.items():
            path.write_bytes(data)
        chosen = generator.choice(8, 2, replace=False)
        for number, change in zip(chosen, generator.choice(len(changes), 2)):
            changes[change](cuhk.rows[number], cuhk.image(cuhk.rows[number]["file_path"]))
        yield cuhk


def test_everything_that_training_refuses_is_an_error(cuhk):
    refused = 0
    for folder in damaged_folders(cuhk):
        report = check(folder)
        try:
            paths = [photo.path for photo in read_photos(folder.root, SPEC)]
            check_first_bytes(paths)
            for path in paths:
                read_pixels(path)
        except DataError:
            refused += 1
            assert report.status == 1, report.table()
    assert refused > 20


# Captions and tokens


def test_long_captions(cuhk):
    cuhk.rows[0]["captions"] = ["man " * 100]
    report = check(cuhk, max_length=20)
    finding = report.finding("caption_cut")
    assert finding.count == report.tokens.cut_captions == 1
    assert finding.examples[0].value.startswith(f"{report.tokens.longest} tokens: man man")
    assert report.tokens.lost_tokens == report.tokens.longest - 20
    assert finding.severity == "warning"  # one of 15
    assert finding.note.startswith("6.67 % of captions are truncated to 20 tokens")
    cuhk.rows[0]["captions"] = [f"Text {i}." for i in range(100)] + ["man " * 100]
    assert check(cuhk).finding("caption_cut").severity == "info"  # a few among many


def test_captions_of_several_identities(cuhk):
    cuhk.rows[0]["captions"] = cuhk.rows[1]["captions"] = ["Same  person."]
    cuhk.rows[2]["captions"] = ["same person."]
    report = check(cuhk)
    assert reported(report) == {"caption_of_two_identities": 1}
    assert first(report, "caption_of_two_identities").value == "identities 7, 11: same person."


@pytest.mark.parametrize(
    ("usual", "script", "other", "value"),
    [
        ("A man with a café logo.", "LATIN", "他穿着红色外套 Adidas Sport", "CJK: 他穿着红色外套 Adidas Sport"),
        ("A man in a red coat.", "LATIN", "Мужчина в красном пальто.", "CYRILLIC: Мужчина в красном пальто."),
        ("男子穿着Adidas运动鞋，身高1.75", "CJK", "A man in a red coat.", "LATIN: A man in a red coat."),
        ("赤いコートを着た男性", "CJK", "빨간 코트를 입은 남자", "HANGUL: 빨간 코트를 입은 남자"),
    ],
)
def test_captions_in_another_script_than_the_rest(cuhk, usual, script, other, value):
    for row in cuhk.rows:
        row["captions"] = [f"{usual} {row['id']}", "1.75 !"]  # no script
    assert check(cuhk).finding("caption_other_script") is None
    cuhk.rows[3]["captions"] = [usual, other]
    finding = check(cuhk).finding("caption_other_script")
    assert (finding.count, finding.severity, finding.note) == (1, "warning", f"most captions are {script}")
    assert finding.examples == ((3, cuhk.rows[3]["file_path"], value),)


def test_characters_that_the_training_captions_lack(cuhk):
    cuhk.rows[6]["captions"] = ["Person 😀 in photo", "红色 😀😀"]
    report = check(cuhk)
    unknown = report.finding("caption_unknown_tokens")
    assert [example.value for example in unknown.examples[:2]] == ["3 of 3: 红色 😀😀", "1 of 4: Person 😀 in photo"]
    assert "😀 (1 times)" in unknown.note
    assert unknown.severity == "warning"  # above 1 %


def test_chinese_under_an_english_tokenizer(cuhk, encoders):
    for row in cuhk.rows:
        row["captions"] = ["一位女性穿着红色外套", f"身高{row['id']}"]
    report = check(cuhk, tokenizer=str(encoders.bert))
    unknown = report.finding("caption_unknown_tokens")
    assert (unknown.count, unknown.severity) == (16, "error")
    assert unknown.note.startswith("100.00 % of all tokens are unknown: ")
    assert unknown.note.endswith("; this tokenizer is for another language")
    assert report.tokenizer == str(encoders.bert)


def test_nothing_is_unknown_to_clip(cuhk, clip):
    """Its token for unknown words is the one that ends every text."""
    report = check(cuhk, tokenizer=str(clip))
    assert report.finding("caption_unknown_tokens") is None
    assert report.tokens.unknown_tokens == 0


def test_the_vocabulary_without_a_training_split_and_without_captions(cuhk):
    cuhk.rows = [row for row in cuhk.rows if row["split"] == "test"]
    assert check(cuhk).tokens.unknown_tokens == 0
    for row in cuhk.rows:
        row["captions"] = [""]
    report = check(cuhk)
    assert report.tokens.captions == 0
    assert report.tokenizer.startswith("none")


# Output


def test_table_and_json_agree(cuhk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    replace_image(cuhk, 0, b"")
    cuhk.rows[1]["captions"] = ["半个", "红色外套"]
    (cuhk.base / "imgs" / os.fsdecode(b"\xc4\xd0.jpg")).write_bytes(JPEG)  # a file name in GBK
    report = check(cuhk)
    assert main(["prepare", "check", str(cuhk.root), "--out", "new"]) == 1
    content = json.loads((tmp_path / "new" / "report.json").read_text(encoding="utf-8"))
    assert content == json.loads(json.dumps(report.as_dict()))
    lines = {line.split()[1]: line.split() for line in report.table().splitlines() if line.startswith(SEVERITIES)}
    assert list(lines) == [finding["kind"] for finding in content["findings"]]
    for finding in content["findings"]:
        severity, _, count = lines[finding["kind"]][:3]
        assert (severity, int(count)) == (finding["severity"], finding["count"])
        assert 1 <= len(finding["examples"]) <= 10
        assert finding["about"] == KINDS[finding["kind"]][1]


@pytest.fixture(scope="module")
def damaged_report(synthetic, tmp_path_factory):
    """A check of the drawn people with two truncated photos, one that is not an image and a tiny one."""
    root = tmp_path_factory.mktemp("damaged") / "data"
    shutil.copytree(synthetic.root, root)
    rows, images = json.loads((root / "CUHK-PEDES" / "reid_raw.json").read_text()), root / "CUHK-PEDES" / "imgs"
    for number in (3, 50):
        file = images / rows[number]["file_path"]
        file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    (images / rows[80]["file_path"]).write_bytes(b"no image")
    photo(0, 24, 8).save(images / rows[100]["file_path"])
    return check_dataset(root, SPEC, progress=False)


def test_the_sheet(damaged_report, tmp_path):
    file = tmp_path / "sheet.jpg"
    assert write_sheet(damaged_report, file, photos=15) is None
    with Image.open(file) as picture:
        picture.load()
        assert picture.width == sheet.COLUMNS * (sheet.TILE_WIDTH + sheet.MARGIN) + sheet.MARGIN
        assert 3 * sheet.PHOTO_HEIGHT < picture.height < 3 * (sheet.PHOTO_HEIGHT + 260) + 60
    written = file.read_bytes()
    for seed in (0, 1):
        write_sheet(damaged_report, file, photos=15, seed=seed)
        assert (file.read_bytes() == written) == (seed == 0)
    assert len(list(tmp_path.iterdir())) == 1


def test_problems_come_first_on_the_sheet(damaged_report):
    tiles = sheet._tiles(damaged_report, 12, random.Random(0))
    assert len(tiles) == 12
    assert sorted(tile.problem for tile in tiles[:3]) == ["tiny: 8 x 24", "truncated", "truncated"]
    assert {tile.problem for tile in tiles[3:]} == {""}


def test_chinese_with_and_without_a_font(cuhk, tmp_path, monkeypatch):
    own, file = tmp_path / "own.ttf", tmp_path / "sheet.jpg"
    own.write_bytes(ImageFont.load_default(13).font_bytes)
    cuhk.rows[0]["captions"] = ["一位女性穿着红色外套，她很高😀。" * 30, "x" * 5000]
    monkeypatch.setattr(fonts, "CHINESE_FONTS", ())
    report = check(cuhk)
    assert "fonts-noto-cjk" in write_sheet(report, file)
    assert write_sheet(report, file, font=str(own)) is None
    Image.open(file).load()
    with pytest.raises(DataError, match="font"):
        write_sheet(report, file, font=str(cuhk.file))


def test_the_sheet_shows_whatever_pillow_can_draw_and_skips_pipes(cuhk):
    paths = [cuhk.image(f"cam_a/{name}_0.png") for name in ("0003", "0007")]
    Image.new("RGB", (20, 40)).save(paths[0], "GIF")  # training cannot read it
    paths[1].unlink()
    os.mkfifo(paths[1])
    tiles = sheet._tiles(check(cuhk), 36, random.Random(0))
    assert [tile.row.path for tile in tiles if tile.problem == "unreadable"] == ["cam_a/0003_0.png"]
    assert "cam_a/0007_0.png" not in {tile.row.path for tile in tiles}


def test_without_a_photo_there_is_no_sheet(cuhk, tmp_path):
    for path in cuhk.base.rglob("*.png"):
        path.unlink()
    (tmp_path / "sheet.jpg").write_bytes(b"of an earlier check")
    assert write_sheet(check(cuhk), tmp_path / "sheet.jpg") == "no photo could be drawn"
    assert not (tmp_path / "sheet.jpg").exists()


# User errors and the command line


def test_the_command(cuhk, encoders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["prepare", "check", str(cuhk.save())]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert "0 errors" in captured.out
    assert "reading images: 8 of 8" in captured.err
    out = tmp_path / "log" / "check_cuhkpedes"
    assert sorted(path.name for path in out.iterdir()) == ["report.json", "sheet.jpg"]
    replace_image(cuhk, 0, b"")
    words += ["--dataset", "cuhkpedes", "--tokenizer", str(encoders.bert), "--max-length", "12", "--workers", "1"]
    assert main([*words, "--photos", "4", "--out", "other"]) == 1
    captured = capsys.readouterr()
    assert "2 errors," in captured.out
    assert f"tokenizer: {encoders.bert}" in captured.out
    assert json.loads((tmp_path / "other" / "report.json").read_text())["status"] == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--max-length", "2"], "max_length: must be at least 3"),
        (["--workers", "0"], "workers: must be at least 1"),
        (["--tokenizer", "./nowhere"], "nowhere"),
        (["--tokenizer", "VIT"], "is not a text encoder"),
        (["--tokenizer", "./file"], "file"),
        (["--font", "./nowhere.ttf"], "font"),
        (["--out", "./file"], "cannot be written"),
        (["--dataset", "icfgpedes"], "icfgpedes: no "),
    ],
)
def test_user_errors_are_one_line(cuhk, encoders, tmp_path, monkeypatch, more, words, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main(["prepare", "check", str(cuhk.save()), *(str(encoders.vit) if w == "VIT" else w for w in more)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("reading images")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert words in lines[0]
