import os
import unicodedata

import pytest

from t2ireid_plugin.data.image_files import ImageFolder, shared_images


def put(folder, name, content=b"image"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "jos\u00e9/\u00fc.jpg") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("on_disk", "named"),
    [
        ("a/1.jpg", "./a//1.jpg"),
        ("a/1.jpg", "a\\1.jpg"),
        ("a/1.jpg", "images/a/1.jpg"),
        ("a/1.jpg", "images\\a\\1.jpg"),
        ("images/1.jpg", "images/1.jpg"),
        (COMPOSED, DECOMPOSED),
        (DECOMPOSED, COMPOSED),
        (DECOMPOSED, "images\\" + COMPOSED.replace("/", "\\")),
        ("a\\1.jpg", "a/1.jpg"),  # an archive from Windows, unpacked on Linux
        ("a\\1.jpg", "a\\1.jpg"),
        ("caf\udce9.jpg", "caf\udce9.jpg"),  # not UTF-8
    ],
)
def test_files_are_found_in_other_spellings(tmp_path, on_disk, named):
    path = put(tmp_path / "images", on_disk)
    put(tmp_path / "images", "a/2.jpg")
    assert ImageFolder(tmp_path / "images").find([named]) == [path]


@pytest.mark.parametrize(
    ("on_disk", "named", "similar"),
    [
        ("a/1.JPG", "a/1.jpg", True),
        ("A/1.jpg", "a/1.jpg", True),
        ("a/1.png", "a\\1.jpg", True),
        ("a/1 2.jpg", "a/1  2.jpg", True),
        ("a/\uff11.jpg", "a/1.jpg", True),
        ("a/2.jpg", "a/1.jpg", False),
        ("a/2.jpg", "b/1.jpg", False),
        ("a", "a/1.jpg", False),
    ],
)
def test_a_similar_name_is_reported_for_a_missing_file(tmp_path, on_disk, named, similar):
    put(tmp_path, on_disk)
    folder = ImageFolder(tmp_path)
    assert folder.find([named, "a/\0", "a/\ud800", "."])[:3] == [None] * 3
    message = f"'{tmp_path}' has '{on_disk}', which differs in case, spaces, extension or the like"
    assert folder.difference(named) == (message if similar else "")


def test_all_names_of_a_file_have_one_path(tmp_path):
    path, copy = put(tmp_path, "a/1.jpg"), put(tmp_path, "copy.jpg")
    os.symlink("1.jpg", tmp_path / "a/2.jpg")
    os.link(path, tmp_path / "3.jpg")
    os.symlink("a", tmp_path / "b")
    names = ["a/1.jpg", "a/2.jpg", "3.jpg", "b/1.jpg", "b\\1.jpg", "copy.jpg"]
    assert ImageFolder(tmp_path).find(names) == [path] * 5 + [copy]


def test_shared_images_are_the_same_bytes(tmp_path):
    """Also where the beginnings of different files agree, as those of uncompressed images do."""
    start = bytes(5000)
    first = [put(tmp_path, f"a/{i}", start + bytes([i])) for i in range(3)] + [put(tmp_path, "a/empty", b"")]
    second = [put(tmp_path, f"b/{i}", start + bytes([i])) for i in (7, 2)] + [put(tmp_path, "b/empty", b""), first[0]]
    os.mkfifo(tmp_path / "pipe")
    assert shared_images([*first, str(tmp_path / "pipe")], [*second, str(tmp_path / "none")]) == [
        (first[0], first[0]),
        (first[2], second[1]),
    ]
