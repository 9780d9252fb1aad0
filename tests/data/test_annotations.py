import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from t2ireid_plugin.data.annotations import check_images, read_photos
from t2ireid_plugin.data.benchmarks import BENCHMARKS
from t2ireid_plugin.errors import DataError

SPEC = BENCHMARKS["cuhkpedes"]


def read(cuhk):
    return read_photos(cuhk.save(), SPEC)


def message(cuhk):
    """The error that reading the folder ends in."""
    with pytest.raises(DataError) as error:
        read(cuhk)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_photos_come_in_the_files_order_with_all_their_texts(cuhk):
    photos = read(cuhk)
    assert [photo.pid for photo in photos] == [11, 11, 7, 7, 12, 12, 3, 3]
    assert [photo.split for photo in photos] == ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    assert photos[1].path == str(cuhk.base / "imgs" / "cam_b" / "0011_1.png")
    assert photos[1].camera == "cam_b"
    assert photos[1].captions == ("Person 11 in photo 1.", "Again person 11, photo 1.")


def test_identity_and_clothing_texts_of_a_row(cuhk):
    cuhk.rows[0]["id_captions"] = ["a man", "a tall man"]
    first, second = read(cuhk)[:2]
    assert first.id_texts == ("a man", "a tall man")
    assert first.cloth_texts is None  # to be split from the captions
    assert second.id_texts is second.cloth_texts is None


def write_companion(cuhk, content):
    (cuhk.base / "instructions.json").write_text(json.dumps(content), encoding="utf-8")


def test_identity_and_clothing_texts_of_the_companion_file(cuhk):
    """The row's own go before it, and each kind may be there without the other."""
    cuhk.rows[0]["id_captions"] = ["own", "own too"]
    texts = {"identity": ["a man", "he"], "clothing": ["a red coat", "a coat"]}
    write_companion(cuhk, {"cam_a/0011_0.png": texts, "cam_a/0003_0.png": {"clothing": ["一件外套", "红色"]}})
    photos = read(cuhk)
    assert photos[0].id_texts == ("own", "own too")
    assert photos[0].cloth_texts == ("a red coat", "a coat")
    assert (photos[6].id_texts, photos[6].cloth_texts) == (None, ("一件外套", "红色"))
    assert photos[1].id_texts is photos[1].cloth_texts is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"cam_a/0011_0.png": {"identity": ["only one"]}}, "row 0 (cam_a/0011_0.png): 1 identity for 2 captions"),
        ({"cam_a/0011_0.png": {"clothing": ["a", ""]}}, "row 0 (cam_a/0011_0.png): clothing: a text is empty"),
        ({"cam_a/nobody.png": {}}, "has texts for 'cam_a/nobody.png', which"),
        ({"cam_a/0011_0.png": ["a"]}, "must hold an object such as"),
        ([], "must hold an object such as"),
    ],
)
def test_a_bad_companion_file(cuhk, content, reason):
    write_companion(cuhk, content)
    assert reason in message(cuhk)


def test_official_counts():
    """As published, see the data set's paper (Li et al. 2017, table 1) and its annotation."""
    assert {split: tuple(counts) for split, counts in SPEC.official.items()} == {
        "train": (34054, 11003, 68126),
        "val": (3078, 1000, 6158),
        "test": (3074, 1000, 6156),
    }


def test_byte_order_mark_is_no_problem(cuhk):
    root = cuhk.save()
    cuhk.file.write_bytes(b"\xef\xbb\xbf" + cuhk.file.read_bytes())
    assert len(read_photos(root, SPEC)) == 8


def test_an_edit_of_the_file_is_seen(cuhk):
    assert len(read(cuhk)) == 8
    del cuhk.rows[0]
    assert len(read(cuhk)) == 7


def test_chinese_captions_arrive_whole(cuhk):
    cuhk.rows[0]["captions"] = ["一个穿红色外套的男人。", "他背着一个黑色的包。"]
    assert read(cuhk)[0].captions == ("一个穿红色外套的男人。", "他背着一个黑色的包。")


# Images


def test_missing_image(cuhk):
    cuhk.image("cam_a/0007_0.png").unlink()
    assert message(cuhk) == f"missing image '{cuhk.image('cam_a/0007_0.png')}', named in '{cuhk.file}'"


def test_several_missing_images_are_counted(cuhk):
    for row in cuhk.rows[2:7]:
        cuhk.image(row["file_path"]).unlink()
    assert f"missing image '{cuhk.image('cam_a/0007_0.png')}'" in message(cuhk)
    assert "(and 4 more)" in message(cuhk)


