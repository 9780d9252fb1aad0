"""The body under the clothes: proportions, joints of a pose, head, face and hair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from t2ireid_plugin.synthetic.attributes import HAIR_COLOURS, SKIN_TONES, Identity, Person
from t2ireid_plugin.synthetic.canvas import Canvas, Paint, Point, mirrored, outline_of, paint, shade
from t2ireid_plugin.synthetic.shot import Shot

BUILD_WIDTH = {"slim": 0.84, "average": 1.0, "stocky": 1.24}
HEAD_SIZE = {"short": 1.12, "average": 1.03, "tall": 0.95}
HEAD_CENTRE = 0.085
# Hair that falls over the shoulders: its length, and its half width seen from the front and from behind.
LOOSE_HAIR = {"long": (0.2, 0.074, 0.07), "shoulder-length": (0.1, 0.072, 0.066)}


@dataclass(frozen=True)
class Pose:
    """Half widths and joints in body heights; limbs are keyed by side, -1 left and 1 right in the image."""

    shoulder: float
    waist: float
    hip: float
    limb: float  # thickness factor of arms and legs
    head: float  # size factor
    arms: dict[int, tuple[Point, Point, Point]]  # shoulder, elbow, wrist
    legs: dict[int, tuple[Point, Point, Point]]  # hip, knee, ankle
    turn: float  # shift of the face's features

    @property
    def rear_leg(self) -> int:
        """Side of the lifted foot; it is drawn first."""
        return min(self.legs, key=lambda side: self.legs[side][2][1])


def pose_of(identity: Identity, shot: Shot) -> Pose:
    """Proportions and joints of a person in the pose of a shot."""
    build = BUILD_WIDTH[identity.build]
    man = identity.sex == "man"
    narrow = 1 - 0.1 * abs(shot.turn)  # a body turned aside
    shoulder = (0.116 if man else 0.1) * (0.45 + 0.55 * build) * narrow
    hip = (0.085 if man else 0.09) * build * narrow
    arms, legs = {}, {}
    for side in (-1, 1):
        swing = side * shot.stride
        reach = shoulder + 0.012 * build + 0.045 * shot.arms
        elbow = (side * (reach - 0.012), 0.345)
        wrist = (side * (reach + 0.012 * swing), 0.478 - 0.035 * max(swing, 0))
        if side == shot.bent_arm:
            elbow, wrist = (side * (reach + 0.01), 0.35), (side * (0.4 * shoulder), 0.31)
        arms[side] = ((side * (shoulder - 0.022), 0.213), elbow, wrist)
        lift = max(0.0, -swing)
        spread = 0.046 * build + 0.03 * abs(shot.stride)
        legs[side] = (
            (side * 0.5 * hip, 0.5),
            (side * (0.47 * hip + 0.4 * spread), 0.725 - 0.012 * lift),
            (side * (spread - 0.014 * lift), 0.945 - 0.045 * lift),
        )
    return Pose(
        shoulder=shoulder,
        waist=(0.082 if man else 0.07) * build * narrow,
        hip=hip,
        limb=0.55 + 0.45 * build,
        head=HEAD_SIZE[identity.height],
        arms=arms,
        legs=legs,
        turn=0.014 * shot.turn,
    )


class Head:
    """Neck, head and hair of a person; `draw_behind` goes under the clothes, `draw` over them."""

    def __init__(self, canvas: Canvas, person: Person, pose: Pose, shot: Shot) -> None:
        self.canvas = canvas
        self.identity = person.identity
        self.hat = person.clothing.hat_kind
        self.back = shot.back
        self.size = pose.head
        self.turn = pose.turn
        self.skin = paint(SKIN_TONES[person.identity.skin], "skin")
        bald = person.identity.hair_style == "bald"
        self.hair = self.skin if bald else paint(HAIR_COLOURS[person.identity.hair_colour], "head")

    def at(self, x: float, y: float) -> Point:
        """Body point of `(x, y)` relative to the head's centre, scaled with the head, which sits on the neck."""
        return x * self.size, 0.157 - (0.157 - HEAD_CENTRE) * self.size + y * self.size

    def points(self, points: Sequence[Point]) -> list[Point]:
        """Body points, as `at`."""
        return [self.at(*point) for point in points]

    def draw_behind(self) -> None:
        """Draws the hair that falls behind the shoulders when the person faces the camera."""
        if not self.back:
            self._draw_loose_hair()

    def _draw_loose_hair(self) -> None:
        if self.identity.hair_style in LOOSE_HAIR:
            length, front, back = LOOSE_HAIR[self.identity.hair_style]
            half = back if self.back else front
            points = [(-0.05, -0.05), (-half, 0.02), (-half, length - 0.02), (-half * 0.7, length)]
            self.canvas.polygon(self.points(mirrored(points)), self.hair, outline_of(self.hair))

    def draw_neck(self) -> None:
        """Draws the neck, which collars cover later."""
        dark = shade(self.skin, 0.86)
        self.canvas.polygon([(-0.027, 0.13), (0.027, 0.13), (0.031, 0.195), (-0.031, 0.195)], dark)

    def draw(self) -> None:
        """Draws head and hair, and the face of a person who faces the camera."""
        if self.back:
            self._draw_back()
        else:
            self._draw_front()

    def _oval(self, x: float, y: float, rx: float, ry: float, colour: Paint) -> None:
        self.canvas.ellipse(self.at(x, y), (rx * self.size, ry * self.size), colour)

    def _draw_curls(self) -> None:
        dark = outline_of(self.hair)
        curls = ((-0.05, 0.0), (0.05, 0.0), (-0.044, -0.042), (0.044, -0.042), (-0.018, -0.064), (0.018, -0.064))
        for x, y in curls:
            self.canvas.ellipse(self.at(x, y), (0.026, 0.026), self.hair, dark)
        self._oval(0, -0.03, 0.048, 0.045, self.hair)

    def _draw_front(self) -> None:
        style = self.identity.hair_style
        bald = style == "bald"
        for side in (-1, 1):
            self._oval(side * 0.051, 0.008, 0.009, 0.014, shade(self.skin, 0.88))
        if style == "bun" and self.hat == "none":
            self.canvas.ellipse(self.at(0, -0.085), (0.034, 0.03), self.hair, outline_of(self.hair))
        if style == "curly" and self.hat == "none":
            self._draw_curls()
        if not bald:
            self._oval(0, -0.012, 0.056, 0.066, self.hair)
        self._oval(self.turn * 0.4, 0.0 if bald else 0.012, 0.049, 0.068 if bald else 0.058, self.skin)
        if not bald:
            fringe = [(-0.05, 0.0), (-0.052, -0.04), (0, -0.075), (0.052, -0.04), (0.05, 0.0)]
            parting = [(0.034, -0.022), (0.02 + self.turn, -0.038), (-0.02 + self.turn, -0.03), (-0.04, -0.014)]
            self.canvas.polygon(self.points(fringe + parting), self.hair)
        self._draw_strands(style)
        self._draw_face()

    def _draw_strands(self, style: str) -> None:
        dark = outline_of(self.hair)
        for side in (-1, 1):
            if style == "long":
                joints = [(side * 0.05, -0.03), (side * 0.062, 0.06), (side * 0.058, 0.185)]
                self.canvas.limb(self.points(joints), (0.012, 0.02, 0.013), self.hair, dark)
            elif style == "shoulder-length":
                joints = [(side * 0.05, -0.03), (side * 0.058, 0.05), (side * 0.05, 0.1)]
                self.canvas.limb(self.points(joints), (0.012, 0.016, 0.012), self.hair, dark)
        if style == "ponytail":
            side = 1 if self.turn > 0 else -1
            joints = [(side * 0.045, -0.035), (side * 0.083, 0.03), (side * 0.078, 0.13), (side * 0.07, 0.18)]
            self.canvas.limb(self.points(joints), (0.012, 0.022, 0.02, 0.006), self.hair, dark)

    def _draw_face(self) -> None:
        canvas, turn, ink = self.canvas, self.turn, shade(self.skin, 0.68)
        for side in (-1, 1):
            self._oval(turn + side * 0.02, 0.004, 0.006, 0.006, paint((24, 26, 30), "head"))
            if self.identity.age != "young":
                canvas.line([self.at(turn + side * 0.027, 0.03), self.at(turn + side * 0.02, 0.046)], ink, 0.004)
        canvas.line([self.at(turn * 1.3, 0.01), self.at(turn * 1.5, 0.026)], shade(self.skin, 0.7), 0.006)
        lips = paint((176, 62, 70), "head") if self.identity.sex == "woman" else shade(self.skin, 0.58)
        canvas.line([self.at(turn - 0.014, 0.043), self.at(turn + 0.014, 0.043)], lips, 0.008)
        if self.identity.age == "elderly":
            canvas.line([self.at(turn - 0.022, -0.017), self.at(turn + 0.022, -0.017)], shade(self.skin, 0.7), 0.004)
        if self.identity.glasses != "none":
            self._draw_glasses()

    def _draw_glasses(self) -> None:
        dark = self.identity.glasses == "sunglasses"
        frame = paint((22, 22, 24), "head")
        for side in (-1, 1):
            centre = self.at(self.turn + side * 0.023, 0.004)
            lens = frame if dark else paint((232, 238, 240), "head")
            self.canvas.ellipse(centre, (0.019, 0.016), frame)
            self.canvas.ellipse(centre, (0.013, 0.01), lens)
            if not dark:
                self._oval(self.turn + side * 0.023, 0.005, 0.005, 0.005, paint((30, 34, 40), "head"))
        self.canvas.line([self.at(-0.05, -0.002), self.at(0.05, -0.002)], frame, 0.006)

    def _draw_back(self) -> None:
        style = self.identity.hair_style
        for side in (-1, 1):
            self._oval(side * 0.052, 0.01, 0.009, 0.014, shade(self.skin, 0.88))
        if style == "curly" and self.hat == "none":
            self._draw_curls()
        self._oval(0, -0.002, 0.054, 0.07, self.hair)
        dark = outline_of(self.hair)
        self._draw_loose_hair()
        if style == "ponytail":
            joints = self.points([(0, -0.03), (0.012, 0.05), (0.006, 0.14), (0, 0.19)])
            self.canvas.limb(joints, (0.012, 0.03, 0.024, 0.006), self.hair, dark)
            self.canvas.line([self.at(-0.016, -0.022), self.at(0.016, -0.022)], dark, 0.012)
        elif style == "bun" and self.hat == "none":
            self.canvas.ellipse(self.at(0, -0.055), (0.036, 0.034), self.hair, dark)
        elif style == "bald":
            self.canvas.line([self.at(-0.02, 0.05), self.at(0.02, 0.05)], shade(self.skin, 0.75), 0.004)
