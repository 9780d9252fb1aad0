"""An index of coloured photos, and the application that serves it."""

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from t2ireid_plugin.search import Gallery
from t2ireid_plugin.search.rows import Row
from t2ireid_plugin.search.serve.app import ServedIndex, create_app

COLOURS = {"red": (250, 10, 10), "orange": (200, 100, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}
LOCAL = ("127.0.0.1", "localhost")


class ColourEncoder:
    """Vectors are mean colours; a sentence is the sum of the colours it names."""

    dim, fingerprint, weight = 3, "colours", None

    def read(self, photo):
        return photo

    def encode_images(self, photos):
        means = np.stack([np.asarray(photo, np.float32).reshape(-1, 3).mean(axis=0) for photo in photos])
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def encode_query(self, text=None, image=None, minus=None, weight=None):
        vector = np.zeros(3, np.float32)
        for sentence, sign in ((text, 1), (minus, -1)):
            for word in (sentence or "").split():
                vector += sign * np.array(COLOURS.get(word, (0, 0, 0)), np.float32) / 255
        return vector if image is None else vector + self.encode_images([image])[0]


def paint(path, colour, size=(20, 40)):
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture
def index(tmp_path):
    """people.idx: four photos of two cameras, a person in one of two colours, and a track of a video."""
    photos = tmp_path / "photos"
    photos.mkdir()
    paths = [paint(photos / f"{name}.png", colour) for name, colour in COLOURS.items()]
    pair = Image.new("RGB", (40, 40), COLOURS["green"])
    pair.paste(COLOURS["blue"], (20, 0, 40, 40))
    exif = Image.Exif()
    exif[0x010E] = "a secret place"  # ImageDescription
    pair.save(photos / "pair.png", exif=exif)
    crop = paint(tmp_path / "crop.jpg", COLOURS["red"]).read_bytes()
    encoder = ColourEncoder()
    with Gallery.open(tmp_path / "people.idx", encoder, root=tmp_path) as gallery:
        times = [f"2026-11-01T0{hour}:00:00Z" for hour in range(4)]
        gallery.add_images(paths, camera=["a", "a", "b", "b"], time=times, progress=False)
        gallery.add_images(photos / "pair.png", find_people=lambda _: [(20, 0, 40, 40)], progress=False)
        vector = encoder.encode_images([np.full((2, 2, 3), COLOURS["red"])])
        gallery.store.add(vector, [Row("film.mp4", "a", 1e9, 0, (1, 2, 3, 4), 7, crop)])
    return tmp_path / "people.idx"


@pytest.fixture
def client(index):
    with TestClient(create_app(ServedIndex(index, ColourEncoder()), hosts=LOCAL), base_url="http://127.0.0.1") as one:
        yield one
