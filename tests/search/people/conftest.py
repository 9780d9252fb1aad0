"""Videos of drawn pedestrians who walk through a scene, with their true boxes."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from t2ireid_plugin.search.people import Detections
from t2ireid_plugin.synthetic.attributes import sample_people
from t2ireid_plugin.synthetic.cameras import CAMERAS, camera_view
from t2ireid_plugin.synthetic.drawing import draw_person
from t2ireid_plugin.synthetic.shot import plan_shot

RATE, FRAMES, HEIGHT, WIDTH = 15, 90, 300, 560
# Of each person: first and last frame, left side at the first frame, pixels per frame, top.
WALKS = [(0, 89, 10, 4, 100), (0, 89, 440, -4, 92), (30, 74, 380, 6, 60)]  # two pass each other, one leaves
BITS, CELL = 8, 14  # the frame's number, as white and black squares along the upper border


def true_boxes(frame):
    """Boxes by person, cut by the border."""
    boxes = {}
    for person, (first, last, left, step, top) in enumerate(WALKS):
        x = left + step * (frame - first)
        if first <= frame <= last and x < WIDTH - 20:
            boxes[person] = (max(x, 0), top, min(x + 64, WIDTH), top + 150)
    return boxes


def draw_frame(figures, number):
    image = camera_view(CAMERAS[0])[150 : 150 + HEIGHT, :WIDTH].copy()
    for bit in range(BITS):
        image[:CELL, bit * CELL : (bit + 1) * CELL] = 255 * (number >> bit & 1)
    for person, (left, top, right, bottom) in true_boxes(number).items():
        image[top:bottom, left:right] = figures[person][:, : right - left]
    return image


def number_of(image):
    """The number drawn into a frame that has been through a video file."""
    middles = image[CELL // 2, CELL // 2 : BITS * CELL : CELL].mean(axis=1)
    return int(sum(1 << bit for bit in range(BITS) if middles[bit] > 127))


def detect(image):
    """The truth of the frame whose number the image shows."""
    boxes = list(true_boxes(number_of(image)).values())
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.full(len(boxes), 0.9, np.float32))


def embed(crops):
    """Colours of 8 x 4 cells without their mean, unit norm."""
    cells = [cv2.resize(np.ascontiguousarray(crop), (4, 8), interpolation=cv2.INTER_AREA).ravel() for crop in crops]
    vectors = np.stack(cells).astype(np.float32)
    vectors -= vectors.mean(axis=1, keepdims=True)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="session")
def walkers(make_once):
    """The video, and what is true of it."""
    figures = []
    for k, person in enumerate(sample_people(3, seed=1)):
        rng = np.random.default_rng(k)
        photo = draw_person(person, CAMERAS[0], rng, plan_shot(CAMERAS[0].crop_heights, rng))
        figures.append(cv2.resize(photo, (64, 150), interpolation=cv2.INTER_AREA))

    def write(folder):
        writer = cv2.VideoWriter(str(folder / "walk.avi"), cv2.VideoWriter_fourcc(*"MJPG"), RATE, (WIDTH, HEIGHT))
        for number in range(FRAMES):
            writer.write(draw_frame(figures, number))
        writer.release()

    return SimpleNamespace(
        path=make_once("walkers", write) / "walk.avi",
        figures=[figure[..., ::-1] for figure in figures],  # RGB
        boxes=true_boxes, number_of=number_of, detect=detect, embed=embed, rate=RATE, frames=FRAMES, width=WIDTH,
    )  # fmt: skip
