"""Draws people by another programme than `t2ireid prepare synthetic`, to show that a recipe suits more than one drawer.

It shares nothing with `t2ireid_plugin.synthetic`: bodies are capsules in space, seen from all sides and from above;
attributes, colours, scenes and sentences are others. There are captions only, as in CUHK-PEDES.

    python -m benchmarks.other_people FOLDER    # then data.root FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from math import pi, sin
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from t2ireid_plugin.utils.atomic_io import atomic_folder

COLOURS = {
    "crimson": (165, 18, 48), "teal": (0, 122, 122), "beige": (222, 202, 166), "mustard": (206, 160, 28),
    "lavender": (184, 164, 226), "navy": (24, 32, 92), "olive": (106, 110, 36), "ivory": (246, 240, 220),
    "charcoal": (54, 58, 66), "coral": (250, 118, 96), "turquoise": (60, 206, 200), "magenta": (204, 28, 140),
    "lime": (160, 216, 40), "rust": (160, 76, 30), "raven": (22, 20, 28), "chestnut": (104, 60, 34),
    "auburn": (146, 54, 28), "flaxen": (232, 206, 130), "silver": (196, 198, 204), "pale": (248, 222, 204),
    "tawny": (190, 146, 104), "ebony": (84, 54, 40),
}  # fmt: skip
CLOTH, HAIR, SKIN = list(COLOURS)[:14], list(COLOURS)[14:19], list(COLOURS)[19:]
CHOICES = {  # values of each attribute, repeated where they are more frequent
    "sex": "male female", "age": "child teenager adult adult elderly", "build": "plain plain skinny burly",
    "style": "cropped cropped flowing braided afro bald", "face": "plain plain beard spectacles",
    "upper": "cardigan anorak jersey vest poncho robe", "pattern": "plain plain hooped chequered pinstriped",
    "lower": "leggings flares shorts skirt", "shoes": "clogs wellingtons", "hat": "bare bare bare straw bobble",
    "scarf": "bare bare scarf", "bag": "bare bare satchel suitcase umbrella", "dog": "bare bare bare dog",
}  # fmt: skip
SIZES = {"child": 0.72, "teenager": 0.88, "adult": 1.0, "elderly": 0.94, "plain": 1.0, "skinny": 0.8, "burly": 1.25}
NOUNS = {"male": "boy,teenage boy,gentleman,grandfather", "female": "girl,teenage girl,lady,granny"}  # by age
WORDS = {
    "leggings": "leggings", "flares": "flared trousers", "shorts": "knee-length shorts", "skirt": "a pleated skirt",
    "clogs": "clogs", "wellingtons": "wellington boots", "straw": "a wide straw hat", "bobble": "a bobble hat",
    "scarf": "a knotted scarf", "satchel": "a satchel", "suitcase": "a suitcase", "umbrella": "an open umbrella",
    "cardigan": "an open cardigan", "anorak": "an anorak", "jersey": "a jersey", "vest": "a sleeveless vest",
    "poncho": "a poncho", "robe": "an ankle-length robe",
}  # fmt: skip
# By value of an attribute: its colour, and capsules "x y z of both ends, both radii, height of the round ends, nearness
# added" in body heights; x to the left of the person, y up, z ahead.
PARTS = {
    "cardigan": ("second", "0 .78 .09 0 .46 .09 .03 .035 1 .03"),
    "anorak": ("upper_colour", "0 .86 -.07 0 .84 -.06 .08 .07 1 0; 0 .77 0 0 .46 0 .145 .135 .5 .01"),
    "poncho": ("upper_colour", "0 .85 0 0 .5 0 .05 .27 .3 .3"),
    "robe": ("upper_colour", "0 .84 0 0 .12 0 .07 .2 .3 .3"),
    "skirt": ("lower_colour", "0 .53 0 0 .3 0 .1 .19 .3 .008"),
    "cropped": ("hair", "0 .96 -.03 0 .94 -.04 .062 .062 1 .31"),
    "afro": ("hair", "0 .97 -.03 0 .95 -.04 .105 .105 1 .30"),
    "flowing": ("hair", "0 .96 -.03 0 .93 -.04 .07 .07 1 .31; 0 .93 -.06 0 .7 -.08 .075 .07 1 .06"),
    "braided": ("hair", "0 1 0 0 .9 -.1 .05 .06 1 .3; -.1 .9 0 -.1 .7 0 .03 .02 1 .3; .1 .9 0 .1 .7 0 .03 .02 1 .3"),
    "beard": ("hair", "-.02 .855 .05 .02 .855 .05 .045 .045 1 .33"),
    "spectacles": ("crimson", "-.03 .925 .06 -.07 .925 .01 .026 .01 1 .315; .03 .925 .06 .07 .925 .01 .026 .01 1 .315"),
    "scarf": ("scarf_colour", "-.05 .82 .02 .05 .82 .02 .045 .045 1 .34; .05 .82 .1 .06 .6 .12 .03 .035 1 .1"),
    "straw": ("hat_colour", "0 .975 0 0 .97 0 .16 .16 .25 .4; 0 1.03 0 0 .985 0 .06 .075 .6 .41"),
    "bobble": ("hat_colour", "0 1 0 0 .975 0 .062 .07 1 .4; 0 1.08 0 0 1.08 0 .035 .035 1 .42"),
    "satchel": ("bag_colour", "-.12 .79 .08 .18 .5 .1 .012 .012 1 .35; .2 .5 0 .2 .4 0 .08 .08 .3 .35"),
    "suitcase": ("bag_colour", "-.19 .5 -.05 -.24 .32 -.15 .008 .008 1 0; -.24 .34 -.15 -.24 .06 -.15 .1 .1 .25 0"),
    "umbrella": ("bag_colour", ".17 .75 .13 .12 1.2 .1 .008 .008 1 .3; .1 1.26 .08 .1 1.12 .08 .03 .34 .2 .6"),
    "dog": ("rust", "-.4 .2 0 -.4 0 0 .03 .02 1 0; -.4 .2 .2 -.4 0 .2 .03 .02 1 0; -.4 .2 0 -.4 .3 .3 .06 .06 1 0"),
}  # fmt: skip
Who = dict[str, str]  # a person's attributes


def sample_person(rng: np.random.Generator) -> Who:
    """Attributes of a person; the names of colours are keys of `COLOURS`."""
    who = {name: str(rng.choice(values.split())) for name, values in CHOICES.items()}
    who |= {f"{name}_colour": str(rng.choice(CLOTH)) for name in ("upper", "lower", "shoes", "hat", "scarf", "bag")}
    who["second"] = str(rng.choice([name for name in CLOTH if name != who["upper_colour"]]))
    who |= {"hair": "silver" if who["age"] == "elderly" else str(rng.choice(HAIR[:4])), "skin": str(rng.choice(SKIN))}
    if who["face"] == "beard" and (who["sex"] == "female" or SIZES[who["age"]] < 0.9):
        who["face"] = "plain"
    return who


def figure(who: Who, phase: float) -> list[tuple[Any, str, bool]]:
    """Capsules as the numbers of `PARTS`, with their colour, and whether they have the upper garment's pattern."""
    skin, upper, lower, shoes = (who[name] for name in ("skin", "upper_colour", "lower_colour", "shoes_colour"))
    bare_leg, high = who["lower"] in ("shorts", "skirt"), who["shoes"] == "wellingtons"
    shin = (0.034, 0.026) if bare_leg or who["lower"] == "leggings" else (0.045, 0.075)
    parts: list[tuple[Any, str, bool]] = [
        ((0, 0.77, 0, 0, 0.46 if who["upper"] == "cardigan" else 0.52, 0, 0.12, 0.11, 0.6, 0.005), upper, True),
        ((0, 0.93, 0, 0, 0.9, 0.01, 0.064, 0.052, 1, 0.31), skin, False),
    ]
    for side in (-1, 1):
        swing, x = 0.11 * sin(phase) * side, 0.058 * side
        up = 0.3 if who["bag"] == "umbrella" and side > 0 else 0.0
        elbow, hand = (0.165 * side, 0.64, -0.5 * swing), (0.175 * side, 0.5 + up, 0.04 - swing + up / 3)
        knee, eye = (x, 0.26, 0.5 * swing + 0.02), (0.025 * side, 0.925, 0.06)
        parts += [
            ((x, 0.49, 0, *knee, 0.052, 0.042, 1, 0), skin if who["lower"] == "skirt" else lower, False),
            ((*knee, x, 0.04, swing, *shin, 0.5, 0), skin if bare_leg else lower, False),
            ((x, 0.03, swing - 0.01, x, 0.025, swing + 0.07, 0.033, 0.029, 1, 0.02), shoes, False),
            ((x, 0.03, swing, x, 0.2 if high else 0.05, swing, 0.034, 0.042, 0.5, 0.02), shoes, False),
            ((0.125 * side, 0.79, 0, *elbow, 0.042, 0.036, 1, 0), skin if who["upper"] == "vest" else upper, False),
            ((*elbow, *hand, 0.034, 0.026, 1, 0), skin if who["upper"] in ("vest", "jersey") else upper, False),
            ((*hand, *hand, 0.03, 0.03, 1, 0.01), skin, False),
            ((*eye, *eye, 0.01, 0.01, 1, 0.32), "raven", False),
        ]
    for colour, text in (PARTS[value] for value in who.values() if value in PARTS):
        rows = (tuple(map(float, row.split())) for row in text.split(";"))
        parts += [(row, who.get(colour, colour), colour == "upper_colour") for row in rows]
    return parts


