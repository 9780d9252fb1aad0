"""Reading of JSON files that are larger than memory, element by element."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

BLOCK = 2**18  # bytes read at a time
MAX_ELEMENT = 2**24  # characters of one element; a longer one is an error in the file, not a row
_SPACE = re.compile(r"[ \t\n\r]*")
_AFTER_NUMBER = re.compile(r"[ \t\n\r,\]}]")


def json_elements(stream: BinaryIO, block: int = BLOCK) -> Iterator[Any]:
    """The elements of a JSON list, or the pairs ``(key, value)`` of an object, one after the other.

    Args:
        stream: a file in UTF-8; a byte order mark is allowed.
        block: bytes read at a time.

    Raises:
        ValueError: for anything else than one list or object, with the number of the element, from 0.
    """
    window = _Window(stream, block)
    close = {"[": "]", "{": "}"}.get(window.take())
    if close is None:
        raise ValueError("it must begin with '[' or '{'")
    number, after = 0, ","
    if window.peek() == close:
        after = window.take()
    while after == ",":
        try:
            value = window.value()
            if close == "}":
                if not isinstance(value, str) or window.take() != ":":
                    raise ValueError("not a key with a value")
                value = value, window.value()
        except ValueError as error:
            raise ValueError(f"element {number}: {error}") from error
        yield value
        number, after = number + 1, window.take()
        if after == "," and close == "]":
            many = window.objects()
            yield from many
            number, after = number + len(many), window.take() if many else after
    if after == close and window.peek():
        raise ValueError(f"more text after the '{close}' that ends it")
    if after != close:
        raise ValueError(f"element {number}: '{after or 'the end of the file'}' in place of ',' or '{close}'")


class _Window:
    """The part of the text that is being read."""

    def __init__(self, stream: BinaryIO, block: int) -> None:
        self.stream, self.block = stream, block
        self.decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self.scan = json.JSONDecoder(parse_constant=_reject).raw_decode
        self.text, self.place, self.ended = "", 0, False

    def more(self) -> None:
        data = self.stream.read(self.block)
        self.ended = not data
        self.text, self.place = self.text[self.place :] + self.decode(data, final=self.ended), 0

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        if (character := self.text[self.place : self.place + 1]) > " ":
            return character
        while True:
            self.place = _SPACE.match(self.text, self.place).end()  # type: ignore[union-attr]  # matches anything
            if self.place < len(self.text) or self.ended:
                return self.text[self.place : self.place + 1]
            self.more()

    def take(self) -> str:
        """As `peek`, and goes past it."""
        character = self.peek()
        self.place += 1
        return character

    def objects(self) -> list[Any]:
        """All objects but the last in the text that was read, decoded in one call; empty where it does not end so."""
        end = self.text.rfind("},", self.place) + 1
        if not end:
            return []
        text = f"[{self.text[self.place : end]}]"
        try:
            many, length = self.scan(text)
        except ValueError:  # "}," was inside of one
            return []
        if length < len(text):  # the list ended before
            return []
        self.place = end
        return many

    def value(self) -> Any:
        """The next value, and goes past it."""
        self.peek()
        while True:
            try:
                value, end = self.scan(self.text, self.place)
                whole = type(value) not in (int, float) or _AFTER_NUMBER.match(self.text, end)  # 1.5 may be cut in 1.
                if whole or self.ended:
                    self.place = end
                    return value
            except ValueError as error:
                if self.ended or len(self.text) - self.place > MAX_ELEMENT:
                    raise ValueError(str(error).partition(": line")[0]) from error  # its position is in the window
            self.more()


def _reject(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
