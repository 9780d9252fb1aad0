"""Text in pictures: fonts that have its characters, and lines that fit."""

from __future__ import annotations

import importlib.util
import re
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.errors import printable as escaped
from t2ireid_plugin.utils.text import CJK

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

NO_CHINESE = "no Chinese font: Chinese characters are drawn as boxes; install fonts-noto-cjk"

# Characters that need a Chinese, Japanese or Korean font: with Hangul, punctuation, and rare ideographs.
_WIDE = rf"[{CJK}\u1100-\u11ff\u3000-\u303f\uac00-\ud7ff\uff00-\uffef\U00020000-\U0003ffff]"
# Lines break between these: words, or single Chinese characters with punctuation that must not begin or end a line.
_OPENING, _CLOSING = "（《「『【“‘", "，。、；：！？）》」』】”’…"
_PIECE = re.compile(rf"[{_OPENING}]*{_WIDE}[{_CLOSING}]*|(?:(?!{_WIDE})\S)+")
# Pillow searches the system's font folders for them, in this order: Linux, macOS, Windows.
CHINESE_FONTS = (
    "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "NotoSansSC-Regular.otf", "NotoSansSC-Regular.ttf",
    "SourceHanSansSC-Regular.otf", "SourceHanSansCN-Regular.otf", "wqy-microhei.ttc", "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf", "DroidSansFallback.ttf", "uming.ttc", "ukai.ttc", "fireflysung.ttf",
    "PingFang.ttc", "Hiragino Sans GB.ttc", "STHeiti Light.ttc", "Arial Unicode.ttf",
    "msyh.ttc", "msyh.ttf", "simhei.ttf", "simsun.ttc", "Deng.ttf",
)  # fmt: skip


def has_chinese(text: str) -> bool:
    """True if ``text`` needs a font for Chinese, Japanese or Korean."""
    return re.search(_WIDE, text) is not None


def plain_font(size: int) -> Font:
    """DejaVu Sans from matplotlib's files, so that pictures look the same on every machine, or a similar font."""
    spec = importlib.util.find_spec("matplotlib")  # does not import it
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    names = (str(folder / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"), "DejaVuSans.ttf", "Arial.ttf")
    return _first_font(names, size) or ImageFont.load_default(size)


def chinese_font(size: int, name: str | None = None) -> Font | None:
    """The font ``name``, or without a name the first of `CHINESE_FONTS` on this system, or None.

    Raises:
        DataError: when ``name`` cannot be loaded.
    """
    if name is None:
        return _first_font(CHINESE_FONTS, size)
    try:
        return ImageFont.truetype(name, size)
    except OSError as error:
        raise DataError(f"font: '{name}' cannot be loaded ({error}); use a TrueType or OpenType file") from error


def font_for(text: str, size: int) -> Font:
    """The font to draw ``text`` in."""
    return (chinese_font(size) if has_chinese(text) else None) or plain_font(size)


@lru_cache
def _first_font(names: tuple[str, ...], size: int) -> Font | None:
    for name in names:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return None


def printable(text: str) -> str:
    """``text`` on one line, with escapes for what cannot be drawn, see `errors.printable`."""
    return escaped(" ".join(text.split()))


def wrap(text: str, font: Font, width: float) -> list[str]:
    """Breaks ``text`` into lines of at most ``width`` pixels: between words or Chinese characters, else within a word.

    Only a single character may be wider. The result has at least one line, which may be empty.
    """
    text = printable(text)
    lines, line = [], ""
    for match in _PIECE.finditer(text):
        piece, space = match[0], " " if text[match.start() - 1 : match.start()] == " " else ""
        if line and font.getlength(line + space + piece) > width:
            lines.append(line)
            line = ""
        line += space + piece if line else piece
        while len(line) > 1 and font.getlength(line) > width:  # a word that is longer than a line
            end = 1
            while font.getlength(line[: end + 1]) <= width:
                end += 1
            lines.append(line[:end])
            line = line[end:]
    return [*lines, line] if line or not lines else lines
