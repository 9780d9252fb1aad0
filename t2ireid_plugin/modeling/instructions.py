"""Splits a pedestrian's caption into an identity text and a clothing text, in English and Chinese.

By word lists and one scan: the caption is cut where a new phrase begins, and the phrase's noun decides its side, so
that "black" goes to identity in "black hair" and to clothing in "black trousers".
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from t2ireid_plugin.modeling.lexicon import Kind, chinese_kinds, english_kind
from t2ireid_plugin.utils.text import CJK

IDENTITY, CLOTHING, BOTH = "identity", "clothing", "both"

NOUN_SIDES = {
    Kind.PERSON: IDENTITY,
    Kind.OWNER: IDENTITY,
    Kind.ACT: IDENTITY,
    Kind.GARMENT: CLOTHING,
    Kind.TOP: CLOTHING,
}
# Kinds that begin a phrase, unless the phrase so far consists of openers alone ("and he is not wearing").
STARTS = frozenset((Kind.JOIN, Kind.WHICH, Kind.HE, Kind.IT, Kind.NOT, Kind.HAVE, Kind.WITH, Kind.IN, Kind.AT))
VERBS = frozenset((Kind.ACT, Kind.WEAR))
OPENERS = STARTS | {Kind.BE, Kind.THE}
PLACES = frozenset((Kind.IN, Kind.AT))
STOP = OPENERS | {Kind.WEAR, Kind.OF}
# Kinds that are stripped from either end of a phrase. An identity phrase keeps "he" or "she", which tells the sex.
LOOSE = frozenset((Kind.JOIN, Kind.WHICH, Kind.BE))
LEADING = LOOSE | {Kind.OF}
PRONOUNS = frozenset((Kind.HE, Kind.IT))

_WORD = re.compile(rf"(?P<chinese>[{CJK}]+)|[^\W{CJK}]+(?:(?:['’-]|\.(?=\d))[^\W{CJK}]+)*")
_SENTENCE = re.compile(r"[.!?;。！？；\n]")
_CLAUSE = re.compile(r"[,:，、：()（）]")
# Words that stand for the person; "it" and "one" only where they wear or carry something, not in "a coat, it is red".
_PRONOUN = re.compile(
    r"\b(?:s?hes?|they|him|his|hers?|their|(?:it|one)(?=\W+(?:(?:s|is) )?(?:wear|carr|hold|dressed)))\b"
    r"|(?<!其)[他她]们?",
    re.IGNORECASE,
)


class _Word(NamedTuple):
    kind: Kind
    start: int
    end: int
    pause: int  # punctuation before it: 0 none, 1 a comma, 2 the end of a sentence
    chinese: bool


def split_caption(caption: str) -> tuple[str, str]:
    """(identity text, clothing text) of a caption; a side without any phrase gets the whole caption.

    Identity covers sex, age, build, hair, face, glasses, skin, gait, pose and actions; clothing covers everything worn
    or carried. Each text consists of words of the caption in their order. Without an identity phrase, a pronoun for the
    person ("He", "their", 她) is the identity text, because the whole caption would bring the clothing with it.
    """
    identity, clothing = split_phrases(caption)
    pronoun = _PRONOUN.search(caption)
    return identity or (pronoun[0] if pronoun else caption), clothing or caption


@functools.lru_cache(maxsize=2**17)  # an evaluation asks several times for each of its captions
def split_phrases(caption: str) -> tuple[str, str]:
    """As `split_caption`, without stand-ins: a side without any phrase is empty."""
    words = _words(caption)
    firsts = _phrase_starts(words)
    pieces = [words[first:last] for first, last in zip(firsts, [*firsts[1:], len(words)])]
    sides = _assign_sides(pieces)
    return _join(caption, pieces, sides, IDENTITY), _join(caption, pieces, sides, CLOTHING)


def content_words(text: str) -> list[str]:
    """The lower-case words of a text in their order, without articles, pronouns, prepositions and verbs of wearing."""
    return [text[word.start : word.end].lower() for word in _words(text) if word.kind not in STOP]


def _join(caption: str, pieces: Sequence[Sequence[_Word]], sides: Sequence[str], side: str) -> str:
    """The pieces of one side: what stands between neighbours in the caption, and new punctuation between others."""
    parts: list[str] = []
    before, end = 0, 0  # the last piece, and its end in the caption
    for number, (piece, own) in enumerate(zip(pieces, sides)):
        first, last = _trim(piece, own)
        if own not in (side, BOTH) or first >= last:
            continue
        start = piece[first].start
        if parts:
            pronoun = any(word.kind in PRONOUNS for word in piece[:first])
            pause = max(pieces[before + 1][0].pause, piece[0].pause)
            marks = ("", "，", "。") if piece[first].chinese else (" ", ", ", ". ")
            parts.append(caption[end:start] if number == before + 1 and not pronoun else marks[pause])
        before, end = number, piece[last - 1].end
        parts.append(caption[start:end])
    return "".join(parts)


def _words(caption: str) -> list[_Word]:
    words: list[_Word] = []
    end = 0
    for match in _WORD.finditer(caption):
        text, start, between = match[0], match.start(), caption[end : match.start()]
        pause = 2 if _SENTENCE.search(between) else 1 if _CLAUSE.search(between) else 0
        end = match.end()
        if match["chinese"]:
            for kind, length in chinese_kinds(text):
                words.append(_Word(kind, start, start + length, pause, True))
                start, pause = start + length, 0
        else:
            # `english_kind` caches its results; very long strings are not words.
            kind = english_kind(text.lower()) if len(text) <= 30 else Kind.PLAIN
            words.append(_Word(kind, start, end, pause, False))
    return _adjust_kinds(words)


def _adjust_kinds(words: list[_Word]) -> list[_Word]:
    """Corrects kinds by their neighbours: no act in "running shoes", no garment in "on top of"."""
    for number, (word, after) in enumerate(pairwise(words)):
        if word.kind == Kind.ACT and not word.chinese and after.kind == Kind.GARMENT and not after.pause:
            words[number] = word._replace(kind=Kind.PLAIN)
        elif word.kind in PLACES and after.kind == Kind.TOP and not after.pause:
            words[number + 1] = after._replace(kind=Kind.PLAIN)
    return words


def _phrase_starts(words: Sequence[_Word]) -> list[int]:
    """The index of each phrase's first word."""
    firsts: list[int] = []
    noun = article = -1
    has_content = False  # the phrase contains more than openers
    for number, word in enumerate(words):
        kind = word.kind
        if not number or word.pause or (has_content and _starts_phrase(words, number)):
            firsts.append(number)
            noun = article = -1
            has_content = False
        if kind in NOUN_SIDES:
            former = words[noun] if noun >= 0 else word
            # Of two adjacent English nouns, as in "hair band", the second is the head.
            compound = noun == number - 1 and former.kind == Kind.PERSON and not former.chinese
            if NOUN_SIDES[former.kind] != NOUN_SIDES[kind] and not compound:
                after = noun + 2 if words[noun + 1].kind == Kind.OF else noun + 1  # 的 belongs to the noun before it
                firsts.append(article if article > noun else after)
            noun = number
        elif kind == Kind.THE:
            article = number
        has_content = has_content or kind not in OPENERS
    return firsts


