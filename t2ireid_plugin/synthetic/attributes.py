"""Identity and clothing attributes of drawn pedestrians, and their random choice."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass

import numpy as np

RGB = tuple[int, int, int]

# Chosen so that any two remain distinguishable under a camera's light and colour cast.
COLOURS: dict[str, RGB] = {
    "black": (36, 35, 38),
    "white": (242, 242, 240),
    "grey": (132, 134, 137),
    "red": (204, 32, 38),
    "orange": (243, 126, 22),
    "yellow": (250, 214, 46),
    "green": (34, 138, 62),
    "blue": (36, 72, 186),
    "light blue": (128, 196, 238),
    "purple": (118, 48, 152),
    "pink": (246, 140, 178),
    "brown": (112, 68, 34),
}
HAIR_COLOURS: dict[str, RGB] = {
    "black": (30, 26, 26),
    "brown": (96, 58, 30),
    "blonde": (226, 190, 104),
    "red": (176, 74, 30),
    "grey": (150, 150, 152),
    "white": (232, 232, 230),
}
SKIN_TONES: dict[str, RGB] = {"light": (240, 204, 178), "tanned": (202, 150, 110), "dark": (116, 76, 52)}
DENIM: dict[str, RGB] = {
    "blue": (58, 92, 156),
    "light blue": (132, 172, 212),
    "black": (44, 44, 50),
    "grey": (116, 120, 128),
}
OPEN_KINDS = ("jacket", "coat")
# Outfits that several people wear, as pupils and couriers do, so that only the rest distinguishes them:
# the first eight fields of `Clothing`.
UNIFORMS = (
    ("shirt", "white", "plain", "none", "short", "none", "trousers", "black"),
    ("jacket", "blue", "two-tone", "white", "long", "none", "trousers", "blue"),
    ("t-shirt", "black", "plain", "none", "short", "none", "jeans", "blue"),
    ("jacket", "orange", "plain", "none", "long", "none", "trousers", "grey"),
    ("hoodie", "grey", "plain", "none", "long", "none", "trousers", "black"),
)
UNIFORM_SHARE = 0.06


@dataclass(frozen=True)
class Identity:
    """Attributes that stay when the person changes clothes."""

    sex: str  # man, woman
    age: str  # young, middle-aged, elderly
    build: str  # slim, average, stocky
    height: str  # short, average, tall
    skin: str  # a key of SKIN_TONES
    hair_style: str  # short, curly, shoulder-length, long, ponytail, bun, bald
    hair_colour: str  # a key of HAIR_COLOURS, "none" for a bald head
    glasses: str  # none, glasses, sunglasses


@dataclass(frozen=True)
class Clothing:
    """Clothes and bag of a person; colours are keys of COLOURS, "none" for an item that is absent."""

    upper_kind: str  # t-shirt, shirt, jacket, coat, hoodie, sweater, dress
    upper_colour: str
    pattern: str  # plain, horizontal stripes, vertical stripes, checked, dotted, logo, two-tone
    pattern_colour: str  # the second colour, "none" when plain
    sleeve: str  # short, long
    inner_colour: str  # of the top under an open jacket or coat, "none" when it is closed
    lower_kind: str  # trousers, jeans, shorts, skirt, dress
    lower_colour: str
    shoes_kind: str  # sneakers, boots, shoes
    shoes_colour: str
    bag_kind: str  # none, backpack, handbag, shoulder bag
    bag_colour: str
    hat_kind: str  # none, cap, beanie
    hat_colour: str


@dataclass(frozen=True)
class Person:
    """One identity of the dataset in one outfit; `pid` starts at 1 as in CUHK-PEDES."""

    pid: int
    identity: Identity
    clothing: Clothing

    def attributes(self) -> dict[str, str]:
        """All attributes by name, identity first."""
        return {**asdict(self.identity), **asdict(self.clothing)}


def _pick(rng: np.random.Generator, weights: dict[str, float]) -> str:
    shares = np.array(list(weights.values()))
    return str(rng.choice(list(weights), p=shares / shares.sum()))


def _colour(rng: np.random.Generator, favour: dict[str, float], without: Collection[str] = ()) -> str:
    return _pick(rng, {name: favour.get(name, 1.0) for name in COLOURS if name not in without})


def sample_identity(rng: np.random.Generator) -> Identity:
    """Samples an identity; hair depends on sex and age."""
    sex = _pick(rng, {"man": 0.5, "woman": 0.5})
    age = _pick(rng, {"young": 0.5, "middle-aged": 0.3, "elderly": 0.2})
    if sex == "man":
        styles = {"short": 0.58, "curly": 0.17, "shoulder-length": 0.08, "bald": 0.17}
    else:
        styles = {"short": 0.14, "curly": 0.14, "shoulder-length": 0.2, "long": 0.24, "ponytail": 0.16, "bun": 0.12}
    style = _pick(rng, styles)
    if style == "bald":
        hair = "none"
    elif age == "elderly":
        hair = _pick(rng, {"grey": 0.5, "white": 0.5})
    else:
        hair = _pick(rng, {"black": 0.38, "brown": 0.28, "blonde": 0.22, "red": 0.12})
    return Identity(
        sex=sex,
        age=age,
        build=_pick(rng, {"slim": 0.33, "average": 0.37, "stocky": 0.3}),
        height=_pick(rng, {"short": 0.25, "average": 0.5, "tall": 0.25}),
        skin=_pick(rng, {"light": 0.5, "tanned": 0.25, "dark": 0.25}),
        hair_style=style,
        hair_colour=hair,
        glasses=_pick(rng, {"none": 0.6, "glasses": 0.26, "sunglasses": 0.14}),
    )


def _sample_upper(rng: np.random.Generator, sex: str) -> tuple[str, str, str, str, str, str]:
    """The first six fields of `Clothing`."""
    kinds = {"t-shirt": 0.24, "shirt": 0.17, "jacket": 0.18, "coat": 0.12, "hoodie": 0.14, "sweater": 0.15}
    kind = _pick(rng, {**kinds, "dress": 0.18} if sex == "woman" else kinds)
    colour = _colour(rng, {"black": 1.5, "white": 1.4, "grey": 1.2})
    if kind in OPEN_KINDS:
        patterns = {"plain": 0.75, "two-tone": 0.25}
    elif kind in ("shirt", "dress"):
        patterns = {"plain": 0.4, "horizontal stripes": 0.12, "vertical stripes": 0.16, "checked": 0.2, "dotted": 0.12}
    else:
        patterns = {"plain": 0.4, "horizontal stripes": 0.18, "dotted": 0.07, "logo": 0.2, "two-tone": 0.15}
    pattern = _pick(rng, patterns)
    sleeve = "short" if kind == "t-shirt" else "long"
    if kind in ("shirt", "dress"):
        sleeve = _pick(rng, {"short": 0.5, "long": 0.5})
    is_open = kind in OPEN_KINDS and rng.random() < 0.5
    pattern_colour = "none" if pattern == "plain" else _contrasting(rng, colour)
    inner_colour = _contrasting(rng, colour) if is_open else "none"
    return kind, colour, pattern, pattern_colour, sleeve, inner_colour


def _contrasting(rng: np.random.Generator, *colours: str) -> str:
    """A colour far enough from ``colours`` to be distinguished at a few pixels."""
    bases = [np.array(COLOURS[colour], float) for colour in colours if colour in COLOURS]
    near = [name for name, rgb in COLOURS.items() if min(np.abs(base - rgb).max() for base in bases) < 90]
    return _colour(rng, {"white": 2.0, "black": 1.5}, without=near)


def _sample_lower(rng: np.random.Generator, sex: str, upper_kind: str, upper_colour: str) -> tuple[str, str]:
    if upper_kind == "dress":
        return "dress", upper_colour
    kinds = {"trousers": 0.42, "jeans": 0.33, "shorts": 0.25}
    kind = _pick(rng, {**kinds, "skirt": 0.3} if sex == "woman" else kinds)
    if kind == "jeans":
        return kind, _pick(rng, {"blue": 0.45, "light blue": 0.25, "black": 0.15, "grey": 0.15})
    return kind, _colour(rng, {"black": 3.0, "grey": 1.8, "brown": 1.5, "white": 1.5})


def sample_clothing(rng: np.random.Generator, sex: str) -> Clothing:
    """Samples clothing; lower garments are mostly dark, upper garments have any colour."""
    if rng.random() < UNIFORM_SHARE:
        worn = UNIFORMS[int(rng.integers(len(UNIFORMS)))]
    else:
        upper = _sample_upper(rng, sex)
        worn = (*upper, *_sample_lower(rng, sex, *upper[:2]))
    _, upper_colour, _, pattern_colour, *_ = worn
    bags = {"none": 0.4, "backpack": 0.28, "shoulder bag": 0.2}
    bag = _pick(rng, {**bags, "handbag": 0.22} if sex == "woman" else bags)
    hat = _pick(rng, {"none": 0.76, "cap": 0.14, "beanie": 0.1})
    return Clothing(
        *worn,
        shoes_kind=_pick(rng, {"sneakers": 0.45, "shoes": 0.3, "boots": 0.25}),
        shoes_colour=_colour(rng, {"black": 4.0, "white": 4.0, "brown": 2.5, "grey": 1.5}),
        bag_kind=bag,
        bag_colour="none" if bag == "none" else _contrasting(rng, upper_colour, pattern_colour),
        hat_kind=hat,
        hat_colour="none" if hat == "none" else _colour(rng, {}),
    )


def sample_people(count: int, seed: int) -> list[Person]:
    """Samples `count` people with ids 1…count, no two with the same attributes.

    Each person has a generator of its own, seeded by `(seed, id)`, so the first people do not depend on how many
    follow.
    """
    people: dict[tuple[Identity, Clothing], Person] = {}  # in order
    for pid in range(1, count + 1):
        rng = np.random.default_rng((seed, pid, 0))
        while len(people) < pid:
            identity = sample_identity(rng)
            looks = identity, sample_clothing(rng, identity.sex)
            people.setdefault(looks, Person(pid, *looks))
    return list(people.values())
