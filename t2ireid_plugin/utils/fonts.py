"""Text in pictures: a font that has its letters, lines that fit, and nothing in them that cannot be drawn."""

from __future__ import annotations

import importlib.util
import re
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

from t2ireid_plugin.errors import DataError

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

NO_CHINESE = "no font for Chinese was found, hence the boxes: install fonts-noto-cjk"

# Chinese, Japanese and Korean writing and its punctuation, without blanks between words.
_CJK = (
    r"[\u1100-\u11ff\u2e80-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef"
    r"\U00020000-\U0003ffff]"
)
_HAS_CJK = re.compile(_CJK)
# What a line is broken between: words, or Chinese characters together with the marks that must not begin a line, or
# end one.
_OPENING, _CLOSING = "（《「『【“‘", "，。、；：！？）》」』】”’…"
_PIECE = re.compile(rf"[{_OPENING}]*{_CJK}[{_CLOSING}]*|(?:(?!{_CJK})\S)+")
# Control characters, halves of surrogate pairs, and what turns the direction of the text around it.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
# Pillow looks them up in the system's font folders; the first that is there is taken.
CHINESE_FONTS = (
    "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "NotoSansSC-Regular.otf", "NotoSansSC-Regular.ttf",
    "SourceHanSansSC-Regular.otf", "SourceHanSansCN-Regular.otf", "wqy-microhei.ttc", "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf", "DroidSansFallback.ttf", "uming.ttc", "ukai.ttc", "fireflysung.ttf",
    "PingFang.ttc", "Hiragino Sans GB.ttc", "STHeiti Light.ttc", "Arial Unicode.ttf",
    "msyh.ttc", "msyh.ttf", "simhei.ttf", "simsun.ttc", "Deng.ttf",
)  # fmt: skip


def has_chinese(text: str) -> bool:
    """Whether a text needs a font for Chinese, Japanese or Korean."""
    return _HAS_CJK.search(text) is not None


def plain_font(size: int) -> Font:
    """DejaVu Sans, which matplotlib brings along, so that a picture looks the same on every machine; or a like one."""
    found = importlib.util.find_spec("matplotlib")  # finds it without importing it
    folders = (found.submodule_search_locations or ()) if found else ()
    own = tuple(str(Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")) for folder in folders)
    names = (*own, "DejaVuSans.ttf", "Arial.ttf", "LiberationSans-Regular.ttf")
    return _first(names, size) or ImageFont.load_default(size)


def chinese_font(size: int, name: str | None = None) -> Font | None:
    """The font ``name``, or else the first of `CHINESE_FONTS` that the system has, or else None.

    Raises:
        DataError: when ``name`` is no font.
    """
    if name is None:
        return _first(CHINESE_FONTS, size)
    try:
        return ImageFont.truetype(name, size)
    except OSError as error:
        raise DataError(f"'{name}' is no font that can be loaded: {error}") from error


def font_for(text: str, size: int) -> Font:
    """The font that a text is best drawn in."""
    return (chinese_font(size) if has_chinese(text) else None) or plain_font(size)


def printable(text: str, font: Font | None = None) -> str:
    """``text`` on one line, without what cannot be written down or would reorder the text around it.

    With a ``font`` also without what it refuses: Pillow's bitmap font takes Latin letters only.
    """
    line = _UNPRINTABLE.sub("\ufffd", " ".join(text.split()))
    if font is None or isinstance(font, ImageFont.FreeTypeFont):
        return line
    return line.encode("latin-1", "replace").decode("latin-1")


def wrap(text: str, font: Font, width: float) -> list[str]:
    """Lines of at most ``width`` pixels, broken between words, in Chinese between letters, and within long words.

    Only a single letter may be wider. At least one line, perhaps an empty one.
    """
    text = printable(text, font)
    lines, line = [], ""
    for match in _PIECE.finditer(text):
        piece, blank = match[0], " " if text[match.start() - 1 : match.start()] == " " else ""
        if line and font.getlength(line + blank + piece) > width:
            lines.append(line)
            line = ""
        line += blank + piece if line else piece
        while len(line) > 1 and font.getlength(line) > width:  # a piece that is too long for any line
            fits = _fitting(line, font, width)
            lines.append(line[:fits])
            line = line[fits:]
    return [*lines, line] if line or not lines else lines


def _fitting(text: str, font: Font, width: float) -> int:
    """How many letters, one at least, of a text that is too long fit into a line."""
    fits, too_many = 1, len(text)
    while fits + 1 < too_many:
        middle = (fits + too_many) // 2
        fits, too_many = (middle, too_many) if font.getlength(text[:middle]) <= width else (fits, middle)
    return fits


@lru_cache
def _first(names: tuple[str, ...], size: int) -> Font | None:
    for name in names:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return None