def test_reading_opens_no_image(cuhk):
    for row in cuhk.rows:
        cuhk.image(row["file_path"]).write_bytes(b"")
    assert len(read(cuhk)) == 8


@pytest.mark.parametrize(
    ("content", "reason"), [(b"Not Found", "not an image file"), (b"", "it is empty"), (b"\xff\xd8", "not an image")]
)
def test_unreadable_images(cuhk, content, reason):
    paths = [photo.path for photo in read(cuhk)]
    check_images(paths)
    for path in paths[2:4]:
        cuhk.image(path).write_bytes(content)
    with pytest.raises(DataError) as error:
        check_images(paths)
    assert str(error.value).startswith(f"unreadable image '{paths[2]}': {reason}")
    assert str(error.value).endswith("(and 1 more)")


def test_a_folder_in_place_of_an_image(cuhk):
    cuhk.image("cam_a/0007_0.png").unlink()
    cuhk.image("cam_a/0007_0.png").mkdir()
    with pytest.raises(DataError, match=r"missing image '.*cam_a/0007_0\.png' \(Is a directory\)"):
        check_images([photo.path for photo in read(cuhk)])


# Rows: every message names the file, the row, and what is in it


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"captions": ["good", ""]}, "captions: a text is empty"),
        ({"captions": ["  \n"]}, "captions: a text is empty"),
        ({"captions": ["good", 5]}, "captions: 5 is not a string"),
        ({"captions": [None]}, "captions: None is not a string"),
        ({"captions": []}, "captions: expected a list of at least one text, not []"),
        ({"captions": "A man."}, "captions: expected a list of at least one text, not 'A man.'"),
        ({"id_captions": ["only one"]}, "1 id_captions for 2 captions"),
        ({"cloth_captions": ["a coat", ""]}, "cloth_captions: a text is empty"),
        ({"cloth_captions": ["a coat", 3.5]}, "cloth_captions: 3.5 is not a string"),
        ({"split": "dev"}, "split 'dev' is none of train, val, test"),
        ({"split": None}, "split None is none of train, val, test"),
        ({"split": ["train"]}, "split ['train'] is none of train, val, test"),
        ({"id": "7"}, "id '7' is not a whole number"),
        ({"id": 7.5}, "id 7.5 is not a whole number"),
        ({"id": True}, "id True is not a whole number"),
        ({"file_path": 3}, "file_path 3 is not a path"),
        ({"file_path": ""}, "file_path '' is not a path"),
        ({"file_path": "/etc/passwd"}, "file_path '/etc/passwd' leaves the folder 'imgs'"),
        ({"file_path": "cam_a/../../x.png"}, "file_path 'cam_a/../../x.png' leaves the folder 'imgs'"),
        ({"id": 2**63}, "id 9223372036854775808 does not fit into 64 bits"),
    ],
)
def test_bad_values(cuhk, changes, reason):
    cuhk.rows[5].update(changes)
    text = message(cuhk)
    assert text.startswith(f"'{cuhk.file}', row 5")
    assert text.endswith(reason)
    if "captions" in reason:
        assert "cam_b/0012_1.png" in text


@pytest.mark.parametrize("key", ["captions", "file_path", "id"])
def test_missing_keys(cuhk, key):
    del cuhk.rows[2][key]
    assert message(cuhk).startswith(f"'{cuhk.file}', row 2: no '{key}' (found ")


def test_annotation_without_splits(cuhk):
    for row in cuhk.rows:
        del row["split"]
    text = message(cuhk)
    assert text.startswith(f"'{cuhk.file}', row 0: no 'split'")
    assert text.endswith("a file without splits cannot be trained on")


@pytest.mark.parametrize("row", ["a text", 5, None, ["train", 1]])
def test_rows_that_are_no_objects(cuhk, row):
    cuhk.rows[3] = row
    assert message(cuhk) == f"'{cuhk.file}', row 3: expected an object, not {type(row).__name__}"


@pytest.mark.parametrize("splits", [("train", "test"), ("train", "val"), ("val", "test")])
def test_an_identity_in_two_splits(cuhk, splits):
    for number, split in enumerate(splits):
        cuhk.add(split, 77, f"CUHK01/0077_{number}.png")
    text = message(cuhk)
    assert text.startswith(f"'{cuhk.file}': identity 77 is in the splits {' and '.join(sorted(splits))} (1 such")


# Files


@pytest.mark.parametrize("content", [b"", b"[{", b"split,captions\n", b"\x80\x03]q\x00."])
def test_not_json(cuhk, content):
    root = cuhk.save()
    cuhk.file.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_photos(root, SPEC)
    assert str(error.value).startswith(f"'{cuhk.file}' is not valid JSON in UTF-8: ")


