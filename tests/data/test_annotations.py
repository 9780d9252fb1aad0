import dataclasses
import json
import os
import shutil

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from t2ireid_plugin.data.annotations import check_images, read_photos, stays_inside
from t2ireid_plugin.data.benchmarks import BENCHMARKS
from t2ireid_plugin.data.images import image_format
from t2ireid_plugin.errors import DataError

SPEC = BENCHMARKS["cuhkpedes"]


def read(cuhk):
    return read_photos(cuhk.save(), SPEC)


def columns(photo):
    """Captions, identity texts and clothing texts."""
    return tuple(zip(*photo.texts, strict=True))


def message(read, *arguments):
    """The one line of the error that a call raises."""
    with pytest.raises(DataError) as error:
        read(*arguments)
    text = str(error.value)
    assert text.isprintable()
    assert len(text) < 2500
    return text


def test_photos_are_in_file_order_with_all_their_texts(cuhk):
    cuhk.rows[0]["captions"] = ["一个穿红色外套的男人。", "他背着一个黑色的包。"]
    cuhk.save()
    cuhk.file.write_bytes(b"\xef\xbb\xbf" + cuhk.file.read_bytes())  # a byte order mark is accepted
    photos = read_photos(cuhk.root, SPEC)
    assert [photo.pid for photo in photos] == [11, 11, 7, 7, 12, 12, 3, 3]
    assert [photo.split for photo in photos] == ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    assert photos[1].path == str(cuhk.base / "imgs" / "cam_b" / "0011_1.png")
    assert photos[1].camera == "cam_b"
    assert columns(photos[1])[0] == ("Person 11 in photo 1.", "Again person 11, photo 1.")
    # None: to be split from the captions.
    assert photos[0].texts == (("一个穿红色外套的男人。", None, None), ("他背着一个黑色的包。", None, None))


def write_companion(cuhk, content):
    (cuhk.base / "instructions.json").write_text(json.dumps(content), encoding="utf-8")


def test_identity_and_clothing_texts_of_row_and_companion_file(cuhk):
    """The row takes precedence, and each kind may be given without the other."""
    cuhk.rows[0]["id_captions"] = ["own", "own too"]
    texts = {"identity": ["a man", "he"], "clothing": ["a red coat", "a coat"]}
    write_companion(cuhk, {"cam_a/0011_0.png": texts, "cam_a/0003_0.png": {"clothing": ["一件外套", "红色"]}})
    photos = read(cuhk)
    assert columns(photos[0])[1:] == (("own", "own too"), ("a red coat", "a coat"))
    assert columns(photos[6])[1:] == ((None, None), ("一件外套", "红色"))
    assert columns(photos[1])[1:] == ((None, None), (None, None))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"cam_a/0011_0.png": {"identity": ["only one"]}}, "row 0 (cam_a/0011_0.png): 1 identity for 2 captions"),
        ({"cam_a/0011_0.png": {"clothing": ["a", ""]}}, "row 0 (cam_a/0011_0.png): clothing: a text is empty"),
        ({"cam_a/nobody.png": {}}, "has texts for 'cam_a/nobody.png', which is not in"),
        ({"cam_a/0011_0.png": ["a"]}, 'must contain an object {"image path"'),
        ([], 'must contain an object {"image path"'),
    ],
)
def test_bad_companion_file(cuhk, content, reason):
    write_companion(cuhk, content)
    assert reason in message(read, cuhk)


# Images


def test_missing_images_are_named_and_counted(cuhk):
    cuhk.image("cam_a/0007_0.png").unlink()
    path = cuhk.image("cam_a/0007_0.png")
    assert message(read, cuhk) == f"missing image '{path}', listed in '{cuhk.file}'"
    for row in cuhk.rows[3:7]:
        cuhk.image(row["file_path"]).unlink()
    assert message(read, cuhk) == f"missing image '{path}' (and 4 more), listed in '{cuhk.file}'"


