"""The picture of best crops, of a video of two people who are rectangles."""

import sys

import cv2
import numpy as np

from benchmarks import search_video
from t2ireid_plugin.search.people import Detections


def rectangles(image):
    boxes = np.array([[20, 20, 60, 120], [120, 20, 160, 120]], np.float32)
    return Detections(boxes, np.ones(2, np.float32))


def test_counts_and_picture(tmp_path, monkeypatch, capsys):
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (200, 140))
    frame = np.random.default_rng(0).integers(0, 255, (140, 200, 3), np.uint8)
    for _ in range(12):
        writer.write(frame)
    writer.release()
    monkeypatch.setattr(search_video, "load_detector", lambda source: rectangles)
    words = ["search_video", str(tmp_path / "a.avi"), "--out", str(tmp_path / "crops.png")]
    for frames, lasting in (("4", 0), ("8", 2)):
        monkeypatch.setattr(sys, "argv", [*words, "--frames", frames])
        search_video.main()
        assert f"2 tracks, {lasting} of at least 5 detections" in capsys.readouterr().out
    assert cv2.imread(str(tmp_path / "crops.png")).shape == (260, 200, 3)
