"""Splits a pedestrian's caption into an identity text and a clothing text, in English and Chinese.

By word lists and one scan: the caption is cut where a new phrase begins, and the phrase's noun decides its side, so
that "black" goes to identity in "black hair" and to clothing in "black trousers".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from t2ireid_plugin.data.lexicon import Kind, chinese_kinds, english_kind
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
# Kinds that are stripped from either end of a phrase. An identity phrase keeps "he" or "she", which tells the sex.
LOOSE = frozenset((Kind.JOIN, Kind.WHICH, Kind.BE))
LEADING = LOOSE | {Kind.OF}
PRONOUNS = frozenset((Kind.HE, Kind.IT))

_WORD = re.compile(rf"(?P<chinese>[{CJK}]+)|[^\W{CJK}]+(?:(?:['’-]|\.(?=\d))[^\W{CJK}]+)*")
_SENTENCE = re.compile(r"[.!?;。！？；\n]")
_CLAUSE = re.compile(r"[,:，、：()（）]")


class _Word(NamedTuple):
    kind: Kind
    start: int
    end: int
    pause: int  # punctuation before it: 0 none, 1 a comma, 2 the end of a sentence
    chinese: bool


class _Span(NamedTuple):
    """A phrase's position in the caption."""

    start: int
    end: int
    side: str
    number: int  # among the caption's phrases, including empty ones
    pause: int  # before it, as in `_Word`
    after: int  # the pause after it
    chinese: bool
    pronoun: bool  # one was stripped from its beginning


def split_caption(caption: str) -> tuple[str, str]:
    """(identity text, clothing text) of a caption; a side without any phrase gets the whole caption.

    Identity covers sex, age, build, hair, face, glasses, skin, gait, pose and actions; clothing covers everything worn
    or carried. Each text consists of words of the caption in their order.
    """
    spans = _spans(caption)
    identity, clothing = (
        _join(caption, [span for span in spans if span.side in (side, BOTH)]) for side in (IDENTITY, CLOTHING)
    )
    return identity or caption, clothing or caption


def _join(caption: str, spans: Sequence[_Span]) -> str:
    parts = []
    for before, span in zip((None, *spans), spans):
        if before is None:
            between = ""
        elif span.number == before.number + 1 and not span.pronoun:
            between = caption[before.end : span.start]
        else:
            between = _separator(max(before.after, span.pause), span.chinese)
        parts.append(between + caption[span.start : span.end])
    return "".join(parts)


def _separator(pause: int, chinese: bool) -> str:
    return ("", "，", "。")[pause] if chinese else (" ", ", ", ". ")[pause]


def _spans(caption: str) -> list[_Span]:
    words = _words(caption)
    firsts = _phrase_starts(words)
    pieces = [words[first:last] for first, last in zip(firsts, [*firsts[1:], len(words)])]
    spans = []
    for number, (piece, side) in enumerate(zip(pieces, _assign_sides(pieces))):
        first, last = _trim(piece, side)
        if first < last:
            after = pieces[number + 1][0].pause if number + 1 < len(pieces) else 0
            pronoun = any(word.kind in PRONOUNS for word in piece[:first])
            start, end = piece[first].start, piece[last - 1].end
            spans.append(_Span(start, end, side, number, piece[0].pause, after, piece[first].chinese, pronoun))
    return spans


def _words(caption: str) -> list[_Word]:
    words: list[_Word] = []
    last = 0
    for match in _WORD.finditer(caption):
        start, end = match.span()
        text = match[0]
        pause = 0 if start - last < 2 and caption[last:start] in ("", " ") else _pause(caption[last:start])
        last = end
        if match["chinese"]:
            for kind, length in chinese_kinds(text):
                words.append(_Word(kind, start, start + length, pause, True))
                start, pause = start + length, 0
        else:
            # `english_kind` caches its results; very long strings are not words.
            kind = english_kind(text.lower()) if len(text) <= 30 else Kind.PLAIN
            words.append(_Word(kind, start, end, pause, False))
    return _adjust_kinds(words)


def _pause(between: str) -> int:
    if _SENTENCE.search(between):
        return 2
    return 1 if _CLAUSE.search(between) else 0


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
            if noun >= 0 and NOUN_SIDES[words[noun].kind] != NOUN_SIDES[kind] and not _is_compound(words, noun, number):
                firsts.append(article if article > noun else _end_of_noun(words, noun))
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


def _is_compound(words: Sequence[_Word], first: int, second: int) -> bool:
    """True for two adjacent English nouns of which the second is the head, as in "hair band"."""
    return second == first + 1 and words[first].kind == Kind.PERSON and not words[first].chinese


def _end_of_noun(words: Sequence[_Word], noun: int) -> int:
    """The index after a noun and the 的 that may follow it."""
    return noun + 2 if words[noun + 1].kind == Kind.OF else noun + 1


def _assign_sides(pieces: Sequence[Sequence[_Word]]) -> list[str]:
    """The side of each piece: its own, or that of the neighbour that it belongs to."""
    own = [_own_side(piece) for piece in pieces]
    for number in range(1, len(pieces)):
        if own[number] and _is_instrument(pieces[number - 1], pieces[number]):
            own[number] = IDENTITY
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
    while first < last and piece[last - 1].kind in LOOSE | PRONOUNS:
        last -= 1
    return first, last
