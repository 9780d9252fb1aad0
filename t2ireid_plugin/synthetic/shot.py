"""Geometry of one photo: viewpoint, pose, position in the crop, occluder, and the attributes that remain visible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from t2ireid_plugin.synthetic.attributes import Person

Box = tuple[float, float, float, float]  # x0, y0, x1, y1

# Height of the working canvas in pixels; it is shrunk to the size of the photo, which smooths the edges.
CANVAS_HEIGHT = 448
HEIGHT_SCALE = {"short": 0.87, "average": 0.94, "tall": 1.0}

# Position on the body: x from the axis, y from the top of the head, in body heights.
REGIONS: dict[str, Box] = {
    "head": (-0.055, 0.0, 0.055, 0.15),
    "face": (-0.04, 0.06, 0.04, 0.13),
    "hat": (-0.06, -0.02, 0.06, 0.06),
    "lower": (-0.09, 0.52, 0.09, 0.75),
    "shoes": (-0.09, 0.94, 0.09, 1.0),
    "boots": (-0.09, 0.87, 0.09, 1.0),
    "backpack": (-0.1, 0.2, 0.1, 0.42),
    "handbag": (0.12, 0.5, 0.2, 0.66),
    "shoulder bag": (0.05, 0.44, 0.16, 0.58),
}


@dataclass(frozen=True)
class Shot:
    """Geometry of one photo on a canvas of CANVAS_HEIGHT × `width` pixels."""

    width: int
    crop_height: int  # of the written photo, pixels
    back: bool
    turn: float  # -1…1, direction of the face
    stride: float  # -1…1, length of the step, and by its sign the leg in front
    arms: float  # 0…1, distance of the arms from the body
    bent_arm: int  # side of a forearm raised in front, 0 for none; never the bag's side
    lean: float  # of the head, body heights
    zoom: float  # body height of a tall person / canvas height
    foot: tuple[float, float]  # share of the canvas width and height
    bag_side: int  # -1 or 1
    occlusion: str  # none, pole, box, side
    occluder: Box | None  # pixels on the canvas

    def scale(self, person: Person) -> float:
        """Pixels per body height on the canvas."""
        return self.zoom * HEIGHT_SCALE[person.identity.height] * CANVAS_HEIGHT


def plan_shot(crop_heights: tuple[int, int], rng: np.random.Generator) -> Shot:
    """Samples a shot; `crop_heights` is the range of the heights of the camera's photos, pixels."""
    width = round(CANVAS_HEIGHT / rng.uniform(2.0, 2.3))
    occlusion = str(rng.choice(["none", "pole", "box", "side"], p=[0.85, 0.05, 0.06, 0.04]))
    bag_side = int(rng.choice([-1, 1]))
    return Shot(
        width=width,
        crop_height=int(rng.integers(crop_heights[0], crop_heights[1] + 1)),
        back=bool(rng.random() < 0.4),
        turn=float(rng.uniform(-1, 1)),
        stride=float(rng.uniform(-1, 1)),
        arms=float(rng.uniform(0, 1)),
        bent_arm=-bag_side if rng.random() < 0.2 else 0,
        lean=float(rng.normal(0, 0.015)),
        zoom=float(rng.uniform(0.9, 0.97)),
        foot=(float(rng.uniform(0.46, 0.54)), float(rng.uniform(0.955, 1.0))),
        bag_side=bag_side,
        occlusion=occlusion,
        occluder=_occluder(occlusion, width, rng),
    )


def _occluder(kind: str, width: int, rng: np.random.Generator) -> Box | None:
    if kind == "pole":
        at = rng.uniform(0.1, 0.9) * width
        return at, 0, at + rng.uniform(0.07, 0.12) * width, CANVAS_HEIGHT
    if kind == "box":
        x0 = rng.uniform(-0.3, 0.3) * width
        return x0, CANVAS_HEIGHT * rng.uniform(0.74, 0.87), x0 + width * rng.uniform(0.8, 1.2), CANVAS_HEIGHT
    if kind == "side":
        reach = rng.uniform(0.18, 0.32) * width
        top = CANVAS_HEIGHT * rng.uniform(0.15, 0.5)
        left = rng.random() < 0.5
        return (0, top, reach, CANVAS_HEIGHT) if left else (width - reach, top, width, CANVAS_HEIGHT)
    return None


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def visible_share(part: str, person: Person, shot: Shot) -> float:
    """Share of a region (a key of REGIONS) that lies inside the crop and is not hidden by the occluder."""
    x0, y0, x1, y1 = REGIONS[part]
    if part in ("handbag", "shoulder bag") and shot.bag_side < 0:
        x0, x1 = -x1, -x0
    scale = shot.scale(person)
    shift = shot.foot[0] * shot.width + shot.lean * (1 - (y0 + y1) / 2) * scale
    base = shot.foot[1] * CANVAS_HEIGHT
    box = (shift + x0 * scale, base + (y0 - 1) * scale, shift + x1 * scale, base + (y1 - 1) * scale)
    inside = (max(box[0], 0), max(box[1], 0), min(box[2], shot.width), min(box[3], CANVAS_HEIGHT))
    area = (box[2] - box[0]) * (box[3] - box[1])
    hidden = _overlap(inside, shot.occluder) if shot.occluder else 0.0
    return max(0.0, _overlap(inside, inside) - hidden) / area


def visible_attributes(person: Person, shot: Shot) -> frozenset[str]:
    """Names of the attributes that a photo shows, which a caption may therefore mention.

    Attributes that denote an absence ("none", "plain") are not listed: captions mention what is seen.
    """
    identity, clothing = person.identity, person.clothing

    def seen(part: str, share: float = 0.6) -> bool:
        return visible_share(part, person, shot) >= share

    names = {"sex", "build", "height", "upper_kind", "upper_colour", "sleeve"}
    if seen("lower", 0.4):
        names |= {"lower_kind", "lower_colour"}
    face = not shot.back and seen("face", 0.7)
    if face:
        names.add("skin")
        if identity.glasses != "none":
            names.add("glasses")
    hidden_by_hat = clothing.hat_kind != "none" and identity.hair_style in ("bald", "curly", "bun")
    if seen("head") and not hidden_by_hat:
        names |= {"hair_style"} if identity.hair_style == "bald" else {"hair_style", "hair_colour"}
    if face or (identity.age == "elderly" and "hair_colour" in names):
        names.add("age")
    if clothing.pattern != "plain" and not (clothing.pattern == "logo" and shot.back):
        names |= {"pattern", "pattern_colour"}
    if clothing.inner_colour != "none" and not shot.back:
        names.add("inner_colour")
    if seen("boots" if clothing.shoes_kind == "boots" else "shoes"):
        names |= {"shoes_kind", "shoes_colour"}
    if clothing.bag_kind != "none" and seen(clothing.bag_kind):
        names |= {"bag_kind", "bag_colour"}
    if clothing.hat_kind != "none" and seen("hat"):
        names |= {"hat_kind", "hat_colour"}
    return frozenset(names)
