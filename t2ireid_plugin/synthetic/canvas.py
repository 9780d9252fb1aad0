"""Canvas in units of the body height, so that a figure is described once for every crop size."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from t2ireid_plugin.synthetic.attributes import COLOURS, RGB

# What a pixel of a figure can show. The head is face, ears, hair and glasses, without a hat; upper includes a dress,
# and the top under an open jacket; skin is bare neck, hands, arms and legs.
PARTS = ("background", "head", "hat", "upper", "lower", "shoes", "bag", "skin")

Paint = tuple[int, ...]  # blue, green, red, and on a canvas the index of a part
Point = tuple[float, float]


def paint(rgb: RGB, part: str) -> Paint:
    """A colour of a part of the figure."""
    return (*rgb[::-1], PARTS.index(part))


def cloth_paint(name: str, part: str) -> Paint:
    """The colour of a garment by its name in COLOURS; black for "none", which is not drawn."""
    return paint(COLOURS.get(name, (0, 0, 0)), part)


def shade(colour: Paint, factor: float) -> Paint:
    """Darker (factor < 1) or lighter (factor > 1) tone of a colour, on the same part."""
    if factor <= 1:
        tones = (int(channel * factor) for channel in colour[:3])
    else:
        tones = (int(255 - (255 - channel) / factor) for channel in colour[:3])
    return (*tones, *colour[3:])


def outline_of(colour: Paint) -> Paint:
    """Tone that separates an arm from a body of the same colour: lighter on dark cloth, else darker."""
    return shade(colour, 1.22 if max(colour[:3]) < 75 else 0.72)


def mirrored(points: Sequence[Point]) -> list[Point]:
    """Outline of a shape that is symmetric about the body's axis, from the outline of its one half."""
    return [*points, *((-x, y) for x, y in reversed(points))]


def box(x0: float, y0: float, x1: float, y1: float) -> list[Point]:
    """Corners of an upright rectangle."""
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


class Canvas:
    """Image [H, W, 4] of `Paint` with the feet at `foot`, `(x, y)` in pixels, and `scale` pixels per body height.

    Points are `(x, y)`: x from the body's axis to the right, y from 0 (top of the head) to 1 (soles). `lean` is the
    horizontal shift of the head in body heights.
    """

    def __init__(self, height: int, width: int, scale: float, foot: tuple[float, float], lean: float) -> None:
        self.image = np.zeros((height, width, 4), np.uint8)
        self.scale = scale
        self.foot = foot
        self.lean = lean

    def pixel(self, point: Point) -> Point:
        """Position of a body point in pixels."""
        x, y = point
        x += self.lean * (1 - y)
        return self.foot[0] + x * self.scale, self.foot[1] + (y - 1) * self.scale

    def _pixels(self, points: Sequence[Point]) -> np.ndarray:
        return np.array([self.pixel(point) for point in points]).round().astype(np.int32)

    def _line_width(self, size: float) -> int:
        """Width of a line in pixels, at least 1."""
        return max(1, round(size * self.scale))

    def polygon(self, points: Sequence[Point], fill: Paint | np.ndarray, outline: Paint | None = None) -> None:
        """Fills a polygon with a colour or a texture [H, W, 4]."""
        corners = self._pixels(points)
        if isinstance(fill, np.ndarray):
            x, y, w, h = cv2.boundingRect(corners)
            x0, y0 = max(x, 0), max(y, 0)
            window = np.s_[y0 : max(y + h, 0), x0 : max(x + w, 0)]
            target = self.image[window]
            if target.size:
                mask = np.zeros(target.shape[:2], np.uint8)
                cv2.fillPoly(mask, [corners - (x0, y0)], 255)
                cv2.copyTo(fill[window], mask, target)
        else:
            cv2.fillPoly(self.image, [corners], fill)
        if outline is not None:
            cv2.polylines(self.image, [corners], True, outline, self._line_width(0.005))

    def limb(self, joints: Sequence[Point], widths: Sequence[float], fill: Paint | np.ndarray, outline: Paint) -> None:
        """Draws a tapering arm, leg or strand of hair through the joints; `widths` are half widths."""
        points = np.array(joints, float)
        steps = np.diff(points, axis=0)
        normals = np.stack([-steps[:, 1], steps[:, 0]], 1) / np.linalg.norm(steps, axis=1, keepdims=True)
        # At an inner joint the two segments share the mean normal, which closes the bend.
        at_joints = np.concatenate([normals[:1], (normals[:-1] + normals[1:]) / 2, normals[-1:]])
        offset = at_joints * np.array(widths)[:, None]
        self.polygon([*map(tuple, points + offset), *map(tuple, (points - offset)[::-1])], fill, outline)

    def ellipse(self, centre: Point, radii: Point, colour: Paint, outline: Paint | None = None) -> None:
        """Draws a filled ellipse with its axes along the image."""
        x, y = self.pixel(centre)
        at = (round(x), round(y))
        axes = (self._line_width(radii[0]), self._line_width(radii[1]))
        cv2.ellipse(self.image, at, axes, 0, 0, 360, colour, cv2.FILLED)
        if outline is not None:
            cv2.ellipse(self.image, at, axes, 0, 0, 360, outline, self._line_width(0.004))

    def line(self, points: Sequence[Point], colour: Paint, width: float) -> None:
        """Draws an open line through the points."""
        cv2.polylines(self.image, [self._pixels(points)], False, colour, self._line_width(width))

    def silhouette(self) -> np.ndarray:
        """Mask [H, W] of the figure: 255 where it is, else 0."""
        return np.where(self.image[..., 3] > 0, 255, 0).astype(np.uint8)
