"""Gallery with an encoder that is a plain function of pixels and words."""

import datetime
import json
import os
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from t2ireid_plugin.errors import ConfigError, DataError, InputError
from t2ireid_plugin.search import Gallery

COLOURS = {"red": 0, "green": 1, "blue": 2}


class ColourEncoder:
    """Vectors are mean colours; a sentence is the sum of the colours it names."""

    dim, fingerprint = 3, "colours"

    def __init__(self):
        self.embedded = 0

    def read(self, photo):
        return photo

    def encode_images(self, images):
        self.embedded += len(images)
        means = np.stack([np.asarray(image, np.float32).reshape(-1, 3).mean(axis=0) for image in images])
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def encode_query(self, text=None, image=None, minus=None, weight=None):
        vector = np.zeros(3, np.float32)
        for sentence, sign in ((text, 1), (minus, -1)):
            for word in (sentence or "").split():
                vector[COLOURS[word]] += sign
        return vector if image is None else vector + self.encode_images([np.asarray(Image.open(image))])[0]


def paint(path, red, green, blue, size=(8, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (red, green, blue)).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    paint(folder / "cam1" / "a.png", 250, 10, 10)
    paint(folder / "cam1" / "b.png", 200, 100, 10)
    paint(folder / "cam2" / "c.png", 10, 250, 10)
    paint(folder / "cam2" / "d.jpg", 10, 10, 250)
    return folder


CAMERA = r"cam(?P<camera>\d+)"


def names(hits):
    return [os.path.basename(hit.path) for hit in hits]


def test_search_ranks_photos_of_a_folder(photos, tmp_path):
    with Gallery.open(tmp_path / "people.idx", ColourEncoder()) as gallery:
        added = gallery.add_images(photos, camera_from=CAMERA, time="2026-11-01T08:00:00+01:00", progress=False)
        assert (added.new, str(added)) == (4, "4 new")
        assert names(gallery.search("red", k=2)) == ["a.png", "b.png"]
        assert names(gallery.search("red green", k=1)) == ["b.png"]
        assert names(gallery.search("red green", minus="red", k=1)) == ["c.png"]
        assert sorted(names(gallery.search("red", k=9, camera="2"))) == ["c.png", "d.jpg"]
        hits = gallery.search(image=photos / "cam2" / "d.jpg")
        assert names(hits)[0] == "d.jpg"
        assert hits[0].score == pytest.approx(1, abs=1e-3)
        assert (hits[0].camera, hits[0].path) == ("2", str(photos / "cam2" / "d.jpg"))
        assert hits[0].time == datetime.datetime(2026, 11, 1, 7, tzinfo=datetime.timezone.utc)


def test_an_update_touches_only_what_changed(photos, tmp_path):
    encoder = ColourEncoder()
    with Gallery.open(tmp_path / "people.idx", encoder) as gallery:

        def update():
            before = encoder.embedded
            added = gallery.add_images(photos, camera_from=CAMERA, progress=False)
            return str(added), encoder.embedded - before

        assert update() == ("4 new", 4)
        assert update() == ("4 unchanged", 0)
        os.utime(photos / "cam1" / "a.png", (1, 1))
        assert update() == ("1 moved, 3 unchanged", 0)
        (photos / "cam3").mkdir()
        (photos / "cam1" / "a.png").rename(photos / "cam3" / "z.png")
        assert update() == ("1 moved, 3 unchanged", 0)
        hit = gallery.search("red", k=1)[0]
        assert (os.path.relpath(hit.path, photos), hit.camera) == ("cam3/z.png", "3")
        paint(photos / "cam1" / "b.png", 0, 0, 255, size=(9, 16))
        assert update() == ("1 replaced, 3 unchanged", 1)
        assert names(gallery.search("blue", k=1)) == ["b.png"]
        (photos / "cam2" / "c.png").unlink()
        (photos / "cam2" / "broken.png").write_bytes(b"not a picture")
        text, count = update()
        assert (text, count) == ("1 removed, 3 unchanged, 1 damaged", 0)
        assert update() == ("4 unchanged", 0)
        assert len(gallery) == 3


def test_photos_that_move_with_their_index_are_found(photos, tmp_path):
    with Gallery.open(photos / ".t2ireid", ColourEncoder()) as gallery:
        gallery.add_images(photos, progress=False)
    moved = tmp_path / "elsewhere"
    photos.rename(moved)
    with Gallery.open(moved / ".t2ireid", ColourEncoder()) as gallery:
        assert gallery.search("red", k=1)[0].path == str(moved / "cam1" / "a.png")
        assert str(gallery.add_images(moved, progress=False)) == "4 unchanged"


def test_root_says_where_photos_are_now(photos, tmp_path):
    with Gallery.open(tmp_path / "people.idx", ColourEncoder(), root=photos) as gallery:
        gallery.add_images(photos, progress=False)
    moved = photos.rename(tmp_path / "elsewhere")
    with Gallery.open(tmp_path / "people.idx", ColourEncoder()) as gallery:
        hits = gallery.search("red")
        assert hits[0].path == str(photos / "cam1" / "a.png")
        with pytest.raises(DataError, match=r"--root"):
            hits.draw(tmp_path / "hits.png")
    with Gallery.open(tmp_path / "people.idx", ColourEncoder(), root=moved) as gallery:
        gallery.search("red").draw(tmp_path / "hits.png")
        assert str(gallery.add_images(moved, progress=False)) == "4 unchanged"


def test_photos_in_a_tar_file(photos, tmp_path):
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(photos, "photos")
    with Gallery.open(tmp_path / "people.idx", ColourEncoder()) as gallery:
        assert gallery.add_images(tmp_path / "photos.tar", camera_from=CAMERA, progress=False).new == 4
        assert gallery.add_images(tmp_path / "photos.tar", progress=False).unchanged == 4
        hits = gallery.search("red", k=1)
        assert (hits[0].path, hits[0].camera) == (str(tmp_path / "photos.tar" / "photos" / "cam1" / "a.png"), "1")
        hits.draw(tmp_path / "hits.png")
        with tarfile.open(tmp_path / "photos.tar", "w") as tar:
            tar.add(photos / "cam2", "photos/cam2")
        os.utime(tmp_path / "photos.tar", (5, 5))
        assert str(gallery.add_images(tmp_path / "photos.tar", progress=False)) == "2 moved, 2 removed"
        (tmp_path / "zipped.tar").write_bytes(b"\x1f\x8b\x08")
        with pytest.raises(DataError, match="not a tar file without compression"):
            gallery.add_images(tmp_path / "zipped.tar", progress=False)


def test_people_in_photos_are_rows_of_their_own(tmp_path):
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, :10, 0] = pixels[:, 20:, 2] = 255
    Image.fromarray(pixels).save(tmp_path / "street.png")
    boxes = [(0, 0, 10, 20), (20, 0, 30, 20)]
    with Gallery.open(None, ColourEncoder()) as gallery:
        gallery.add_images(tmp_path / "street.png", find_people=lambda pixels: boxes, progress=False)
        paint(tmp_path / "empty.png", 9, 9, 9)
        added = gallery.add_images(tmp_path / "empty.png", find_people=lambda pixels: [], progress=False)
        assert (len(gallery), added.new) == (2, 1)
        assert [gallery.search(word, k=1)[0].box for word in ("red", "blue")] == boxes
        assert len(gallery.search("red", per="file")) == 1
        gallery.search("red").draw(tmp_path / "hits.png")
    with Image.open(tmp_path / "hits.png") as sheet:
        assert {(255, 0, 0), (0, 0, 255)} <= {colour for _, colour in sheet.getcolors(1 << 24)}