@pytest.mark.parametrize("path", ["cam_a/\0.png", "cam_a/\ud800.png", "a" * 5000, "\x1b[2J\u202e\r\n\u2028.png"])
def test_messages_about_odd_file_names_can_be_printed(cuhk, path):
    cuhk.rows[2]["file_path"] = path
    assert message(read, cuhk).startswith(f"missing image '{cuhk.base / 'imgs'}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"Not Found", "not an image file"), (b"", "the file is empty"), (b"RIFF\4\0\0\0WAVE", "not an image file")],
)
def test_unreadable_images_are_named_and_counted(cuhk, content, reason):
    paths = [photo.path for photo in read(cuhk)]
    check_images(paths)
    for path in paths[2:4]:
        cuhk.image(path).write_bytes(content)
    assert len(read(cuhk)) == 8  # opens no image
    assert message(check_images, paths) == f"unreadable image '{paths[2]}': {reason} (and 1 more)"


def test_only_regular_files_and_links_to_them_are_read(cuhk):
    paths = [photo.path for photo in read(cuhk)]
    os.rename(paths[0], cuhk.root / "elsewhere.png")
    os.symlink(cuhk.root / "elsewhere.png", paths[0])  # datasets are shared as folders of links
    check_images(paths)
    for path, make, reason in (
        (paths[3], os.mkfifo, "not a file but a pipe, socket or device"),
        (paths[2], os.mkdir, "Is a directory"),
    ):
        os.remove(path)
        make(path)
        assert message(check_images, paths).startswith(f"missing image '{path}' ({reason})")


def test_image_formats():
    starts = {b"\xff\xd8\xff\xe0": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"BM": "BMP", b"RIFF\0\0\0\0WEBP": "WebP"}
    assert {start: image_format(start) for start in starts} == starts
    assert image_format(b"MM\x00*") == image_format(b"II*\x00") == "TIFF"
    assert image_format(b"GIF89a") == ""


@pytest.mark.parametrize(
    ("changes", "contradiction"),
    [
        ({"id": 7}, "the identities 11 and 7"),
        ({"split": "test"}, "the splits 'train' and 'test'"),
        ({"outfit": 1}, "the outfits -1 and 1"),
        ({"id": 7, "file_path": "cam_b/link.png"}, "the identities 11 and 7"),
    ],
)
def test_rows_of_one_image_that_contradict_each_other_are_named(cuhk, changes, contradiction):
    os.symlink("../cam_a/0011_0.png", cuhk.image("cam_b/link.png"))
    cuhk.rows.append({**cuhk.rows[0], **changes})
    assert message(read, cuhk) == (
        f"'{cuhk.file}', rows 0 and 8: one image file, '{cuhk.image('cam_a/0011_0.png')}', with {contradiction}; "
        "correct or remove one of the rows"
    )


def test_one_image_by_two_cameras_is_refused_where_cameras_are_known(benchmark_root, tmp_path):
    root = shutil.copytree(benchmark_root("rstpreid"), tmp_path / "root")
    file, images = root / "RSTPReid" / "data_captions.json", root / "RSTPReid" / "imgs"
    rows = json.loads(file.read_text())
    linked = rows[0]["img_path"].replace("_c0_", "_c9_")
    os.link(images / rows[0]["img_path"], images / linked)
    file.write_text(json.dumps([*rows, {**rows[0], "img_path": linked}]))
    assert "with the cameras 'c0' and 'c9'; correct" in message(read_photos, root, BENCHMARKS["rstpreid"])


def test_rows_of_one_image_are_one_photo_with_the_texts_of_both(cuhk):
    new = {"captions": ["Again person 11, photo 0.", "A third."], "cloth_captions": ["a coat", "a hat"]}
    cuhk.rows.append({**cuhk.rows[0], **new, "file_path": ".//cam_a\\0011_0.png"})
    photos = read(cuhk)
    assert len(photos) == 8
    assert columns(photos[0]) == (
        ("Person 11 in photo 0.", "Again person 11, photo 0.", "A third."),
        (None, None, None),
        (None, None, "a hat"),  # the first row's are derived
    )


