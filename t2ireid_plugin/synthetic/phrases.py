"""Words for attributes: noun phrases for sentences, each with the attributes that it tells."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import NamedTuple

import numpy as np

Looks = Mapping[str, str]

SUBJECTS = {
    "man": ("man", "man", "guy", "male pedestrian"),
    "woman": ("woman", "woman", "lady", "female pedestrian"),
}
AGES = {
    "young": ("young",),
    "middle-aged": ("middle-aged",),
    "elderly": ("elderly", "old"),
}
BUILDS = {"slim": ("slim", "thin", "slender"), "stocky": ("stocky", "heavy-set", "stout")}
SKINS = {
    "light": ("light skin", "fair skin"),
    "tanned": ("tanned skin", "a tanned face"),
    "dark": ("dark skin",),
}
GLASSES = {
    "glasses": ("glasses", "spectacles", "black-rimmed glasses"),
    "sunglasses": ("sunglasses", "dark sunglasses"),
}
UPPERS = {
    "t-shirt": ("t-shirt", "t-shirt", "tee", "top"),
    "shirt": ("shirt", "shirt", "button-up shirt"),
    "jacket": ("jacket",),
    "coat": ("coat", "overcoat"),
    "hoodie": ("hoodie", "hooded sweatshirt"),
    "sweater": ("sweater", "pullover", "jumper"),
    "dress": ("dress",),
}
LOWERS = {
    "trousers": ("trousers", "pants"),
    "jeans": ("jeans", "denim jeans"),
    "shorts": ("shorts",),
    "skirt": ("skirt",),
}
SHOES = {
    "sneakers": ("sneakers", "trainers", "sports shoes"),
    "boots": ("boots", "ankle boots"),
    "shoes": ("shoes",),
}
BAGS = {
    "backpack": ("backpack", "backpack", "rucksack"),
    "handbag": ("handbag", "handbag", "purse"),
    "shoulder bag": ("shoulder bag", "cross-body bag"),
}
HATS = {"cap": ("cap", "baseball cap"), "beanie": ("beanie", "woolly hat")}


class Phrase(NamedTuple):
    """A piece of text and the attribute names it tells."""

    text: str
    tells: frozenset[str] = frozenset()


def _one(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]


def with_article(noun: str) -> str:
    """As in "a red cap", "an orange cap"."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def colour_word(name: str, rng: np.random.Generator) -> str:
    """The colour's name or another word for it."""
    return _one(rng, ("light blue", "light blue", "sky blue")) if name == "light blue" else name


def subject(looks: Looks, told: Set[str], rng: np.random.Generator) -> Phrase:
    """Who it is, without article: "tall slim young man"."""
    words, tells = [], {"sex"}
    if "height" in told and looks["height"] != "average":
        words.append(looks["height"])
        tells.add("height")
    if "build" in told and looks["build"] != "average":
        words.append(_one(rng, BUILDS[looks["build"]]))
        tells.add("build")
    if "age" in told:
        words.append(_one(rng, AGES[looks["age"]]))
        tells.add("age")
    words.append(_one(rng, SUBJECTS[looks["sex"]]))
    return Phrase(" ".join(words), frozenset(tells))


def hair(looks: Looks, rng: np.random.Generator) -> Phrase:
    """As in "short black hair", "a brown ponytail", "a bald head"."""
    style = looks["hair_style"]
    if style == "bald":
        return Phrase(_one(rng, ("a bald head", "a shaved head")), frozenset({"hair_style"}))
    colour = colour_word(looks["hair_colour"], rng)
    if style == "ponytail":
        text = _one(rng, (f"{colour} hair tied in a ponytail", with_article(f"{colour} ponytail")))
    elif style == "bun":
        text = _one(rng, (f"{colour} hair tied in a bun", f"{colour} hair worn in a bun"))
    else:
        text = f"{style} {colour} hair"
    return Phrase(text, frozenset({"hair_style", "hair_colour"}))


