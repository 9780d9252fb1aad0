"""Small formatting helpers for messages, console tables and Markdown pages."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

# Chinese characters and Japanese kana, as the inside of a regular expression's character class.
CJK = "\u3040-\u30ff\u3400-\u9fff"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class when the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """Aligned plain-text table: the first ``text_columns`` columns to the left, the others (numbers) to the right."""
    lines = [header, *rows]
    widths = [max(map(_columns, column)) for column in zip(*lines, strict=True)]

    def fill(cell: str, number: int) -> str:
        space = " " * (widths[number] - _columns(cell))
        return cell + space if number < text_columns else space + cell

    return "\n".join("  ".join(map(fill, line, range(len(line)))).rstrip() for line in lines)


def _columns(text: str) -> int:
    """Width on a terminal, where Chinese characters are twice as wide as Latin ones."""
    return sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown table: the first column to the left, the others (numbers) to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