@pytest.mark.parametrize("content", ["{}", "[]", '"train"', "null", '{"train": []}'])
def test_not_a_list_of_rows(cuhk, content):
    root = cuhk.save()
    cuhk.file.write_text(content)
    with pytest.raises(DataError) as error:
        read_photos(root, SPEC)
    assert str(error.value) == f"'{cuhk.file}' must hold a list with a row for each image"


def test_root_one_level_down(cuhk):
    with pytest.raises(DataError) as error:
        read_photos(cuhk.save() / "CUHK-PEDES", SPEC)
    text = str(error.value)
    assert f"no '{cuhk.base / 'CUHK-PEDES' / 'reid_raw.json'}'" in text
    assert text.endswith(f"found '{cuhk.file}'; set data.root to the folder that holds CUHK-PEDES: '{cuhk.root}'")


def test_root_one_level_up(cuhk):
    cuhk.save()
    with pytest.raises(DataError) as error:
        read_photos(cuhk.root.parent, SPEC)
    text = str(error.value)
    assert f"no '{cuhk.root.parent / 'CUHK-PEDES' / 'reid_raw.json'}'" in text
    assert text.endswith(f"found '{cuhk.file}'; set data.root to '{cuhk.root}'")


def test_an_archive_that_holds_a_folder_of_its_own_name(cuhk):
    root = cuhk.save()
    cuhk.base.rename(root / "inner")
    cuhk.base.mkdir()
    (root / "inner").rename(cuhk.base / "CUHK-PEDES")
    with pytest.raises(DataError) as error:
        read_photos(root, SPEC)
    assert str(error.value).endswith(f"set data.root to '{cuhk.base}'")


def test_a_missing_image_folder(cuhk):
    root = cuhk.save()
    (cuhk.base / "imgs").rename(cuhk.base / "images")
    with pytest.raises(DataError) as error:
        read_photos(root, SPEC)
    assert str(error.value) == (
        f"cuhkpedes: '{cuhk.file}' is there, but its images are not: no folder '{cuhk.base / 'imgs'}'; "
        f"'{cuhk.base}' holds images/, reid_raw.json"
    )


def test_what_the_folder_holds_instead_is_listed(cuhk):
    root = cuhk.save()
    cuhk.file.rename(cuhk.base / "reid_raw.json.zip")
    with pytest.raises(DataError) as error:
        read_photos(root, SPEC)
    assert f"'{cuhk.base}' holds imgs/, reid_raw.json.zip. Put the dataset there" in str(error.value)


def test_what_to_put_where_when_there_is_nothing(tmp_path):
    with pytest.raises(DataError) as error:
        read_photos(tmp_path / "nowhere", SPEC)
    text = str(error.value)
    assert "Put the dataset there as CUHK-PEDES/reid_raw.json and CUHK-PEDES/imgs/" in text
    assert "academic research only" in text


def test_caption_all_is_not_guessed_from(cuhk):
    cuhk.save()
    cuhk.file.rename(cuhk.base / "caption_all.json")
    with pytest.raises(DataError) as error:
        read_photos(cuhk.root, SPEC)
    assert "caption_all.json is there, but it has no splits. Get reid_raw.json from the publishers" in str(error.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150)
@example({"file_path": "cam_a/\0.png"})
@example({"file_path": "cam_a/\ud800.png"})
@example({"file_path": "."})
@example({"file_path": "/"})
@given(st.dictionaries(st.sampled_from(["split", "captions", "id", "file_path", "id_captions"]), JSON, min_size=1))
def test_whatever_a_row_holds_the_error_names_it(tmp_path_factory, changes):
    """Damage of any kind to a row is a DataError that names the row or the image, or it does no harm."""
    folder = tmp_path_factory.getbasetemp() / "damaged" / "CUHK-PEDES"
    image = folder / "imgs" / "cam_a" / "1.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes(b"\x89PNG\r\n\x1a\n")
    good = {"split": "train", "captions": ["a man"], "id": 1, "file_path": "cam_a/1.png"}
    row = {**good, **changes}
    file = folder / "reid_raw.json"
    file.write_text(json.dumps([{**good, "id": 0}, row]))
    try:
        photos = read_photos(folder.parent, SPEC)
    except DataError as error:
        text = str(error)
        assert "row 1" in text or str(row["file_path"]) in text or repr(row["file_path"])[1:-1] in text
    else:
        assert photos[1].captions == tuple(row["captions"])
        assert photos[1].pid == row["id"]
