"""Noun phrases for attributes, each with the names of the attributes that it mentions."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")
Looks = Mapping[str, str]  # a person's attributes by name

WORDS: dict[str, tuple[str, ...]] = {  # by sex, age, build, height, skin, glasses and kind of item
    "man": ("man", "man", "guy", "male pedestrian"),
    "woman": ("woman", "woman", "lady", "female pedestrian"),
    "young": ("young",),
    "middle-aged": ("middle-aged",),
    "elderly": ("elderly", "old"),
    "slim": ("slim", "thin", "slender"),
    "stocky": ("stocky", "heavy-set", "stout"),
    "short": ("short",),
    "tall": ("tall",),
    "light": ("light skin", "fair skin"),
    "tanned": ("tanned skin", "a tanned face"),
    "dark": ("dark skin",),
    "glasses": ("glasses", "spectacles", "black-rimmed glasses"),
    "sunglasses": ("sunglasses", "dark sunglasses"),
    "t-shirt": ("t-shirt", "t-shirt", "tee", "top"),
    "shirt": ("shirt", "shirt", "button-up shirt"),
    "jacket": ("jacket",),
    "coat": ("coat", "overcoat"),
    "hoodie": ("hoodie", "hooded sweatshirt"),
    "sweater": ("sweater", "pullover", "jumper"),
    "dress": ("dress",),
    "trousers": ("trousers", "pants"),
    "jeans": ("jeans", "denim jeans"),
    "shorts": ("shorts",),
    "skirt": ("skirt",),
    "sneakers": ("sneakers", "trainers", "sports shoes"),
    "boots": ("boots", "ankle boots"),
    "shoes": ("shoes",),
    "backpack": ("backpack", "backpack", "rucksack"),
    "handbag": ("handbag", "handbag", "purse"),
    "shoulder bag": ("shoulder bag", "cross-body bag"),
    "cap": ("cap", "baseball cap"),
    "beanie": ("beanie", "woolly hat"),
}
HAIR = {  # by style; others are "short black hair"
    "bald": ("a bald head", "a shaved head"),
    "ponytail": ("{colour} hair tied in a ponytail", "{a_colour} ponytail"),
    "bun": ("{colour} hair tied in a bun", "{colour} hair worn in a bun"),
}
PATTERNS = {
    "horizontal stripes": ("{both} horizontally striped {noun}", "{colour} {noun} with {second} horizontal stripes"),
    "vertical stripes": ("{both} vertically striped {noun}", "{colour} {noun} with {second} vertical stripes"),
    "checked": ("{both} checked {noun}", "{both} plaid {noun}", "{colour} {noun} with {second} checks"),
    "dotted": ("{colour} {noun} with {second} dots", "{colour} polka dot {noun} with {second} spots"),
    "logo": ("{colour} {noun} with {a_second} logo", "{colour} {noun} with {a_second} print"),
    "two-tone": ("{colour} {noun} with {second} sleeves", "{both} two-tone {noun}"),
}


class Phrase(NamedTuple):
    """A piece of text and the names of the attributes that it mentions."""

    text: str
    attributes: frozenset[str]


def choose(rng: np.random.Generator, *options: T) -> T:
    """One of the options, each with the same probability."""
    return options[int(rng.integers(len(options)))]


def with_article(noun: str) -> str:
    """The noun with its indefinite article: "a red cap", "an orange cap"."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def listing(texts: list[str]) -> str:
    """Enumeration: "a", "a and b", "a, b and c"."""
    if len(texts) < 2:
        return "".join(texts)
    return ", ".join(texts[:-1]) + " and " + texts[-1]


def colour_word(name: str, rng: np.random.Generator) -> str:
    """Name of a colour, or a synonym."""
    return choose(rng, "light blue", "light blue", "sky blue") if name == "light blue" else name


def subject(looks: Looks, details: Set[str], rng: np.random.Generator) -> Phrase:
    """The person without article: "tall slim young man"; ``details`` names the attributes to mention."""
    names = [name for name in ("height", "build", "age", "sex") if name in details or name == "sex"]
    return Phrase(" ".join(choose(rng, *WORDS[looks[name]]) for name in names), frozenset(names))


def hair(looks: Looks, rng: np.random.Generator) -> Phrase:
    """The hair: "short black hair", "a brown ponytail", "a bald head"."""
    style, colour = looks["hair_style"], colour_word(looks["hair_colour"], rng)
    template = choose(rng, *HAIR.get(style, ("{style} {colour} hair",)))
    text = template.format(style=style, colour=colour, a_colour=with_article(colour))
    return Phrase(text, frozenset({"hair_style"} if style == "bald" else {"hair_style", "hair_colour"}))


def trait(name: str, looks: Looks, rng: np.random.Generator) -> Phrase:
    """The skin or the glasses: "dark skin", "sunglasses"."""
    return Phrase(choose(rng, *WORDS[looks[name]]), frozenset({name}))


def upper(looks: Looks, details: Set[str], rng: np.random.Generator) -> Phrase:
    """The upper garment with its article: "a red t-shirt with white dots"; ``details`` as for `subject`."""
    colour = colour_word(looks["upper_colour"], rng)
    noun = choose(rng, *WORDS[looks["upper_kind"]])
    attributes = {"upper_kind", "upper_colour"}
    if "sleeve" in details:
        colour = f"{looks['sleeve']}-sleeved {colour}"
        attributes.add("sleeve")
    if "pattern" in details:
        second = colour_word(looks["pattern_colour"], rng)
        words = {"both": f"{colour} and {second}", "second": second, "a_second": with_article(second)}
        text = with_article(choose(rng, *PATTERNS[looks["pattern"]]).format(colour=colour, noun=noun, **words))
        attributes |= {"pattern", "pattern_colour"}
    else:
        text = with_article(f"{colour} {noun}")
    if "inner_colour" in details:
        text += choose(rng, " over ", " open over ") + with_article(colour_word(looks["inner_colour"], rng) + " top")
        attributes.add("inner_colour")
    return Phrase(text, frozenset(attributes))


def item(name: str, looks: Looks, rng: np.random.Generator) -> Phrase:
    """The lower garment, shoes, bag or hat: "blue jeans", "white trainers", "a black rucksack", "an orange cap"."""
    kind = looks[f"{name}_kind"]
    text = f"{colour_word(looks[f'{name}_colour'], rng)} {choose(rng, *WORDS[kind])}"
    if name in ("bag", "hat") or kind == "skirt":
        text = with_article(text)
    elif name == "lower" and rng.random() < 0.12:
        text = f"a pair of {text}"
    return Phrase(text, frozenset({f"{name}_kind", f"{name}_colour"}))
