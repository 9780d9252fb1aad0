"""Splits a pedestrian's caption into what it says of the person and what it says of the clothing.

English and Chinese, by word lists and one scan: the caption is cut where a new phrase begins, and a phrase's noun
decides its side, so that "black" goes with the hair in "black hair" and with the trousers in "black trousers".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from t2ireid_plugin.data import lexicon as kinds
from t2ireid_plugin.data.lexicon import chinese_kinds, english_kind

IDENTITY, CLOTHING, BOTH = "identity", "clothing", "both"

NOUN_SIDES = {
    kinds.PERSON: IDENTITY,
    kinds.OWNER: IDENTITY,
    kinds.ACT: IDENTITY,
    kinds.GARMENT: CLOTHING,
    kinds.TOP: CLOTHING,
}
# What opens a phrase, unless the phrase has had nothing but openers so far ("and | he is not wearing").
STARTS = frozenset((kinds.JOIN, kinds.WHICH, kinds.HE, kinds.IT, kinds.NOT, kinds.HAVE, kinds.WITH, kinds.IN, kinds.AT))
VERBS = frozenset((kinds.ACT, kinds.WEAR))
OPENERS = STARTS | {kinds.BE, kinds.THE}
PLACES = frozenset((kinds.IN, kinds.AT))
# What may go from either end of a phrase. A person's phrase keeps its "he" or "she", which tells the sex.
LOOSE = frozenset((kinds.JOIN, kinds.WHICH, kinds.BE))
LEADING = LOOSE | {kinds.OF}
PRONOUNS = frozenset((kinds.HE, kinds.IT))

_CJK = "\u3400-\u9fff"
_WORD = re.compile(rf"[{_CJK}]+|[^\W{_CJK}]+(?:(?:['’-]|\.(?=\d))[^\W{_CJK}]+)*")
_SENTENCE = re.compile(r"[.!?;。！？；\n]")
_CLAUSE = re.compile(r"[,:，、：()（）]")


class Phrase(NamedTuple):
    """A piece of a caption, as written there, and its side: "identity", "clothing" or, if nothing tells, "both"."""

    text: str
    side: str


class _Word(NamedTuple):
    kind: str
    start: int
    end: int
    pause: int  # before it: 0 none, 1 a comma, 2 the end of a sentence
    chinese: bool


class _Span(NamedTuple):
    """A phrase's place in the caption."""

    start: int
    end: int
    side: str
    number: int  # among the caption's phrases, empty ones included
    pause: int  # before it
    after: int  # the pause after it
    chinese: bool
    pronoun: bool  # one was taken from its beginning


def split_phrases(caption: str) -> list[Phrase]:
    """The caption's phrases in order, without the words between them that tell nothing ("is", "and", "who")."""
    return [Phrase(caption[span.start : span.end], span.side) for span in _spans(caption)]


def split_caption(caption: str) -> tuple[str, str]:
    """(identity text, clothing text); the whole caption stands in for a side that it says nothing of.

    Identity is sex, age, build, hair, face, glasses, skin, gait, pose, and what the person does; clothing is what
    is worn or carried. The words of each text are the caption's own in their order.
    """
    spans = _spans(caption)
    identity, clothing = (
        _joined(caption, [span for span in spans if span.side in (side, BOTH)]) for side in (IDENTITY, CLOTHING)
    )
    return identity or caption, clothing or caption


def _joined(caption: str, spans: Sequence[_Span]) -> str:
    parts = []
    for before, span in zip((None, *spans), spans):
        if before is None:
            between = ""
        elif span.number == before.number + 1 and not span.pronoun:
            between = caption[before.end : span.start]
        else:
            between = _between(max(before.after, span.pause), span.chinese)
        parts.append(between + caption[span.start : span.end])
    return "".join(parts)


def _between(pause: int, chinese: bool) -> str:
    return ("", "，", "。")[pause] if chinese else (" ", ", ", ". ")[pause]


def _spans(caption: str) -> list[_Span]:
    words = _words(caption)
    firsts = _cut(words)
    pieces = [words[first:last] for first, last in zip(firsts, [*firsts[1:], len(words)])]
    spans = []
    for number, (piece, side) in enumerate(zip(pieces, _sides(pieces))):
        first, last = _trimmed(piece, side)
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
        text = match.group()
        pause = 0 if start - last < 2 and caption[last:start] in ("", " ") else _pause(caption[last:start])
        last = end
        if "\u3400" <= text[0] <= "\u9fff":
            for kind, length in chinese_kinds(text):
                words.append(_Word(kind, start, start + length, pause, True))
                start, pause = start + length, 0
        else:
            # The cache of kinds is not to hold very long words, which are none.
            kind = english_kind(text.lower()) if len(text) <= 30 else kinds.PLAIN
            words.append(_Word(kind, start, end, pause, False))
    return _in_context(words)


def _pause(between: str) -> int:
    if _SENTENCE.search(between):
        return 2
    return 1 if _CLAUSE.search(between) else 0