def paint(draw: ImageDraw.ImageDraw, who: Who, view: Sequence[float], foot: Any, size: float, phase: float) -> None:
    """Draws a person as seen from azimuth and elevation ``view``, with ``size`` pixels per body height."""
    (c, s), (ce, se) = ((np.cos(angle), np.sin(angle)) for angle in view)
    wide, pattern, second = SIZES[who["build"]], who["pattern"], COLOURS[who["second"]]
    parts = []
    for numbers, colour, patterned in figure(who, phase):
        x, y, z = np.reshape(numbers[:6], (2, 3)).T * [[wide], [1], [1]]
        ahead = z * c - x * s
        ends = np.array(foot) + size * np.stack([x * c + z * s, ahead * se - y * ce], axis=1)
        radii = np.array(numbers[6:8]) * size * wide
        parts.append((ahead.mean() + numbers[9], ends, radii, numbers[8], COLOURS[colour], patterned))
    for _, ends, radii, squash, rgb, patterned in sorted(parts, key=lambda part: part[0]):  # from the farthest on
        along = (ends[1] - ends[0]) / max(float(np.hypot(*(ends[1] - ends[0]))), 1e-6)
        across = np.array([abs(along[1]), -np.sign(along[1]) * along[0]])
        for tone, thick, shift in ((0.7, 1.0, 0.0), (1.0, 0.8, -0.14)):  # lit from the left
            fill = tuple(int(tone * channel) for channel in rgb)
            for (x, y), r in zip(ends + shift * np.outer(radii, (1, 0)), thick * radii):
                draw.ellipse((x - r, y - r * squash, x + r, y + r * squash), fill=fill)
            _quad(draw, ends, np.outer(radii, across), 0, 1, -1, 1 + 2.4 * shift, fill)
        for i, j in np.ndindex(*((8, 6) if patterned else (0, 0))):
            if {"hooped": i, "pinstriped": j, "chequered": i + j}.get(pattern, 0) % 2:
                _quad(draw, ends, np.outer(radii, across), i / 8, (i + 1) / 8, j / 3 - 1, (j + 1) / 3 - 1, second)