# Rows: every message names the file, the row and the value


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"captions": ["good", " \n"]}, "captions: a text is empty"),
        ({"captions": ["good", 5]}, "captions: 5 is not a string"),
        ({"captions": []}, "captions: expected a list of at least one text, not []"),
        ({"captions": "A man."}, "captions: expected a list of at least one text, not 'A man.'"),
        ({"captions": ["x " * 6000]}, "12,000 characters"),
        ({"captions": ["a\0man"]}, "zero byte"),
        ({"captions": ["\ud800 man"]}, "lone surrogate"),
        ({"id_captions": ["only one"]}, "1 id_captions for 2 captions; give one per caption"),
        ({"cloth_captions": ["a coat", 3.5]}, "cloth_captions: 3.5 is not a string"),
        ({"split": "dev"}, "split 'dev' must be one of train, val, test"),
        ({"split": ["train"]}, "split ['train'] must be one of train, val, test"),
        ({"split": "x" * 10**6}, "must be one of train, val, test"),
        ({"id": "7"}, "id '7' must be an integer of at most 64 bits"),
        ({"id": 7.5}, "id 7.5 must be an integer"),
        ({"id": True}, "id True must be an integer"),
        ({"id": 2**63}, "id 9223372036854775808 must be an integer of at most 64 bits"),
        ({"camera": {"a": 1}}, "camera {'a': 1} must be a string or an integer"),
        ({"outfit": "red"}, "outfit 'red' must be an integer from 0, or -1 where it is unknown"),
        ({"outfit": -2}, "outfit -2 must be an integer from 0"),
        ({"file_path": 3}, "file_path 3 must be a path"),
        ({"file_path": ""}, "file_path '' must be a path"),
        ({"file_path": "/etc/passwd"}, "file_path '/etc/passwd' leaves the folder 'imgs'"),
        ({"file_path": "cam_a/../../x.png"}, "file_path 'cam_a/../../x.png' leaves the folder 'imgs'"),
    ],
)
def test_bad_values(cuhk, changes, reason):
    cuhk.rows[5].update(changes)
    text = message(read, cuhk)
    assert text.startswith(f"'{cuhk.file}', row 5")
    assert reason in text
    if "captions" in changes:
        assert "cam_b/0012_1.png" in text


@pytest.mark.parametrize("key", ["captions", "file_path", "id", "split"])
def test_missing_keys(cuhk, key):
    del cuhk.rows[2][key]
    text = message(read, cuhk)
    assert text.startswith(f"'{cuhk.file}', row 2: no '{key}', only ")
    assert text.endswith("; training needs an annotation with splits") == (key == "split")


@pytest.mark.parametrize("row", ["a text", 5, None, ["train", 1]])
def test_rows_that_are_not_objects(cuhk, row):
    cuhk.rows[3] = row
    assert message(read, cuhk) == f"'{cuhk.file}', row 3: expected an object, not {type(row).__name__}"


@pytest.mark.parametrize("splits", [("train", "test"), ("train", "val"), ("val", "test")])
def test_an_identity_in_two_splits(cuhk, splits):
    for number, split in enumerate(splits):
        cuhk.add(split, 77, f"CUHK01/0077_{number}.png")
    text = message(read, cuhk)
    assert text.startswith(f"'{cuhk.file}': identity 77 is in the splits {' and '.join(sorted(splits))}; an identity")


def test_paths_that_leave_the_folder():
    outside = ["../x.png", "a/../../x.png", "/x.png", "//x.png", "..", "a/.."]
    outside += ["..\\x.png", "a\\..\\..\\x.png", "\\\\x\\y"]
    inside = ["a.png", "cam_a/a.png", "a..b/c.png", "...", ".a/b.png", "./a.png", "a b/ü.png"]
    assert [path for path in outside + inside if stays_inside(path)] == inside


