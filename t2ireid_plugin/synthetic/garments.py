"""Clothes and shoes on a posed body."""

from __future__ import annotations

import cv2
import numpy as np

from t2ireid_plugin.synthetic.attributes import COLOURS, DENIM, SKIN_TONES, Person
from t2ireid_plugin.synthetic.canvas import Canvas, Paint, box, cloth_paint, mirrored, outline_of, paint, shade
from t2ireid_plugin.synthetic.figure import Pose
from t2ireid_plugin.synthetic.shot import Shot

HEM = {"t-shirt": 0.525, "shirt": 0.54, "jacket": 0.53, "coat": 0.7, "hoodie": 0.54, "sweater": 0.53, "dress": 0.74}


def pattern_texture(canvas: Canvas, pattern: str, colour: Paint, second: Paint) -> np.ndarray:
    """Cloth in two colours as an image of the canvas's size [H, W, 4]; a period is 5 to 7 % of the body height."""
    texture = np.full_like(canvas.image, colour)
    height, width = texture.shape[:2]
    unit = canvas.scale

    def bands(length: int, period: float) -> np.ndarray:
        return (np.arange(length) // (period * unit)).astype(int) % 2 == 0

    if pattern == "horizontal stripes":
        texture[bands(height, 0.033)] = second
    elif pattern == "vertical stripes":
        texture[:, bands(width, 0.024)] = second
    elif pattern == "checked":
        across, along = bands(height, 0.032), bands(width, 0.032)
        texture[across] = texture[:, along] = tuple((a + b) // 2 for a, b in zip(colour, second, strict=True))
        texture[np.ix_(across, along)] = second
    elif pattern == "dotted":
        step, radius = 0.05 * unit, max(2, round(0.0145 * unit))
        for row in range(int(height / step)):
            for column in range(int(width / step) + 1):
                at = (int((column + row % 2 / 2) * step), int(row * step))
                cv2.circle(texture, at, radius, second, cv2.FILLED)
    return texture


class Outfit:
    """Clothes of a person, drawn layer by layer; the caller chooses the order."""

    def __init__(self, canvas: Canvas, person: Person, pose: Pose, shot: Shot) -> None:
        self.canvas, self.pose, self.shot = canvas, pose, shot
        self.clothing = clothing = person.clothing
        self.skin = paint(SKIN_TONES[person.identity.skin], "skin")
        self.upper = cloth_paint(clothing.upper_colour, "upper")
        self.edge = outline_of(self.upper)
        self.second = cloth_paint(clothing.pattern_colour, "upper")
        tones = DENIM if clothing.lower_kind == "jeans" else COLOURS
        self.lower = paint(tones.get(clothing.lower_colour, (0, 0, 0)), "lower")
        self.shoes = cloth_paint(clothing.shoes_colour, "shoes")
        woven = clothing.pattern not in ("plain", "logo", "two-tone")
        self.cloth: Paint | np.ndarray = (
            pattern_texture(canvas, clothing.pattern, self.upper, self.second) if woven else self.upper
        )

    def draw_legs(self) -> None:
        """Draws legs, lower garment and shoes, the lifted leg behind the other."""
        kind, pose, colour = self.clothing.lower_kind, self.pose, self.lower
        edge = outline_of(colour)
        for side in (pose.rear_leg, -pose.rear_leg):
            hip, knee, ankle = pose.legs[side]
            bare = shade(self.skin, 0.86 if side == pose.rear_leg else 0.97)
            tone = shade(colour, 0.88) if side == pose.rear_leg else colour
            half = 0.5 * pose.hip
            if kind in ("trousers", "jeans"):
                ends = (ankle[0], ankle[1] + 0.01)
                self._draw_shoe(side)
                widths = (half + 0.006, 0.037 * pose.limb, 0.03 * pose.limb)
                self.canvas.limb((hip, knee, ends), widths, tone, edge)
                self._draw_boot_shaft(side)
                if kind == "jeans":
                    seam = [(hip[0] + side * half * 0.7, 0.54), (knee[0] + side * 0.026, knee[1]), ends]
                    self.canvas.line(seam, shade(colour, 1.5), 0.005)
            else:
                widths = (half, 0.03 * pose.limb, 0.018 * pose.limb)
                self.canvas.limb((hip, knee, ankle), widths, bare, outline_of(bare))
                self._draw_shoe(side)
                self._draw_boot_shaft(side)
            if kind == "shorts":
                middle = ((hip[0] + knee[0]) / 2, 0.6)
                end = (knee[0], knee[1] - 0.025)
                self.canvas.limb((hip, middle, end), (half + 0.008, 0.045 * pose.limb, 0.044 * pose.limb), tone, edge)
        self._draw_seat(kind, colour, edge)

    def _draw_seat(self, kind: str, colour: Paint, edge: Paint) -> None:
        hip = self.pose.hip
        if kind == "skirt":
            flare = hip + 0.035
            outline = [(-self.pose.waist, 0.44), (-hip - 0.005, 0.53), (-flare, 0.715)]
            self.canvas.polygon(mirrored(outline), colour, edge)
            for x in (-0.5, 0, 0.5):
                self.canvas.line([(x * hip, 0.56), (x * flare * 1.2, 0.71)], edge, 0.005)
        elif kind != "dress":
            outline = [(-self.pose.waist, 0.44), (-hip - 0.004, 0.52), (-0.3 * hip, 0.56)]
            self.canvas.polygon(mirrored(outline), colour)

    def _draw_shoe(self, side: int) -> None:
        x, y = self.pose.legs[side][2]
        heel, toe = y + 0.008, y + 0.052
        out = side * 0.012
        outline = [(x - 0.023, heel), (x + 0.023, heel), (x + out + 0.03, toe - 0.012), (x + out + 0.026, toe)]
        outline += [(x + out - 0.026, toe), (x + out - 0.03, toe - 0.012)]
        self.canvas.polygon(outline, self.shoes, outline_of(self.shoes))
        if self.clothing.shoes_kind == "sneakers":
            sole = paint((62, 60, 60) if self.clothing.shoes_colour == "white" else (245, 245, 245), "shoes")
            self.canvas.line([(x + out - 0.027, toe), (x + out + 0.027, toe)], sole, 0.012)
            if not self.shot.back:
                self.canvas.line([(x - 0.01, heel + 0.014), (x + 0.014, heel + 0.014)], sole, 0.005)

    def _draw_boot_shaft(self, side: int) -> None:
        if self.clothing.shoes_kind != "boots":
            return
        _, knee, (x, y) = self.pose.legs[side]
        top = (x + (knee[0] - x) * 0.36, y - 0.075)
        widths = (0.036 * self.pose.limb, 0.029, 0.028)
        self.canvas.limb((top, (x, y), (x, y + 0.02)), widths, self.shoes, outline_of(self.shoes))

    def draw_arms(self) -> None:
        """Draws arms with sleeves and hands."""
        pose, limb = self.pose, self.pose.limb
        two_tone = self.clothing.pattern == "two-tone"
        sleeve, edge = (self.second, outline_of(self.second)) if two_tone else (self.cloth, self.edge)
        bulk = 1.15 if self.clothing.upper_kind in ("coat", "hoodie", "jacket") else 1.0
        for shoulder, elbow, wrist in pose.arms.values():
            self.canvas.ellipse((wrist[0], wrist[1] + 0.014), (0.018, 0.022), self.skin, outline_of(self.skin))
            if self.clothing.sleeve == "long":
                upper, bend, cuff = (bulk * limb * w for w in (0.03, 0.027, 0.021))
                self.canvas.limb((elbow, wrist), (bend, cuff), sleeve, edge)
                self.canvas.limb((shoulder, elbow), (upper, bend), sleeve, edge)
                continue
            self.canvas.limb((elbow, wrist), (0.021 * limb, 0.015), self.skin, outline_of(self.skin))
            self.canvas.limb((shoulder, elbow), (0.026 * limb, 0.021 * limb), self.skin, outline_of(self.skin))
            end = (shoulder[0] + 0.8 * (elbow[0] - shoulder[0]), shoulder[1] + 0.8 * (elbow[1] - shoulder[1]))
            self.canvas.limb((shoulder, end), (0.031 * limb, 0.033 * limb), sleeve, edge)

    def draw_torso(self) -> None:
        """Draws the upper garment (or dress) with its collar and details."""
        kind, pose = self.clothing.upper_kind, self.pose
        hem = HEM[kind]
        flare = {"coat": 0.02, "dress": 0.045}.get(kind, 0.004)
        side = [(-0.03, 0.172), (-pose.shoulder + 0.03, 0.184), (-pose.shoulder + 0.004, 0.2)]
        side += [(-pose.shoulder + 0.014, 0.28), (-pose.waist - 0.006, 0.4), (-pose.hip - 0.006, 0.5)]
        side += [(-pose.hip - flare, hem)]
        self.canvas.polygon(mirrored(side), self.cloth, self.edge)
        if self.clothing.pattern == "logo" and not self.shot.back:
            self.canvas.polygon(box(-0.045, 0.25, 0.045, 0.33), self.second)
            self.canvas.line([(-0.028, 0.29), (0.028, 0.29)], self.upper, 0.014)
        if self.clothing.inner_colour != "none" and not self.shot.back:
            self._draw_open_front(hem)
        if self.shot.back:
            self._draw_back_details(kind, hem)
        else:
            self._draw_front_details(kind, hem)

    def _draw_open_front(self, hem: float) -> None:
        inner = cloth_paint(self.clothing.inner_colour, "upper")
        gap = 0.3 * self.pose.shoulder
        bottom = min(hem, 0.53)
        if hem > bottom:  # the coat's two halves part over the trousers, which are already drawn
            self.canvas.polygon([(-gap, bottom), (gap, bottom), (gap * 1.1, hem), (-gap * 1.1, hem)], self.lower)
        points = [(-0.03, 0.172), (0.03, 0.172), (gap, 0.3), (gap, bottom), (-gap, bottom), (-gap, 0.3)]
        self.canvas.polygon(points, inner, self.edge)

    def _draw_front_details(self, kind: str, hem: float) -> None:
        canvas, edge = self.canvas, self.edge
        if kind in ("t-shirt", "dress"):
            canvas.polygon([(-0.032, 0.168), (0.032, 0.168), (0.018, 0.2), (-0.018, 0.2)], self.skin, edge)
        elif kind == "sweater":
            canvas.line([(-0.034, 0.176), (0, 0.192), (0.034, 0.176)], edge, 0.014)
            canvas.line([(-self.pose.hip, hem - 0.015), (self.pose.hip, hem - 0.015)], edge, 0.01)
        elif kind == "hoodie":
            hood = [(-0.06, 0.165), (0.06, 0.165), (0.045, 0.205), (0, 0.225), (-0.045, 0.205)]
            canvas.polygon(hood, self.upper, edge)
            canvas.polygon([(-0.028, 0.165), (0.028, 0.165), (0, 0.2)], shade(self.upper, 0.5))
            for x in (-0.014, 0.014):
                canvas.line([(x, 0.2), (x, 0.25)], paint((240, 240, 240), "upper"), 0.006)
            canvas.polygon([(-0.04, 0.41), (0.04, 0.41), (0.06, 0.49), (-0.06, 0.49)], self.upper, edge)
        elif kind == "shirt":
            canvas.line([(0, 0.2), (0, hem)], edge, 0.006)
            for x in (-1, 1):
                canvas.polygon([(x * 0.034, 0.163), (0, 0.19), (x * 0.026, 0.218)], shade(self.upper, 1.3), edge)
            for y in (0.25, 0.31, 0.37, 0.43, 0.49):
                canvas.ellipse((0, y), (0.005, 0.005), shade(self.upper, 0.5))
        else:
            self._draw_jacket_details(kind, hem)

    def _draw_jacket_details(self, kind: str, hem: float) -> None:
        canvas, edge = self.canvas, self.edge
        for x in (-1, 1):
            tip = 0.29 if kind == "coat" else 0.23
            lapel = [(x * 0.036, 0.162), (x * 0.052, 0.2), (x * 0.034, tip), (x * 0.012, 0.2)]
            canvas.polygon(lapel, shade(self.upper, 1.12), edge)
            canvas.line([(x * 0.5 * self.pose.hip, 0.46), (x * 0.85 * self.pose.hip, 0.45)], edge, 0.007)
        if self.clothing.inner_colour == "none":
            canvas.line([(0, 0.2), (0, hem)], edge, 0.007)
            if kind == "coat":
                for y in (0.32, 0.38, 0.44, 0.5, 0.56):
                    canvas.ellipse((0.018, y), (0.007, 0.007), shade(self.upper, 0.5), edge)
        if kind == "jacket":
            canvas.line([(-self.pose.hip, hem - 0.012), (self.pose.hip, hem - 0.012)], edge, 0.008)

    def _draw_back_details(self, kind: str, hem: float) -> None:
        canvas, edge = self.canvas, self.edge
        if kind == "hoodie":
            hood = [(-0.055, 0.165), (0.055, 0.165), (0.045, 0.235), (0, 0.265), (-0.045, 0.235)]
            canvas.polygon(hood, self.upper, edge)
        elif kind == "coat":
            canvas.line([(0, 0.5), (0, hem)], edge, 0.007)
        elif kind in ("jacket", "shirt"):
            canvas.line([(-self.pose.shoulder + 0.02, 0.235), (self.pose.shoulder - 0.02, 0.235)], edge, 0.005)
        canvas.line([(-0.03, 0.172), (0, 0.18), (0.03, 0.172)], edge, 0.008)
