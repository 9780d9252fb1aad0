"""English captions of a photo in the style of CUHK-PEDES, and their identity and clothing parts."""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple

import numpy as np

from t2ireid_plugin.synthetic import phrases
from t2ireid_plugin.synthetic.attributes import Person
from t2ireid_plugin.synthetic.phrases import Looks, Phrase, choose, listing, with_article

PRONOUN = {"man": "he", "woman": "she"}
POSSESSIVE = {"man": "his", "woman": "her"}
IDENTITY_PARTS = ("subject", "hair", "glasses", "skin")
CLOTHING_PARTS = ("upper", "lower", "shoes", "bag", "hat")
# Probabilities of the number of details that a caption mentions, and the relative weight of each attribute as a detail.
DETAIL_COUNTS = {2: 0.2, 3: 0.35, 4: 0.3, 5: 0.15}
DETAIL_WEIGHTS = {
    "hair_style": 1.6,
    "bag_kind": 1.8,
    "shoes_kind": 1.2,
    "hat_kind": 1.6,
    "glasses": 1.2,
    "age": 0.7,
    "build": 0.5,
    "height": 0.4,
    "skin": 0.3,
    "sleeve": 0.4,
    "inner_colour": 1.0,
}


class Caption(NamedTuple):
    """One description of a photo, and the attributes that it mentions."""

    text: str
    identity: str  # only sex, age, build, height, hair, glasses, skin
    clothing: str  # only garments, shoes, bag, hat
    mentioned: tuple[str, ...]  # attribute names, sorted
    identity_phrases: tuple[str, ...]  # as they occur in `text`
    clothing_phrases: tuple[str, ...]  # as they occur in `text`


class Content(NamedTuple):
    """The phrases of one caption by part; parts that the caption omits are missing."""

    looks: Looks
    phrases: dict[str, Phrase]

    @property
    def sex(self) -> str:
        """The key of the person's pronoun."""
        return self.looks["sex"]

    def texts(self, *parts: str) -> list[str]:
        """The phrases of those of the parts that the caption mentions."""
        return [self.phrases[part].text for part in parts if part in self.phrases]

    def text(self, part: str) -> str:
        """The phrase of a part, empty if it is omitted."""
        return "".join(self.texts(part))

    def caption(self, full: str, identity: str, clothing: str) -> Caption:
        """The sentences that were made of the phrases, with what they mention."""
        sides = self.texts(*IDENTITY_PARTS), self.texts(*CLOTHING_PARTS)
        identity_phrases, clothing_phrases = (tuple(phrase for phrase in side if phrase in full) for side in sides)
        mentioned = frozenset().union(*(phrase.attributes for phrase in self.phrases.values()))
        return Caption(full, identity, clothing, tuple(sorted(mentioned)), identity_phrases, clothing_phrases)


def describe(person: Person, visible: Set[str], rng: np.random.Generator) -> Caption:
    """A random English caption of a photo of ``person`` that shows the ``visible`` attributes."""
    looks = person.attributes()
    content = Content(looks, _phrases(looks, choose_details(looks, visible, rng), rng))
    texts = [choose(rng, *STYLES)(content, rng), _identity_text(content, rng), _clothing_text(content, rng)]
    if rng.random() < 0.4:  # one spelling throughout a caption
        texts = [_american(text) for text in texts]
        spelt = {part: phrase._replace(text=_american(phrase.text)) for part, phrase in content.phrases.items()}
        content = Content(looks, spelt)
    return content.caption(*texts)


def _american(text: str) -> str:
    return text.replace("grey", "gray").replace("blonde", "blond")


def choose_details(looks: Looks, visible: Set[str], rng: np.random.Generator) -> set[str]:
    """Names of the attributes that a caption mentions besides sex and the colours of what it mentions."""
    candidates = [name for name in DETAIL_WEIGHTS if name in visible and looks[name] != "average"]
    if looks["upper_kind"] not in ("shirt", "dress"):
        candidates.remove("sleeve")
    weights = np.array([DETAIL_WEIGHTS[name] for name in candidates])
    count = min(int(rng.choice(list(DETAIL_COUNTS), p=list(DETAIL_COUNTS.values()))), len(candidates))
    details = set(rng.choice(candidates, count, replace=False, p=weights / weights.sum()).tolist())
    if "pattern" in visible and rng.random() < 0.9:
        details.add("pattern")
    has_lower = "lower_kind" in visible and looks["lower_kind"] != "dress"
    skip = rng.random()  # a few captions omit one of the two main garments
    if skip > 0.03 or not has_lower:
        details.add("upper_kind")
    if has_lower and not 0.03 < skip < 0.08:
        details.add("lower_kind")
    return details


def _phrases(looks: Looks, details: Set[str], rng: np.random.Generator) -> dict[str, Phrase]:
    """The phrases of a caption that mentions ``details``, by part."""
    parts = {"subject": phrases.subject(looks, details, rng)}
    if "hair_style" in details:
        parts["hair"] = phrases.hair(looks, rng)
    for name in ("glasses", "skin"):
        if name in details:
            parts[name] = phrases.trait(name, looks, rng)
    if "upper_kind" in details:
        parts["upper"] = phrases.upper(looks, details, rng)
    for name in ("lower", "shoes", "bag", "hat"):
        if f"{name}_kind" in details:
            parts[name] = phrases.item(name, looks, rng)
    return parts


