"""One photo of one person, composed of figure, background, occluder and camera."""

from __future__ import annotations

import cv2
import numpy as np

from t2ireid_plugin.synthetic.accessories import Bag, draw_hat
from t2ireid_plugin.synthetic.attributes import Person
from t2ireid_plugin.synthetic.cameras import Camera, background, develop
from t2ireid_plugin.synthetic.canvas import Canvas, Paint, shade
from t2ireid_plugin.synthetic.figure import Head, pose_of
from t2ireid_plugin.synthetic.garments import Outfit
from t2ireid_plugin.synthetic.shot import CANVAS_HEIGHT, Shot

# Fill and edge of each kind of occluder.
OCCLUDER_COLOURS: dict[str, tuple[Paint, Paint]] = {
    "pole": ((118, 120, 122), (88, 90, 92)),
    "box": ((104, 146, 172), (76, 110, 134)),
    "side": ((84, 96, 92), (62, 72, 70)),
}


def draw_person(person: Person, camera: Camera, rng: np.random.Generator, shot: Shot) -> np.ndarray:
    """Photo of the person by the camera, uint8 BGR [H, W, 3]."""
    figure = draw_figure(person, shot)
    photo = background(camera, CANVAS_HEIGHT, shot.width, shot.foot[1], rng)
    _draw_shadow(photo, person, shot)
    _paste(figure, photo, side=float(rng.choice([-1, 1])))
    _draw_occluder(photo, shot, rng)
    width = round(shot.crop_height * shot.width / CANVAS_HEIGHT)
    small = cv2.resize(photo, (width, shot.crop_height), interpolation=cv2.INTER_AREA)
    return develop(small, camera, rng)


def draw_figure(person: Person, shot: Shot) -> Canvas:
    """The person alone, drawn from the farthest layer to the nearest."""
    foot = (shot.foot[0] * shot.width, shot.foot[1] * CANVAS_HEIGHT)
    canvas = Canvas(CANVAS_HEIGHT, shot.width, shot.scale(person), foot, shot.lean)
    pose = pose_of(person.identity, shot)
    outfit = Outfit(canvas, person, pose, shot)
    head = Head(canvas, person, pose, shot)
    bag = Bag(canvas, person, pose, shot)
    head.draw_behind()
    bag.draw_behind()
    head.draw_neck()
    outfit.draw_legs()
    if shot.back:  # a raised forearm is in front of the body
        outfit.draw_arms()
    outfit.draw_torso()
    if not shot.back:
        outfit.draw_arms()
    bag.draw()
    head.draw()
    draw_hat(head, person)
    return canvas


def _draw_shadow(photo: np.ndarray, person: Person, shot: Shot) -> None:
    scale = shot.scale(person)
    x, y = shot.foot[0] * shot.width, (shot.foot[1] - 0.01) * CANVAS_HEIGHT
    layer = np.zeros(photo.shape[:2], np.uint8)
    cv2.ellipse(layer, (round(x), round(y)), (round(0.15 * scale), round(0.025 * scale)), 0, 0, 360, 90, cv2.FILLED)
    top = max(0, round(y - 0.06 * scale))
    soft = cv2.blur(layer[top:], (15, 9)).astype(np.float32)[..., None] / 255
    photo[top:] = (photo[top:] * (1 - soft)).astype(np.uint8)


def _paste(figure: Canvas, photo: np.ndarray, side: float) -> None:
    """Copies the figure onto the background, darker towards its outline and on the side away from the light."""
    mask = figure.silhouette()
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    round_off = 0.8 + 0.2 * np.minimum(depth / (0.035 * figure.scale), 1)
    across = (np.arange(photo.shape[1], dtype=np.float32) - figure.foot[0]) / np.float32(0.15 * figure.scale)
    shading = round_off * (1 + np.float32(0.06 * side) * np.clip(across, -1, 1))
    shaded = cv2.multiply(figure.image[..., :3], cv2.merge([shading] * 3), dtype=cv2.CV_8U)
    cv2.copyTo(shaded, mask, photo)


def _draw_occluder(photo: np.ndarray, shot: Shot, rng: np.random.Generator) -> None:
    if shot.occluder is None:
        return
    x0, y0, x1, y1 = (round(value) for value in shot.occluder)
    tone = float(rng.uniform(0.75, 1.0))
    colour, edge = (shade(colour, tone) for colour in OCCLUDER_COLOURS[shot.occlusion])
    cv2.rectangle(photo, (x0, y0), (x1, y1), colour, cv2.FILLED)
    cv2.rectangle(photo, (x0, y0), (x1, y1), edge, 4)
    if shot.occlusion == "pole":
        cv2.line(photo, ((3 * x0 + x1) // 4, y0), ((3 * x0 + x1) // 4, y1), (150, 152, 154), max(2, (x1 - x0) // 6))
    else:
        cv2.line(photo, (x0, y0 + 22), (x1, y0 + 22), edge, 3)
