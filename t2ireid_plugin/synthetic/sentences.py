"""English captions of a photo in the manner of CUHK-PEDES, and their identity and clothing halves."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from t2ireid_plugin.synthetic.attributes import Person
from t2ireid_plugin.synthetic.phrases import Phrase, listing, with_article

from . import phrases

T = TypeVar("T")

PRONOUN = {"man": "he", "woman": "she"}
POSSESSIVE = {"man": "his", "woman": "her"}
# How many of a photo's further details a caption tells, and how eager people are to tell each.
DETAIL_COUNTS = ((2, 0.2), (3, 0.35), (4, 0.3), (5, 0.15))
EAGERNESS = {
    "hair": 1.6,
    "bag": 1.8,
    "shoes": 1.2,
    "hat": 1.6,
    "glasses": 1.2,
    "age": 0.7,
    "build": 0.5,
    "height": 0.4,
    "skin": 0.3,
    "sleeve": 0.4,
    "inner": 1.0,
}
# The attributes whose being visible makes a detail tellable.
NEEDS = {
    "hair": "hair_style",
    "bag": "bag_kind",
    "shoes": "shoes_kind",
    "hat": "hat_kind",
    "inner": "inner_colour",
}


class Caption(NamedTuple):
    """One description and what it tells."""

    text: str
    identity: str  # only sex, age, build, height, hair, glasses, skin
    clothing: str  # only garments, shoes, bag, hat
    mentioned: tuple[str, ...]  # attribute names, sorted
    identity_phrases: tuple[str, ...]  # as they occur in `text`
    clothing_phrases: tuple[str, ...]  # as they occur in `text`


@dataclass(frozen=True)
class _Told:
    """The phrases of one caption; None for what it leaves out."""

    sex: str
    subject: Phrase
    hair: Phrase | None
    glasses: Phrase | None
    skin: Phrase | None
    upper: Phrase | None
    lower: Phrase | None
    shoes: Phrase | None
    bag: Phrase | None
    hat: Phrase | None

    def traits(self) -> list[str]:
        """What a "with" takes: hair and skin."""
        return [phrase.text for phrase in (self.hair, self.skin) if phrase]

    def garments(self, *names: str) -> list[str]:
        """The texts of the named phrases that are told."""
        return [phrase.text for phrase in (getattr(self, name) for name in names) if phrase]

    def who(self) -> list[Phrase]:
        """What is told of the person."""
        return [part for part in (self.subject, self.hair, self.glasses, self.skin) if part]

    def worn(self) -> list[Phrase]:
        """What is told of the clothing and of what is carried."""
        return [part for part in (self.upper, self.lower, self.shoes, self.bag, self.hat) if part]

    def mentioned(self) -> tuple[str, ...]:
        """Every attribute told, sorted."""
        return tuple(sorted(frozenset().union(*(part.tells for part in self.who() + self.worn()))))


def describe(person: Person, visible: Set[str], rng: np.random.Generator) -> Caption:
    """One caption of a photo that shows the attributes in `visible`."""
    told = _choose(person, visible, rng)
    texts = [
        SHAPES[int(rng.integers(len(SHAPES)))](told, rng),
        _identity_text(told, rng),
        _clothing_text(told, rng),
    ]
    sides = [[part.text for part in side] for side in (told.who(), told.worn())]
    if rng.random() < 0.4:  # one spelling throughout a caption
        texts, *sides = (list(map(_other_spelling, some)) for some in (texts, *sides))
    full, identity, clothing = texts
    who, worn = (tuple(text for text in side if text in full) for side in sides)
    return Caption(full, identity, clothing, told.mentioned(), who, worn)


def _other_spelling(text: str) -> str:
    return text.replace("grey", "gray").replace("blonde", "blond")


def _choose(person: Person, visible: Set[str], rng: np.random.Generator) -> _Told:
    looks = person.attributes()
    details = [name for name in EAGERNESS if NEEDS.get(name, name) in visible]
    if looks["build"] == "average":
        details.remove("build")
    if looks["height"] == "average":
        details.remove("height")
    if looks["upper_kind"] not in ("shirt", "dress"):
        details.remove("sleeve")
    counts, shares = zip(*DETAIL_COUNTS, strict=True)
    weights = np.array([EAGERNESS[name] for name in details])
    count = min(int(rng.choice(counts, p=shares)), len(details))
    picked = {details[i] for i in rng.choice(len(details), count, replace=False, p=weights / weights.sum())}
    in_upper = picked & {"sleeve"}
    if "pattern" in visible and rng.random() < 0.9:
        in_upper.add("pattern")
    if "inner" in picked:
        in_upper.add("inner_colour")
    has_lower = "lower_kind" in visible and looks["lower_kind"] != "dress"
    skip = rng.random()  # a few captions leave one of the two main garments out
    return _Told(
        sex=looks["sex"],
        subject=phrases.subject(looks, picked, rng),
        hair=phrases.hair(looks, rng) if "hair" in picked else None,
        glasses=phrases.glasses(looks, rng) if "glasses" in picked else None,
        skin=phrases.skin(looks, rng) if "skin" in picked else None,
        upper=phrases.upper(looks, in_upper, rng) if skip > 0.03 or not has_lower else None,
        lower=phrases.lower(looks, rng) if has_lower and not 0.03 < skip < 0.08 else None,
        shoes=phrases.shoes(looks, rng) if "shoes" in picked else None,
        bag=phrases.bag(looks, rng) if "bag" in picked else None,
        hat=phrases.hat(looks, rng) if "hat" in picked else None,
    )


def _one(rng: np.random.Generator, *ways: T) -> T:
    return ways[int(rng.integers(len(ways)))]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _carrying(bag: str, rng: np.random.Generator) -> str:
    return _one(rng, f"carrying {bag}", f"with {bag}")


def _who(told: _Told, rng: np.random.Generator) -> str:
    return _one(rng, f"the {told.subject.text}", f"the {told.subject.text}", with_article(told.subject.text))


def _plain(told: _Told, rng: np.random.Generator) -> str:
    """As in "The man is wearing … and …. He has … and carries …."."""
    first = _one(rng, ("upper", "lower"), ("upper", "lower", "shoes"))
    verb = _one(rng, "is wearing", "wears", "is dressed in", "has on")
    sentences = [f"{_who(told, rng)} {verb} {listing(told.garments(*first))}", *_rest(told, first, rng)]
    return " ".join(map(_sentence, sentences))


def _rest(told: _Told, already: tuple[str, ...], rng: np.random.Generator) -> list[str]:
    """Sentences with a pronoun for what is not told yet."""
    clauses = []
    if told.traits():
        clauses.append("has " + listing(told.traits()))
    worn = told.garments(*(name for name in ("glasses", "hat", "shoes") if name not in already))
    if worn:
        clauses.append(_one(rng, "wears ", "is wearing ") + listing(worn))
    if told.bag:
        clauses.append(_one(rng, "carries ", "is carrying ", "has ") + told.bag.text)
    if len(clauses) > 1 and rng.random() < 0.6:
        clauses[-2:] = [" and ".join(clauses[-2:])]
    sentences: list[str] = []
    for clause in clauses:
        if sentences and rng.random() < 0.3:
            clause = clause.replace("is ", "is also ", 1) if clause.startswith("is ") else "also " + clause
        sentences.append(f"{PRONOUN[told.sex]} {clause}")
    return sentences


def _participles(told: _Told, rng: np.random.Generator) -> str:
    """As in "A woman with …, dressed in …, carrying …." without a main verb."""
    text = with_article(told.subject.text)
    if told.traits() or told.glasses:
        text += " with " + listing(told.traits() + told.garments("glasses")) + ","
    text += _one(rng, " dressed in ", " wearing ", " in ")
    hat_last = told.hat if rng.random() < 0.4 else None
    text += listing(told.garments("upper", "lower", "shoes", *(() if hat_last else ("hat",))))
    if hat_last:
        text += f", with {hat_last.text} on {POSSESSIVE[told.sex]} head"
    if told.bag:
        text += ", " + (f"carrying {told.bag.text}" if hat_last else _carrying(told.bag.text, rng))
    return _sentence(text)


def _clothes_first(told: _Told, rng: np.random.Generator) -> str:
    """As in "Wearing …, the man … walks …."."""
    first = _one(rng, ("upper", "lower"), ("upper", "lower", "shoes"), ("hat", "upper", "lower"))
    text = f"{_one(rng, 'wearing', 'dressed in', 'clad in')} {listing(told.garments(*first))}, {_who(told, rng)}"
    if told.traits():
        text += " with " + listing(told.traits())
    text += _one(rng, " is walking", " walks along", " is walking by", " is standing", " walks on")
    if told.bag:
        text += " " + _carrying(told.bag.text, rng)
    late = told.garments(*(name for name in ("glasses", "hat", "shoes") if name not in first))
    sentences = [text]
    if late:
        sentences.append(f"{PRONOUN[told.sex]} {_one(rng, 'wears', 'has on', 'is wearing')} {listing(late)}")
    return " ".join(map(_sentence, sentences))


def _person_first(told: _Told, rng: np.random.Generator) -> str:
    """As in "The man has …. He is wearing …."; who it is before what is worn."""
    he = PRONOUN[told.sex]
    traits = told.traits() + told.garments("glasses")
    if not traits:
        return _plain(told, rng)
    who = f"{_one(rng, 'the', 'this')} {told.subject.text} has {listing(traits)}"
    worn = _one(rng, "is wearing ", "is dressed in ", "wears ") + listing(told.garments("hat", "upper", "lower"))
    sentences = [who, f"{he} {worn}"]
    last = []
    if told.bag:
        last.append(_one(rng, "carries ", "is carrying ", "has ") + told.bag.text)
    if told.shoes:
        last.append(_one(rng, "wears ", "is in ") + told.shoes.text)
    if last:
        sentences.append(f"{he} " + " and ".join(last))
    return " ".join(map(_sentence, sentences))


SHAPES = (_plain, _plain, _participles, _clothes_first, _person_first)


def _identity_text(told: _Told, rng: np.random.Generator) -> str:
    text = with_article(told.subject.text)
    traits = told.traits() + told.garments("glasses")
    return _sentence(text + (_one(rng, " with ", " who has ") + listing(traits) if traits else ""))


def _clothing_text(told: _Told, rng: np.random.Generator) -> str:
    worn = told.garments(*_one(rng, ("upper", "lower", "shoes", "hat"), ("hat", "upper", "lower", "shoes")))
    text = _one(rng, "", "", "wearing ", "dressed in ") + listing(worn)
    return _sentence(text + (f", carrying {told.bag.text}" if told.bag else ""))