def _quad(draw: ImageDraw.ImageDraw, ends: Any, side: Any, t: float, t1: float, u: float, u1: float, fill: Any) -> None:
    """Fills the part of a capsule between two places along it (0 to 1) and two across it (-1 to 1)."""
    corners = ((t, u), (t, u1), (t1, u1), (t1, u))
    draw.polygon([tuple(np.array([1 - along, along]) @ (ends + across * side)) for along, across in corners], fill=fill)


def photograph(who: Who, camera: int, azimuth: float, rng: np.random.Generator) -> Image.Image:
    """A photo of a person: scene and light of the camera; pose, crop and something in front at random."""
    own = np.random.default_rng(camera + 20)
    sky, ground = own.integers(50, 220, (2, 1)) + own.integers(-35, 36, (2, 3))
    elevation, gains = own.uniform(0, 0.45), own.uniform(0.7, 1.1, 3)
    blur, noise = own.uniform(0.3, 1) * rng.uniform(0.5, 1.5), own.uniform(4, 12)
    height = int(rng.integers(120, 200))
    width, size = int(height * rng.uniform(0.4, 0.5)), 1.5 * height * rng.uniform(0.9, 1.1)
    image = Image.new("RGB", (2 * width, 2 * height), tuple(sky.tolist()))
    draw, horizon, shift = ImageDraw.Draw(image), height * rng.uniform(0.8, 1.3), int(rng.integers(0, 2 * width))
    draw.rectangle((0, horizon, 2 * width, 2 * height), fill=tuple(ground.tolist()))
    for k in range(-4, 12):  # columns or trunks, and lines on the ground
        x, top, tint = (k - 2) * width / 2 + shift, own.uniform(0.1, 0.7), (2 * sky + own.integers(0, 255, 3)) // 3
        draw.rectangle((x, horizon * top, x + width * 0.3, horizon), fill=tuple(tint.tolist()))
        draw.line((x, 2 * height, width + (x - width) / 3, horizon), fill=tuple((ground * 4 // 5).tolist()), width=3)
    foot = (width * rng.uniform(0.85, 1.15), 2 * height * rng.uniform(0.93, 1.03))
    paint(draw, who, (azimuth, elevation), foot, size * SIZES[who["age"]], rng.uniform(0, 2 * pi))
    if rng.random() < 0.3:  # a post or a wall in front
        x, y = (rng.uniform(0.2, 1.8) * width, 0) if rng.random() < 0.5 else (0, 2 * height * rng.uniform(0.72, 0.9))
        grey = tuple(rng.integers(60, 140, 3).tolist())
        draw.rectangle((x, y, x + 0.2 * width if x else 2 * width, 2 * height), fill=grey)
    small = image.resize((width, height), Image.Resampling.BOX)
    pixels = np.asarray(small.filter(ImageFilter.GaussianBlur(blur)))
    pixels = pixels * gains * rng.uniform(0.8, 1.2) + rng.normal(0, noise, (height, width, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def describe(who: Who, from_behind: bool, style: int, rng: np.random.Generator) -> str:
    """One to three sentences in one of four styles; a view from behind shows no face."""

    def thing(name: str) -> str:
        noun, colour = WORDS[who[name]], who[f"{name}_colour"]
        if name == "upper" and who["pattern"] != "plain":
            return f"{noun}, {who['pattern']} in {colour} and {who['second']}"
        head, _, rest = noun.partition(" ") if noun.startswith(("a ", "an ")) else ("", "", noun)
        article = head and ("an " if colour[0] in "aeiou" else "a ")
        return (f"{article}{colour} {rest}", f"{noun} in {colour}")[int(rng.integers(2))]

    def often(name: str, text: str = "") -> list[str]:
        return [text or thing(name)] if who[name] not in ("plain", "bare") and rng.random() < 0.75 else []

    noun = NOUNS[who["sex"]].split(",")[list(SIZES).index(who["age"])]
    he, his = ("he", "his") if who["sex"] == "male" else ("she", "her")
    hair = {"bald": "a bald scalp", "braided": f"{who['hair']} braids", "afro": f"an afro of {who['hair']} hair"}
    traits = often("style", hair.get(who["style"], f"{who['style']} {who['hair']} hair"))
    if not from_behind:
        traits += often("face", {"beard": "a full beard", "spectacles": "round spectacles"}.get(who["face"], ""))
    look = " and ".join(traits + often("skin", f"{who['skin']} skin")) or "an upright posture"
    person = " ".join([*often("build", who["build"]), noun])
    top, below, shoes = thing("upper"), thing("lower"), "".join(often("shoes"))
    extras = " and ".join(often("hat") + often("scarf"))
    text = (
        f"{top} over {below}{shoes and f', plus {shoes}'}: that is what the {person} with {look} has chosen",
        f"look for a {person} sporting {look}. {his} attire consists of {top}, {below}{extras and f', then {extras}'}",
        f"below {top} one sees {below}{shoes and f', the feet in {shoes}'}. it belongs to a {person}, who has {look}",
        f"this {person}, recognisable by {look}, pairs {below} with {top}{extras and f', topped off by {extras}'}",
    )[style]
    for bag in often("bag"):
        text += (f". {he} is seen with {bag}", f"; {bag} in {his} hand")[int(rng.integers(2))]
    text += ". a dog trots alongside" if often("dog", "dog") else ""
    return ". ".join(sentence[0].upper() + sentence[1:] for sentence in text.split(". ")) + "."


def draw_other_people(out: Path, counts: Sequence[int] = (1000, 50, 100), photos: int = 6, seed: int = 0) -> None:
    """Writes ``out/CUHK-PEDES`` with ``counts`` people in train, val and test, 2 captions per photo."""
    rows = []
    with atomic_folder(out / "CUHK-PEDES", "FOLDER") as draft:
        for pid, split in enumerate(np.repeat(["train", "val", "test"], counts).tolist(), 1):
            rng = np.random.default_rng((seed, pid))
            who, turn, cameras = sample_person(rng), rng.uniform(0, 2 * pi), rng.permutation(7).tolist()
            for number in range(photos):
                camera, azimuth = cameras[number % 7], turn + number * 2 * pi / photos + rng.uniform(-0.4, 0.4)
                path = f"lens{camera}/{pid:05d}_{number}.jpg"
                (draft / "imgs" / path).parent.mkdir(parents=True, exist_ok=True)
                photo = photograph(who, camera, azimuth, rng)
                photo.save(draft / "imgs" / path, quality=int(rng.integers(70, 92)))
                captions = [describe(who, np.cos(azimuth) < -0.2, int(k), rng) for k in rng.permutation(4)[:2]]
                rows.append({"split": split, "captions": captions, "file_path": path, "id": pid})
        (draft / "reid_raw.json").write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    draw_other_people(Path(sys.argv[1]))