def _starts_phrase(words: Sequence[_Word], number: int) -> bool:
    word = words[number]
    if word.kind == Kind.AT:  # as in "strolling along"
        return words[number - 1].kind != Kind.ACT
    return word.kind in STARTS or word.kind in VERBS or (word.kind == Kind.BODY and word.chinese)


def _assign_sides(pieces: Sequence[Sequence[_Word]]) -> list[str]:
    """The side of each piece: its own, or that of the neighbour that it belongs to."""
    own = [_own_side(piece) for piece in pieces]
    for number in range(1, len(pieces)):
        if own[number] and _is_instrument(pieces[number - 1], pieces[number]):
            own[number] = IDENTITY
    if len(pieces) > 1 and own[0] is None and _is_subject(pieces[0], pieces[1]):
        own[0] = IDENTITY
    ahead = [side is None and _belongs_to_next(pieces, number) for number, side in enumerate(own)]
    for number in range(len(pieces) - 2, -1, -1):
        if ahead[number]:
            own[number] = own[number + 1]
    known = next(filter(None, own), BOTH)
    sides = []
    for side in own:
        known = side or known
        sides.append(known)
    return sides


def _own_side(piece: Sequence[_Word]) -> str | None:
    """The side that a piece's own words decide, by the last of their deciding kinds; None if they decide nothing."""
    kinds = [word.kind for word in piece]
    for kind in reversed(kinds):
        if kind in NOUN_SIDES:
            return NOUN_SIDES[kind]
    place = next((kind in PLACES for kind in kinds if kind in PLACES or kind not in OPENERS), False)
    if Kind.WEAR in kinds:
        return IDENTITY if Kind.BODY in kinds and Kind.THING not in kinds else CLOTHING
    if place and (Kind.BODY in kinds or Kind.THING in kinds):
        return None
    if Kind.THING in kinds:
        return CLOTHING
    if Kind.BODY in kinds:
        return None if piece[0].chinese else IDENTITY
    for kind in reversed(kinds):
        if kind in (Kind.TRAIT, Kind.MAKE):
            return IDENTITY if kind == Kind.TRAIT else CLOTHING
    if Kind.IN in kinds and Kind.COLOUR in kinds:
        return CLOTHING
    return IDENTITY if Kind.HE in kinds else None


