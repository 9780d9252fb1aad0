"""Bags and hats."""

from __future__ import annotations

from t2ireid_plugin.synthetic.attributes import Person
from t2ireid_plugin.synthetic.canvas import Canvas, box, cloth_paint, mirrored, outline_of, shade
from t2ireid_plugin.synthetic.figure import Head, Pose
from t2ireid_plugin.synthetic.shot import Shot


class Bag:
    """A person's bag; `draw_behind` goes under the clothes, `draw` over them."""

    def __init__(self, canvas: Canvas, person: Person, pose: Pose, shot: Shot) -> None:
        self.canvas, self.pose, self.shot = canvas, pose, shot
        self.kind = person.clothing.bag_kind
        self.colour = cloth_paint(person.clothing.bag_colour, "bag")
        self.edge = outline_of(self.colour)

    def draw_behind(self) -> None:
        """Draws the sides of a backpack that show behind the shoulders of a person seen from the front."""
        if self.kind == "backpack" and not self.shot.back:
            reach = self.pose.shoulder + 0.03
            outline = [(-reach, 0.4), (-reach, 0.22), (-reach + 0.03, 0.175)]
            self.canvas.polygon(mirrored(outline), self.colour, self.edge)

    def draw(self) -> None:
        """Draws the part of the bag that lies over the clothes."""
        if self.kind == "backpack":
            self._draw_backpack()
        elif self.kind == "handbag":
            self._draw_handbag()
        elif self.kind == "shoulder bag":
            self._draw_shoulder_bag()

    def _draw_backpack(self) -> None:
        canvas, half = self.canvas, 0.72 * self.pose.shoulder
        if self.shot.back:
            outline = [(-half, 0.42), (-half * 1.04, 0.25), (-half * 0.7, 0.2)]
            canvas.polygon(mirrored(outline), self.colour, self.edge)
            pocket = [(-half * 0.75, 0.4), (-half * 0.75, 0.32)]
            canvas.polygon(mirrored(pocket), shade(self.colour, 0.9), self.edge)
            canvas.line([(-half * 0.85, 0.27), (half * 0.85, 0.27)], self.edge, 0.008)
            canvas.line([(-0.015, 0.2), (0, 0.187), (0.015, 0.2)], self.edge, 0.01)
            return
        for side in (-1, 1):
            strap = [(side * half * 0.72, 0.18), (side * half * 0.85, 0.28), (side * half * 0.98, 0.39)]
            canvas.limb(strap, (0.016, 0.017, 0.012), self.colour, self.edge)

    def _draw_handbag(self) -> None:
        side = self.shot.bag_side
        x, y = self.pose.arms[side][2]
        x += side * 0.012
        self.canvas.line([(x - 0.03, y + 0.09), (x, y + 0.018), (x + 0.03, y + 0.09)], self.edge, 0.011)
        outline = [(x - 0.042, y + 0.08), (x + 0.042, y + 0.08), (x + 0.055, y + 0.175), (x - 0.055, y + 0.175)]
        self.canvas.polygon(outline, self.colour, self.edge)
        self.canvas.line([(x - 0.045, y + 0.105), (x + 0.045, y + 0.105)], self.edge, 0.007)

    def _draw_shoulder_bag(self) -> None:
        side, shoulder = self.shot.bag_side, self.pose.shoulder
        x = side * (self.pose.hip + 0.012)
        self.canvas.line([(-side * (shoulder - 0.035), 0.183), (x, 0.45)], self.colour, 0.02)
        self.canvas.polygon(box(x - 0.055, 0.44, x + 0.055, 0.56), self.colour, self.edge)
        flap = [(x - 0.055, 0.44), (x + 0.055, 0.44), (x + 0.04, 0.5), (x - 0.04, 0.5)]
        self.canvas.polygon(flap, shade(self.colour, 1.1), self.edge)


def draw_hat(head: Head, person: Person) -> None:
    """Draws a cap with a peak or a beanie with a cuff over the hair."""
    clothing, canvas = person.clothing, head.canvas
    if clothing.hat_kind == "none":
        return
    colour = cloth_paint(clothing.hat_colour, "hat")
    edge = outline_of(colour)
    crown = [(-0.06, -0.02), (-0.057, -0.052), (-0.037, -0.083), (0, -0.093)]
    canvas.polygon(head.points(mirrored(crown)), colour, edge)
    if clothing.hat_kind == "beanie":
        canvas.polygon(head.points(box(-0.063, -0.04, 0.063, -0.012)), colour, edge)
        canvas.ellipse(head.at(0, -0.1), (0.019, 0.019), colour, edge)
    elif head.back:
        canvas.line(head.points([(-0.025, -0.02), (0, -0.034), (0.025, -0.02)]), edge, 0.008)
    else:
        turn = head.turn
        peak = [(-0.055, -0.026), (0.055, -0.026), (0.05 + 2 * turn, -0.004), (-0.05 + 2 * turn, -0.004)]
        canvas.polygon(head.points(peak), shade(colour, 0.8), edge)