def circle(n):
    angles = np.linspace(0, np.pi, n, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_own_vectors_need_no_encoder(tmp_path):
    tracks = [None, 1, 1, 1, 2, None]
    with Gallery.open(tmp_path / "own.idx") as gallery:
        paths = [tmp_path / f"{i}.jpg" for i in range(6)]
        ids = gallery.add_embeddings(circle(6), paths, camera=["x", "y"] * 3, time=range(6), track=tracks)
        assert ids.tolist() == [0, 1, 2, 3, 4, 5]
        query = circle(6)[1]
        assert [hit.id for hit in gallery.search_embedding(query, k=3)] == [1, 0, 2]
        assert [hit.id for hit in gallery.search_embedding(query, k=99, per="track")] == [1, 0, 4, 5]
        assert [hit.id for hit in gallery.search_embedding(query, k=2, per="track")] == [1, 0]
        assert [hit.id for hit in gallery.search_embedding(query, camera="y", after=3)] == [3, 5]
        assert [hit.id for hit in gallery.search_embedding(query, min_score=0.8)] == [1, 0, 2]
        assert len(gallery.search_embedding(query, k=99)) == 6
        with pytest.raises(ConfigError, match="no encoder"):
            gallery.search("red")
        assert gallery.delete(track=1) == 3
        hits = gallery.search_embedding(query, before=-1)
        assert (len(hits), hits.searched, hits.total) == (0, 0, 3)
        gallery.add_embeddings(-circle(6)[:1], paths[:1], replace=True)
        assert gallery.search_embedding(-circle(6)[0], k=1)[0].id == 6


def test_hits_as_json(tmp_path):
    with Gallery.open(None) as gallery:
        gallery.add_embeddings(circle(2), ["/a/ü.jpg", "/a/b.jpg"], camera="c", time="2026-11-01T08:00:00Z")
        hits = gallery.search_embedding(circle(2)[0], query="a “red” coat")
    values = json.loads(hits.to_json())
    assert (values["query"], values["searched"], values["total"]) == ("a “red” coat", 2, 2)
    assert values["hits"][0] == {
        "path": "/a/ü.jpg", "score": 1.0, "id": 0, "camera": "c", "time": "2026-11-01T08:00:00+00:00",
        "track": None, "box": None, "frame": None,
    }  # fmt: skip


def test_page_of_hits(photos, tmp_path):
    with Gallery.open(None, ColourEncoder()) as gallery:
        gallery.add_images(photos, camera="<b>", progress=False)
        gallery.search("red").draw(tmp_path / "hits.html")
    page = (tmp_path / "hits.html").read_text()
    assert page.count("<img") == 4
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "http" not in page


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda g: g.search("red", camera="9"), DataError, "no camera '9' in the index; it has 1, 2"),
        (lambda g: g.search("red", after="yesterday"), ConfigError, "'yesterday' is not a date"),
        (lambda g: g.search("red", per="person"), ConfigError, "valid: photo, track, file"),
        (lambda g: g.search("red", k=0), ConfigError, "at least 1"),
        (lambda g: g.search("red", k=2.5), ConfigError, "k: 2.5 is not a number of hits; give a whole number"),
        (lambda g: g.search("red", camera=1), InputError, "camera: 1 must be a string, such as '1'"),
        (lambda g: g.search("red").draw("hits.doc"), ConfigError, "ends in .html or .png"),
        (lambda g: g.delete(), ConfigError, "say which rows"),
        (lambda g: g.add_images("missing.jpg"), DataError, "no such file or folder"),
        (lambda g: g.add_images(".", camera_from="("), ConfigError, r"\(\?P<camera>…\)"),
        (lambda g: g.add_images([], camera=["1"]), InputError, "1 values for 0 items"),
        (lambda g: g.add_embeddings(np.ones((1, 2)), ["a"]), InputError, r"\[1, 2\] is not \[n, 3\]"),
        (lambda g: g.add_embeddings(np.ones((2, 3)), ["a"]), InputError, "paths: 1 for 2 vectors"),
        (lambda g: g.add_embeddings(np.ones((1, 3)), ["a"], time=1.7e12), ConfigError, "not a time in seconds"),
        (lambda g: g.add_embeddings(np.full((1, 3), np.nan), ["a"]), InputError, "not finite"),
    ],
)
def test_bad_input_is_one_line(photos, act, error, message):
    with Gallery.open(None, ColourEncoder()) as gallery:
        gallery.add_images(photos, camera_from=CAMERA, progress=False)
        with pytest.raises(error, match=message) as raised:
            act(gallery)
        assert "\n" not in str(raised.value)
        assert len(gallery) == 4