def _join(sentences: list[str]) -> str:
    return " ".join(sentence[0].upper() + sentence[1:] + "." for sentence in sentences)


def _carrying(bag: str, rng: np.random.Generator) -> str:
    return choose(rng, f"carrying {bag}", f"with {bag}")


def _carries(bag: str, rng: np.random.Generator) -> str:
    return choose(rng, "carries ", "is carrying ", "has ") + bag


def _subject(content: Content, rng: np.random.Generator) -> str:
    subject = content.text("subject")
    return choose(rng, f"the {subject}", f"the {subject}", with_article(subject))


def _garments_then_rest(content: Content, rng: np.random.Generator) -> str:
    """Caption of the form "The man is wearing … and …. He has … and carries …."."""
    first = choose(rng, ("upper", "lower"), ("upper", "lower", "shoes"))
    verb = choose(rng, "is wearing", "wears", "is dressed in", "has on")
    main = f"{_subject(content, rng)} {verb} {listing(content.texts(*first))}"
    return _join([main, *_remaining(content, first, rng)])


def _remaining(content: Content, mentioned: tuple[str, ...], rng: np.random.Generator) -> list[str]:
    """Sentences with a pronoun for the parts that are not ``mentioned`` yet."""
    clauses = []
    if traits := content.texts("hair", "skin"):
        clauses.append("has " + listing(traits))
    if worn := content.texts(*(part for part in ("glasses", "hat", "shoes") if part not in mentioned)):
        clauses.append(choose(rng, "wears ", "is wearing ") + listing(worn))
    if bag := content.text("bag"):
        clauses.append(_carries(bag, rng))
    if len(clauses) > 1 and rng.random() < 0.6:
        clauses[-2:] = [" and ".join(clauses[-2:])]
    sentences: list[str] = []
    for clause in clauses:
        if sentences and rng.random() < 0.3:
            clause = clause.replace("is ", "is also ", 1) if clause.startswith("is ") else "also " + clause
        sentences.append(f"{PRONOUN[content.sex]} {clause}")
    return sentences


def _participles(content: Content, rng: np.random.Generator) -> str:
    """Caption of the form "A woman with …, dressed in …, carrying …." without a main verb."""
    text = with_article(content.text("subject"))
    if traits := content.texts("hair", "skin", "glasses"):
        text += " with " + listing(traits) + ","
    text += choose(rng, " dressed in ", " wearing ", " in ")
    hat_last = content.text("hat") if rng.random() < 0.4 else ""
    text += listing(content.texts("upper", "lower", "shoes", *(() if hat_last else ("hat",))))
    if hat_last:
        text += f", with {hat_last} on {POSSESSIVE[content.sex]} head"
    if bag := content.text("bag"):
        text += ", " + (f"carrying {bag}" if hat_last else _carrying(bag, rng))
    return _join([text])


def _garments_before_subject(content: Content, rng: np.random.Generator) -> str:
    """Caption of the form "Wearing …, the man … walks …."."""
    first = choose(rng, ("upper", "lower"), ("upper", "lower", "shoes"), ("hat", "upper", "lower"))
    participle = choose(rng, "wearing", "dressed in", "clad in")
    text = f"{participle} {listing(content.texts(*first))}, {_subject(content, rng)}"
    if traits := content.texts("hair", "skin"):
        text += " with " + listing(traits)
    text += choose(rng, " is walking", " walks along", " is walking by", " is standing", " walks on")
    if bag := content.text("bag"):
        text += " " + _carrying(bag, rng)
    sentences = [text]
    if late := content.texts(*(part for part in ("glasses", "hat", "shoes") if part not in first)):
        sentences.append(f"{PRONOUN[content.sex]} {choose(rng, 'wears', 'has on', 'is wearing')} {listing(late)}")
    return _join(sentences)


def _person_then_garments(content: Content, rng: np.random.Generator) -> str:
    """Caption of the form "The man has …. He is wearing …."."""
    pronoun = PRONOUN[content.sex]
    traits = content.texts("hair", "skin", "glasses")
    if not traits:
        return _garments_then_rest(content, rng)
    sentences = [f"{choose(rng, 'the', 'this')} {content.text('subject')} has {listing(traits)}"]
    verb = choose(rng, "is wearing", "is dressed in", "wears")
    sentences.append(f"{pronoun} {verb} {listing(content.texts('hat', 'upper', 'lower'))}")
    last = []
    if bag := content.text("bag"):
        last.append(_carries(bag, rng))
    if shoes := content.text("shoes"):
        last.append(choose(rng, "wears ", "is in ") + shoes)
    if last:
        sentences.append(f"{pronoun} " + " and ".join(last))
    return _join(sentences)


# The first form is twice as frequent as each other.
STYLES = (_garments_then_rest, _garments_then_rest, _participles, _garments_before_subject, _person_then_garments)


def _identity_text(content: Content, rng: np.random.Generator) -> str:
    text = with_article(content.text("subject"))
    if traits := content.texts("hair", "skin", "glasses"):
        text += choose(rng, " with ", " who has ") + listing(traits)
    return _join([text])


def _clothing_text(content: Content, rng: np.random.Generator) -> str:
    worn = content.texts(*choose(rng, ("upper", "lower", "shoes", "hat"), ("hat", "upper", "lower", "shoes")))
    text = choose(rng, "", "", "wearing ", "dressed in ") + listing(worn)
    bag = content.text("bag")
    return _join([text + (f", carrying {bag}" if bag else "")])