def upper(looks: Looks, told: Set[str], rng: np.random.Generator) -> Phrase:
    """The upper garment with its article, colour and pattern."""
    colour = colour_word(looks["upper_colour"], rng)
    noun = _one(rng, UPPERS[looks["upper_kind"]])
    tells = {"upper_kind", "upper_colour"}
    if "sleeve" in told and looks["upper_kind"] in ("shirt", "dress"):
        colour = f"{looks['sleeve']}-sleeved {colour}"
        tells.add("sleeve")
    if "pattern" in told:
        text = _patterned(looks["pattern"], colour, colour_word(looks["pattern_colour"], rng), noun, rng)
        tells |= {"pattern", "pattern_colour"}
    else:
        text = with_article(f"{colour} {noun}")
    if "inner_colour" in told:
        text += _one(rng, (" over ", " open over ")) + with_article(colour_word(looks["inner_colour"], rng) + " top")
        tells.add("inner_colour")
    return Phrase(text, frozenset(tells))


def _patterned(pattern: str, colour: str, second: str, noun: str, rng: np.random.Generator) -> str:
    both = f"{colour} and {second}"
    ways = {
        "horizontal stripes": (
            f"{both} horizontally striped {noun}",
            f"{colour} {noun} with {second} horizontal stripes",
        ),
        "vertical stripes": (
            f"{both} vertically striped {noun}",
            f"{colour} {noun} with {second} vertical stripes",
        ),
        "checked": (
            f"{both} checked {noun}",
            f"{both} plaid {noun}",
            f"{colour} {noun} with {second} checks",
        ),
        "dotted": (f"{colour} {noun} with {second} dots", f"{colour} polka dot {noun} with {second} spots"),
        "logo": (
            f"{colour} {noun} with {with_article(second)} logo",
            f"{colour} {noun} with {with_article(second)} print",
        ),
        "two-tone": (f"{colour} {noun} with {second} sleeves", f"{both} two-tone {noun}"),
    }[pattern]
    return with_article(_one(rng, ways))


def lower(looks: Looks, rng: np.random.Generator) -> Phrase:
    """Trousers and the like; a dress has no lower garment of its own."""
    text = f"{colour_word(looks['lower_colour'], rng)} {_one(rng, LOWERS[looks['lower_kind']])}"
    if looks["lower_kind"] == "skirt":
        text = with_article(text)
    elif rng.random() < 0.12:
        text = f"a pair of {text}"
    return Phrase(text, frozenset({"lower_kind", "lower_colour"}))


def shoes(looks: Looks, rng: np.random.Generator) -> Phrase:
    """As in "white trainers"."""
    text = f"{colour_word(looks['shoes_colour'], rng)} {_one(rng, SHOES[looks['shoes_kind']])}"
    return Phrase(text, frozenset({"shoes_kind", "shoes_colour"}))


def bag(looks: Looks, rng: np.random.Generator) -> Phrase:
    """As in "a black rucksack"."""
    text = with_article(f"{colour_word(looks['bag_colour'], rng)} {_one(rng, BAGS[looks['bag_kind']])}")
    return Phrase(text, frozenset({"bag_kind", "bag_colour"}))


def hat(looks: Looks, rng: np.random.Generator) -> Phrase:
    """As in "an orange cap"."""
    text = with_article(f"{colour_word(looks['hat_colour'], rng)} {_one(rng, HATS[looks['hat_kind']])}")
    return Phrase(text, frozenset({"hat_kind", "hat_colour"}))


def glasses(looks: Looks, rng: np.random.Generator) -> Phrase:
    """As in "sunglasses"."""
    return Phrase(_one(rng, GLASSES[looks["glasses"]]), frozenset({"glasses"}))


def skin(looks: Looks, rng: np.random.Generator) -> Phrase:
    """As in "dark skin"."""
    return Phrase(_one(rng, SKINS[looks["skin"]]), frozenset({"skin"}))


def listing(texts: list[str]) -> str:
    """As in "a", "a and b", "a, b and c"."""
    if len(texts) < 2:
        return "".join(texts)
    return ", ".join(texts[:-1]) + " and " + texts[-1]
