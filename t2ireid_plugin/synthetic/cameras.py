"""Six fixed cameras with their background, light, colour cast, sharpness and crop sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from t2ireid_plugin.synthetic.canvas import Paint

# Size of a camera's whole view; the background of a photo is a window of it, since the camera does not move.
VIEW_HEIGHT, VIEW_WIDTH = 520, 900
HORIZON = 300


@dataclass(frozen=True)
class Camera:
    """A scene with its light. Colours are BGR; `cast` multiplies B, G and R."""

    index: int
    folder: str  # of CUHK-PEDES's imgs/; "query" becomes train_query or test_query
    draw_scene: Callable[[np.ndarray, Camera, np.random.Generator], None]
    wall: Paint
    floor: Paint
    gain: float
    cast: tuple[float, float, float]
    blur: float  # pixels of a written photo
    noise: float  # grey levels
    crop_heights: tuple[int, int]
    quality: int  # of the JPEG


@cache
def camera_view(camera: Camera) -> np.ndarray:
    """Empty scene [VIEW_HEIGHT, VIEW_WIDTH, 3] in front of the camera; read-only, drawn once."""
    rng = np.random.default_rng((camera.index, 77))
    view = np.empty((VIEW_HEIGHT, VIEW_WIDTH, 3), np.uint8)
    view[:HORIZON], view[HORIZON:] = camera.wall, camera.floor
    camera.draw_scene(view, camera, rng)
    grain = rng.normal(0, 5, (VIEW_HEIGHT // 2, VIEW_WIDTH // 2, 1))
    grain = cv2.resize(grain, (VIEW_WIDTH, VIEW_HEIGHT))[..., None]
    view = np.clip(cv2.GaussianBlur(view, (0, 0), 1.6) + grain, 0, 255).astype(np.uint8)
    view.setflags(write=False)
    return view


def _tone(colour: Paint, factor: float) -> Paint:
    return tuple(int(min(255, channel * factor)) for channel in colour)


def _floor_grid(view: np.ndarray, colour: Paint, spacing: int) -> None:
    """Draws the joints of paving slabs in perspective."""
    middle = VIEW_WIDTH // 2
    for x in range(-2 * VIEW_WIDTH, 3 * VIEW_WIDTH, spacing):
        cv2.line(view, (middle + (x - middle) // 3, HORIZON), (x, VIEW_HEIGHT), colour, 2)
    y, step = float(HORIZON), 8.0
    while y < VIEW_HEIGHT:
        cv2.line(view, (0, int(y)), (VIEW_WIDTH, int(y)), colour, 2)
        y, step = y + step, step * 1.35


def _pavement(view: np.ndarray, camera: Camera, rng: np.random.Generator) -> None:
    cv2.rectangle(view, (0, 190), (VIEW_WIDTH, HORIZON), (70, 108, 84), cv2.FILLED)
    for _ in range(900):
        at = (int(rng.integers(VIEW_WIDTH)), int(rng.integers(180, HORIZON - 6)))
        cv2.circle(view, at, int(rng.integers(4, 11)), _tone((70, 108, 84), rng.uniform(0.7, 1.25)), cv2.FILLED)
    for x in range(40, VIEW_WIDTH, 170):
        cv2.rectangle(view, (x, 20), (x + 90, 130), (150, 140, 124), cv2.FILLED)
        cv2.rectangle(view, (x, 20), (x + 90, 130), (120, 124, 128), 5)
    _floor_grid(view, _tone(camera.floor, 0.84), 90)


def _grass(view: np.ndarray, camera: Camera, rng: np.random.Generator) -> None:
    for x in range(30, VIEW_WIDTH, 120):
        x += int(rng.integers(-25, 25))
        cv2.rectangle(view, (x - 7, 150), (x + 7, HORIZON + 8), (62, 84, 104), cv2.FILLED)
        for _ in range(22):
            at = (x + int(rng.integers(-55, 55)), int(rng.integers(20, 190)))
            cv2.circle(view, at, int(rng.integers(14, 30)), _tone((78, 138, 92), rng.uniform(0.7, 1.2)), cv2.FILLED)
    for _ in range(2500):
        x, y = int(rng.integers(VIEW_WIDTH)), int(rng.integers(HORIZON, VIEW_HEIGHT))
        cv2.line(view, (x, y), (x + 2, y - 6), _tone(camera.floor, rng.uniform(0.8, 1.15)), 2)
    path = np.array([(-200, VIEW_HEIGHT), (VIEW_WIDTH + 200, VIEW_HEIGHT), (VIEW_WIDTH, 400), (0, 400)])
    cv2.fillPoly(view, [path], (160, 176, 186))


def _brick(view: np.ndarray, camera: Camera, rng: np.random.Generator) -> None:
    for row, y in enumerate(range(0, HORIZON, 20)):
        for x in range(-(row % 2) * 25, VIEW_WIDTH, 50):
            colour = _tone(camera.wall, rng.uniform(0.86, 1.1))
            cv2.rectangle(view, (x + 2, y + 2), (x + 48, y + 18), colour, cv2.FILLED)
            cv2.rectangle(view, (x, y), (x + 50, y + 20), (150, 160, 176), 2)
    _floor_grid(view, _tone(camera.floor, 0.88), 130)


def _corridor(view: np.ndarray, camera: Camera, rng: np.random.Generator) -> None:
    for x in range(60, VIEW_WIDTH, 240):
        cv2.rectangle(view, (x, 60), (x + 100, HORIZON), (96, 128, 158), cv2.FILLED)
        cv2.rectangle(view, (x, 60), (x + 100, HORIZON), (140, 164, 184), 6)
        cv2.circle(view, (x + 88, 190), 5, (210, 214, 216), cv2.FILLED)
        cv2.rectangle(view, (x + 130, 110), (x + 200, 180), (216, 200, 170), cv2.FILLED)
    cv2.rectangle(view, (0, HORIZON - 14), (VIEW_WIDTH, HORIZON), _tone(camera.wall, 0.7), cv2.FILLED)
    _floor_grid(view, _tone(camera.floor, 1.13), 70)


def _shelves(view: np.ndarray, camera: Camera, rng: np.random.Generator) -> None:
    for y in range(30, HORIZON, 68):
        x = 0
        while x < VIEW_WIDTH:
            w, h = int(rng.integers(18, 46)), int(rng.integers(34, 54))
            # Pale goods: strong colours belong to the people.
            colour = tuple(int(v) for v in rng.integers(120, 235, 3))
            cv2.rectangle(view, (x, y + 54 - h), (x + w - 3, y + 54), colour, cv2.FILLED)
            x += w
        cv2.rectangle(view, (0, y + 54), (VIEW_WIDTH, y + 62), (150, 152, 154), cv2.FILLED)
    _floor_grid(view, _tone(camera.floor, 0.93), 110)


def _road(view: np.ndarray, camera: Camera, rng: np.random.Generator) -> None:
    x = 0
    while x < VIEW_WIDTH:
        w, top = int(rng.integers(70, 160)), int(rng.integers(0, 120))
        facade = _tone(camera.wall, rng.uniform(0.6, 0.95))
        cv2.rectangle(view, (x, top), (x + w, HORIZON - 20), facade, cv2.FILLED)
        for wy in range(top + 16, HORIZON - 50, 40):
            for wx in range(x + 12, x + w - 20, 34):
                lit = rng.random() < 0.3
                cv2.rectangle(view, (wx, wy), (wx + 16, wy + 22), (130, 190, 214) if lit else (70, 62, 56), cv2.FILLED)
        x += w
    cv2.rectangle(view, (0, HORIZON - 20), (VIEW_WIDTH, HORIZON), (120, 120, 120), cv2.FILLED)
    for x in range(-100, VIEW_WIDTH, 120):
        stripe = np.array([(x, VIEW_HEIGHT), (x + 60, VIEW_HEIGHT), (x + 80, 410), (x + 36, 410)])
        cv2.fillPoly(view, [stripe], (170, 172, 172))


CAMERAS = (
    Camera(0, "cam_a", _pavement, (168, 178, 182), (150, 152, 156), 1.02, (0.97, 1.0, 1.02), 0.3, 3, (190, 250), 92),
    Camera(1, "cam_b", _grass, (196, 176, 150), (86, 142, 108), 1.06, (0.96, 1.02, 1.0), 0.5, 4, (170, 230), 90),
    Camera(2, "CUHK01", _brick, (92, 112, 168), (128, 130, 134), 0.95, (1.05, 1.0, 0.96), 0.4, 4, (160, 200), 92),
    Camera(3, "CUHK03", _corridor, (176, 206, 218), (150, 168, 178), 1.0, (0.9, 0.99, 1.05), 0.6, 5, (180, 260), 90),
    Camera(4, "Market", _shelves, (206, 210, 208), (188, 192, 196), 1.08, (1.02, 1.0, 0.99), 0.5, 4, (150, 190), 92),
    Camera(5, "query", _road, (120, 104, 88), (86, 84, 82), 0.93, (1.07, 1.0, 0.95), 0.6, 5, (160, 220), 88),
)


def background(camera: Camera, height: int, width: int, feet: float, rng: np.random.Generator) -> np.ndarray:
    """Window of the camera's view [height, width, 3], scaled so that the floor extends beyond the feet."""
    view = camera_view(camera)
    window_height = int(rng.integers(360, 470))
    window_width = round(window_height * width / height)
    # The feet must stand on the floor, well below the horizon.
    lowest = VIEW_HEIGHT - window_height
    y0 = int(np.clip(HORIZON + rng.integers(60, 150) - feet * window_height, 0, lowest))
    x0 = int(rng.integers(0, VIEW_WIDTH - window_width))
    window = view[y0 : y0 + window_height, x0 : x0 + window_width]
    return cv2.resize(window, (width, height), interpolation=cv2.INTER_LINEAR)


def develop(image: np.ndarray, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """Applies the camera's light, colour cast, blur and noise to a photo uint8 [H, W, 3]."""
    gain = camera.gain * rng.uniform(0.9, 1.1) * np.array(camera.cast) * rng.uniform(0.97, 1.03, 3)
    sigma = camera.blur * rng.uniform(0.5, 1.3)
    if sigma > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    noise = rng.standard_normal(image.shape[:2], np.float32)[..., None] * camera.noise
    # The light fades from one side to the other.
    left, right = 1 + rng.uniform(-0.1, 0.1, 2)
    ramp = np.linspace(left, right, image.shape[1], dtype=np.float32)[None, :, None]
    lit = image * (ramp * gain.astype(np.float32)) + noise
    return np.clip(lit, 0, 255).astype(np.uint8)
