"""People of a video and a photo through ``t2ireid index`` and ``t2ireid search``, found by OpenCV's detector."""

import json

import cv2
import pytest

from t2ireid_plugin.cli import main
from t2ireid_plugin.errors import EncoderError
from t2ireid_plugin.search import Gallery
from t2ireid_plugin.search.people.video import read_frames
from t2ireid_plugin.search.torch_sides import TorchSides

BOX = (24, 30, 88, 180)  # of a drawn person, whose figure is narrower


@pytest.fixture(scope="module")
def street(walkers, tmp_path_factory):
    """A video of 8 frames and the same scene as a photo."""
    folder = tmp_path_factory.mktemp("street")
    scene = next(read_frames(walkers.path, 1)).image[60:270, 100:300].copy()
    left, top, right, bottom = BOX
    scene[top:bottom, left:right] = walkers.figures[0]
    writer = cv2.VideoWriter(str(folder / "cam3.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (200, 210))
    for _ in range(8):
        writer.write(scene[..., ::-1])
    writer.release()
    cv2.imwrite(str(folder / "cam4.png"), scene[..., ::-1])
    return folder


def contains_the_figure(box):
    return box[0] < 50 and box[2] > 62 and box[1] < 60 and box[3] > 150


def refuse(*_):
    raise EncoderError("cannot be exported to ONNX")


@pytest.mark.slow
def test_a_video_and_a_photo_are_indexed_and_searched(street, tiny_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(TorchSides, "save", refuse)  # exporting takes long and is tested elsewhere
    index = str(tmp_path / "people.idx")
    how = ["--detector", "hog", "--camera-from", r"cam(?P<camera>\d+)", "--start", "2026-11-01T08:00:00+01:00"]
    sources = [str(street / name) for name in ("cam3.avi", "cam4.png")]
    assert main(["index", "build", *sources, "--model", str(tiny_run.folder), "--out", index, *how]) == 0
    assert main(["index", "add", index, *sources, "--model", str(tiny_run.folder), *how]) == 0
    assert "0 tracks" in capsys.readouterr().err
    with Gallery.open(index) as gallery:
        assert len(gallery) == 2
    words = ["search", "a person", "--index", index, "--model", str(tiny_run.folder), "--json"]
    assert main([*words, "--out", str(tmp_path / "hits.png")]) == 0
    hits = {hit["camera"]: hit for hit in json.loads(capsys.readouterr().out)["hits"]}
    assert set(hits) == {"3", "4"}
    assert all(contains_the_figure(hit["box"]) for hit in hits.values())
    assert hits["3"]["time"].startswith("2026-11-01T07:00:0")
    assert hits["3"]["track"] is not None
    assert hits["4"]["track"] is None
    assert cv2.imread(str(tmp_path / "hits.png")) is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--detector", "./nowhere"], "detector: './nowhere' is neither"),
        (["--start", "2026-11-01T08:00"], "has no time zone"),
        (["--fps", "0"], "fps: 0"),
    ],
)
def test_bad_options_are_one_line(options, message, street, tiny_run, tmp_path, capsys):
    words = ["--model", str(tiny_run.folder), "--out", str(tmp_path / "people.idx")]
    assert main(["index", "build", str(street / "cam3.avi"), *words, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