# Files


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[{", ""),
        (b"\x80\x03]q\x00.", ""),
        ("[]".encode("utf-16"), "line 1: not UTF-8 (byte 0xff); save it as UTF-8"),
        (b"[" * 10**6, "nested too deeply"),
        (b'[{"id": NaN}]', "NaN"),
        (b'[{"id": 1, "id": 2}]', "'id'"),
        (b'[{"id": ' + b"9" * 5000 + b"}]", "4300 digits"),
    ],
)
def test_invalid_json(cuhk, content, reason):
    cuhk.file.write_bytes(content)
    text = message(read_photos, cuhk.root, SPEC)
    assert text.startswith(f"'{cuhk.file}' is not valid JSON in UTF-8: ")
    assert reason in text


@pytest.mark.parametrize("content", ["{}", "[]", '"train"', "null", '{"train": []}'])
def test_json_that_is_not_a_list_of_rows(cuhk, content):
    cuhk.file.write_text(content)
    assert message(read_photos, cuhk.root, SPEC) == f"'{cuhk.file}' must contain a list with one row per image"


def test_a_root_one_level_too_deep_or_too_high(cuhk):
    for root in (cuhk.base, cuhk.root.parent):
        text = message(read_photos, root, SPEC)
        assert f"no '{root / 'CUHK-PEDES' / 'reid_raw.json'}'" in text
        assert text.endswith(f"found '{cuhk.file}'; set data.root to '{cuhk.root}'")
    # An archive that contains a folder of its own name.
    cuhk.base.rename(cuhk.root / "inner")
    cuhk.base.mkdir()
    (cuhk.root / "inner").rename(cuhk.base / "CUHK-PEDES")
    assert message(read_photos, cuhk.root, SPEC).endswith(f"set data.root to '{cuhk.base}'")


def test_a_missing_annotation(cuhk, tmp_path):
    cuhk.file.rename(cuhk.base / "reid_raw.json.zip")
    text = message(read_photos, cuhk.root, SPEC)
    assert f"'{cuhk.base}' contains imgs/, reid_raw.json.zip. Put the dataset there" in text
    text = message(read_photos, tmp_path / "nowhere", SPEC)
    assert "does not exist. Put the dataset there as CUHK-PEDES/reid_raw.json and CUHK-PEDES/imgs/" in text
    assert "academic research only" in text
    text = message(read_photos, cuhk.root, dataclasses.replace(SPEC, folder="Other", images="."))
    assert "Put the dataset there as Other/reid_raw.json and its images (" in text
    (cuhk.base / "caption_all.json").write_text("[]")  # of some archives, in place of the annotation
    text = message(read_photos, cuhk.root, SPEC)
    assert "caption_all.json is there, but it has no splits; get reid_raw.json from the publishers" in text


def test_a_missing_image_folder(cuhk):
    (cuhk.base / "imgs").rename(cuhk.base / "images")
    assert message(read_photos, cuhk.root, SPEC) == (
        f"cuhkpedes: the image folder '{cuhk.base / 'imgs'}' is missing; '{cuhk.base}' contains images/, reid_raw.json"
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=100)
@example({"file_path": "cam_a/\0.png"})
@example({"file_path": "."})
@example({"file_path": "/"})
@given(st.dictionaries(st.sampled_from(["split", "captions", "id", "file_path", "id_captions"]), JSON, min_size=1))
def test_any_damage_to_a_row_is_named_or_harmless(tmp_path_factory, changes):
    folder = tmp_path_factory.getbasetemp() / "damaged" / "CUHK-PEDES"
    image = folder / "imgs" / "cam_a" / "1.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes(b"\x89PNG\r\n\x1a\n")
    good = {"split": "train", "captions": ["a man"], "id": 1, "file_path": "cam_a/1.png"}
    row = {**good, **changes}
    other = image.with_name("0.png")
    other.write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "reid_raw.json").write_text(json.dumps([{**good, "id": 0, "file_path": "cam_a/0.png"}, row]))
    try:
        photos = read_photos(folder.parent, SPEC)
    except DataError as error:
        text = str(error)
        assert "row 1" in text or str(row["file_path"]) in text or repr(row["file_path"])[1:-1] in text
    else:
        assert columns(photos[1])[0] == tuple(row["captions"])
        assert photos[1].pid == row["id"]