def _is_instrument(before: Sequence[_Word], piece: Sequence[_Word]) -> bool:
    """True for a thing that the act before it is done with, as in "playing | with his phone"."""
    kinds = {word.kind for word in piece}
    acted = before[-1].kind == Kind.ACT and piece[0].kind == Kind.WITH and not piece[0].pause
    return acted and Kind.THING in kinds and kinds.isdisjoint(NOUN_SIDES)


def _is_subject(first: Sequence[_Word], after: Sequence[_Word]) -> bool:
    """True if the caption begins with a person in no list, as in "The wman | wears", "This one | in a coat"."""
    verb = after[0]
    plain = first[0].kind == Kind.THE and all(word.kind in (Kind.THE, Kind.PLAIN, Kind.BE) for word in first)
    return plain and not verb.pause and verb.kind in (Kind.WEAR, Kind.HAVE, Kind.WITH, Kind.IN)


def _belongs_to_next(pieces: Sequence[Sequence[_Word]], number: int) -> bool:
    """True if a piece without a side belongs to the next one ("red | and white shirt", "in his hand | he")."""
    if number + 1 == len(pieces):
        return False
    piece, after = pieces[number], pieces[number + 1]
    if piece[0].pause == 2 or not number:
        return piece[0].kind not in (Kind.IT, Kind.WHICH)
    if any(word.kind == Kind.BODY for word in piece):
        return not after[0].pause and (piece[0].pause > 0 or piece[0].kind == Kind.JOIN or piece[0].chinese)
    if piece[0].pause and not after[0].pause and after[0].kind in VERBS:
        return True
    if after[0].pause == 2 or any(word.kind == Kind.BE for word in pieces[number - 1]):
        return False
    content = next((word.kind for word in after if word.kind != Kind.JOIN), Kind.THE)
    listed = after[0].pause or after[0].kind == Kind.JOIN
    return bool(listed) and content not in OPENERS and content not in VERBS


def _trim(piece: Sequence[_Word], side: str) -> tuple[int, int]:
    """The piece's range without function words at its ends."""
    first, last = 0, len(piece)
    before = LEADING if side == IDENTITY else LEADING | PRONOUNS
    while first < last and piece[first].kind in before:
        first += 1
    while first < last and piece[last - 1].kind in LOOSE | PRONOUNS | {Kind.OF}:
        last -= 1
    return first, last