def _in_context(words: list[_Word]) -> list[_Word]:
    """Without the verb in "running shoes" and the garment in "on top of"."""
    for number, (word, after) in enumerate(pairwise(words)):
        if word.kind == kinds.ACT and not word.chinese and after.kind == kinds.GARMENT and not after.pause:
            words[number] = word._replace(kind=kinds.PLAIN)
        elif word.kind in PLACES and after.kind == kinds.TOP and not after.pause:
            words[number + 1] = after._replace(kind=kinds.PLAIN)
    return words


def _cut(words: Sequence[_Word]) -> list[int]:
    """The number of each phrase's first word."""
    firsts: list[int] = []
    noun = article = -1
    told = False  # whether the phrase has more than openers yet
    for number, word in enumerate(words):
        kind = word.kind
        if not number or word.pause or (told and _starts(words, number)):
            firsts.append(number)
            noun = article = -1
            told = False
        if kind in NOUN_SIDES:
            if noun >= 0 and NOUN_SIDES[words[noun].kind] != NOUN_SIDES[kind] and not _compound(words, noun, number):
                firsts.append(article if article > noun else _after(words, noun))
            noun = number
        elif kind == kinds.THE:
            article = number
        told = told or kind not in OPENERS
    return firsts


def _starts(words: Sequence[_Word], number: int) -> bool:
    word = words[number]
    if word.kind == kinds.AT:  # as in "strolling along"
        return words[number - 1].kind != kinds.ACT
    return word.kind in STARTS or word.kind in VERBS or (word.kind == kinds.BODY and word.chinese)


def _compound(words: Sequence[_Word], first: int, second: int) -> bool:
    """As in "hair band": two English nouns in a row, of which the second says what it is."""
    return second == first + 1 and words[first].kind == kinds.PERSON and not words[first].chinese


def _after(words: Sequence[_Word], noun: int) -> int:
    return noun + 2 if words[noun + 1].kind == kinds.OF else noun + 1


def _sides(pieces: Sequence[Sequence[_Word]]) -> list[str]:
    """A side for every piece: its own, or that of the piece which it belongs to."""
    own = [_own_side(piece) for piece in pieces]
    for number in range(1, len(pieces)):
        if own[number] and _done_with(pieces[number - 1], pieces[number]):
            own[number] = IDENTITY
    ahead = [side is None and _looks_ahead(pieces, number) for number, side in enumerate(own)]
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
    found = [word.kind for word in piece]
    for kind in reversed(found):
        if kind in NOUN_SIDES:
            return NOUN_SIDES[kind]
    place = next((kind in PLACES for kind in found if kind in PLACES or kind not in OPENERS), False)
    if kinds.WEAR in found:
        return IDENTITY if kinds.BODY in found and kinds.THING not in found else CLOTHING
    if place and (kinds.BODY in found or kinds.THING in found):
        return None
    if kinds.THING in found:
        return CLOTHING
    if kinds.BODY in found:
        return None if piece[0].chinese else IDENTITY
    for kind in reversed(found):
        if kind in (kinds.TRAIT, kinds.MAKE):
            return IDENTITY if kind == kinds.TRAIT else CLOTHING
    if kinds.IN in found and kinds.COLOUR in found:
        return CLOTHING
    return IDENTITY if kinds.HE in found else None


def _done_with(before: Sequence[_Word], piece: Sequence[_Word]) -> bool:
    """As in "playing | with his phone": a thing of no side that an act is done with."""
    found = {word.kind for word in piece}
    acted = before[-1].kind == kinds.ACT and piece[0].kind == kinds.WITH and not piece[0].pause
    return acted and kinds.THING in found and found.isdisjoint(NOUN_SIDES)


def _looks_ahead(pieces: Sequence[Sequence[_Word]], number: int) -> bool:
    """Whether a piece without a side of its own belongs to the next ("red | and white shirt", "in his hand | he")."""
    if number + 1 == len(pieces):
        return False
    piece, after = pieces[number], pieces[number + 1]
    if piece[0].pause == 2 or not number:
        return piece[0].kind not in (kinds.IT, kinds.WHICH)
    if any(word.kind == kinds.BODY for word in piece):
        return not after[0].pause and (piece[0].pause > 0 or piece[0].kind == kinds.JOIN or piece[0].chinese)
    if piece[0].pause and not after[0].pause and after[0].kind in VERBS:
        return True
    if after[0].pause == 2 or any(word.kind == kinds.BE for word in pieces[number - 1]):
        return False
    content = next((word.kind for word in after if word.kind != kinds.JOIN), kinds.THE)
    listed = after[0].pause or after[0].kind == kinds.JOIN
    return bool(listed) and content not in OPENERS and content not in VERBS


def _trimmed(piece: Sequence[_Word], side: str) -> tuple[int, int]:
    """The piece's range without the loose words at its ends."""
    first, last = 0, len(piece)
    before = LEADING if side == IDENTITY else LEADING | PRONOUNS
    while first < last and piece[first].kind in before:
        first += 1
    while first < last and piece[last - 1].kind in LOOSE | PRONOUNS:
        last -= 1
    return first, last
