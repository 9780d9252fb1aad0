"""Canvas in units of the body height, so that a figure is described once for every crop size."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from t2ireid_plugin.synthetic.attributes import COLOURS, RGB

BGR = tuple[int, int, int]
Point = tuple[float, float]
# The figure is drawn on this colour and cut out of it; no garment, skin or hair comes near it.
KEY: BGR = (254, 0, 255)


def bgr(rgb: RGB) -> BGR:
    """An RGB colour in OpenCV's order."""
    return rgb[2], rgb[1], rgb[0]


def cloth_colour(name: str) -> BGR:
    """The colour of a garment by its name in COLOURS; black for "none", which is not drawn."""
    return bgr(COLOURS.get(name, (0, 0, 0)))


def shade(colour: BGR, factor: float) -> BGR:
    """Darker (factor < 1) or lighter (factor > 1) tone of a colour."""
    if factor <= 1:
        blue, green, red = (int(channel * factor) for channel in colour)
    else:
        blue, green, red = (int(255 - (255 - channel) / factor) for channel in colour)
    return blue, green, red


def outline_of(colour: BGR) -> BGR:
    """Tone that separates an arm from a body of the same colour: lighter on dark cloth, else darker."""
    return shade(colour, 1.22) if max(colour) < 75 else shade(colour, 0.72)


def mirrored(points: Sequence[Point]) -> list[Point]:
    """Outline of a shape that is symmetric about the body's axis, from the outline of its one half."""
    return [*points, *((-x, y) for x, y in reversed(points))]


def box(x0: float, y0: float, x1: float, y1: float) -> list[Point]:
    """Corners of an upright rectangle."""
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


class Canvas:
    """Image [H, W, 3] with the feet at `foot`, `(x, y)` in pixels, and `scale` pixels per body height.

    Points are `(x, y)`: x from the body's axis to the right, y from 0 (top of the head) to 1 (soles). `lean` is the
    horizontal shift of the head in body heights.
    """

    def __init__(self, height: int, width: int, scale: float, foot: tuple[float, float], lean: float) -> None:
        self.image = np.full((height, width, 3), KEY, np.uint8)
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

    def polygon(self, points: Sequence[Point], paint: BGR | np.ndarray, outline: BGR | None = None) -> None:
        """Fills a polygon with a colour or a texture [H, W, 3]."""
        corners = self._pixels(points)
        if isinstance(paint, np.ndarray):
            x, y, w, h = cv2.boundingRect(corners)
            x0, y0 = max(x, 0), max(y, 0)
            window = np.s_[y0 : max(y + h, 0), x0 : max(x + w, 0)]
            target = self.image[window]
            if target.size:
                mask = np.zeros(target.shape[:2], np.uint8)
                cv2.fillPoly(mask, [corners - (x0, y0)], 255)
                cv2.copyTo(paint[window], mask, target)
        else:
            cv2.fillPoly(self.image, [corners], paint)
        if outline is not None:
            cv2.polylines(self.image, [corners], True, outline, self._line_width(0.005))

    def limb(self, joints: Sequence[Point], widths: Sequence[float], paint: BGR | np.ndarray, outline: BGR) -> None:
        """Draws a tapering arm, leg or strand of hair through the joints; `widths` are half widths."""
        points = np.array(joints, float)
        steps = np.diff(points, axis=0)
        normals = np.stack([-steps[:, 1], steps[:, 0]], 1) / np.linalg.norm(steps, axis=1, keepdims=True)
        # At an inner joint the two segments share the mean normal, which closes the bend.
        at_joints = np.concatenate([normals[:1], (normals[:-1] + normals[1:]) / 2, normals[-1:]])
        offset = at_joints * np.array(widths)[:, None]
        self.polygon([*map(tuple, points + offset), *map(tuple, (points - offset)[::-1])], paint, outline)

    def ellipse(self, centre: Point, radii: Point, colour: BGR, outline: BGR | None = None) -> None:
        """Draws a filled ellipse with its axes along the image."""
        x, y = self.pixel(centre)
        at = (round(x), round(y))
        axes = (self._line_width(radii[0]), self._line_width(radii[1]))
        cv2.ellipse(self.image, at, axes, 0, 0, 360, colour, cv2.FILLED)
        if outline is not None:
            cv2.ellipse(self.image, at, axes, 0, 0, 360, outline, self._line_width(0.004))

    def line(self, points: Sequence[Point], colour: BGR, width: float) -> None:
        """Draws an open line through the points."""
        cv2.polylines(self.image, [self._pixels(points)], False, colour, self._line_width(width))

    def silhouette(self) -> np.ndarray:
        """Mask [H, W] of the figure: 255 where it is, else 0."""
        return cv2.bitwise_not(cv2.inRange(self.image, KEY, KEY))