def test_a_name_that_is_not_utf8_is_skipped_and_named(photos, tmp_path):
    odd = os.fsencode(photos) + "/红.jpg".encode("gbk")  # as unpacked from a Windows archive
    content = (photos / "cam2" / "d.jpg").read_bytes()
    try:
        with open(odd, "wb") as stream:
            stream.write(content)
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    with Gallery.open(tmp_path / "people.idx", ColourEncoder()) as gallery:
        added = gallery.add_images(photos, progress=False)
        assert (str(added), len(gallery)) == ("4 new, 1 damaged", 4)
        assert "not UTF-8" in added.damaged[os.fsdecode(odd)]


def test_an_empty_folder_removes_nothing(photos, tmp_path):
    """A drive that is not mounted is an empty folder."""
    with Gallery.open(tmp_path / "people.idx", ColourEncoder()) as gallery:
        gallery.add_images(photos, progress=False)
        shutil.rmtree(photos)
        photos.mkdir()
        with pytest.raises(DataError, match="no photos in"):
            gallery.add_images(photos, progress=False)
        assert len(gallery) == 4


def test_an_index_of_another_model_is_refused(photos, tmp_path):
    with Gallery.open(tmp_path / "people.idx", ColourEncoder()) as gallery:
        gallery.add_images(photos, progress=False)
    other = ColourEncoder()
    other.fingerprint = "others"
    with pytest.raises(DataError, match=r"fingerprint colours; this model has others"):
        Gallery.open(tmp_path / "people.idx", other)
    with pytest.raises(DataError, match=r"no index '.*typo\.idx'"):
        Gallery.open(tmp_path / "typo.idx", ColourEncoder(), create=False)
    assert not (tmp_path / "typo.idx").exists()
