import sys

import numpy as np
import pytest
from PIL import ImageFont

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.utils import fonts
from t2ireid_plugin.utils.fonts import chinese_font, font_for, has_chinese, plain_font, printable, wrap

HOSTILE = [
    "<script>alert(1)</script> & \"quotes\" 'and' <b>tags",
    "zero \x00 byte, escape \x1b[31m, half a pair \ud83d, override \u202e txet",
    "رجل يرتدي قميصا أزرق",
    "a man 😀👨‍👩‍👧 in red 🇩🇪",
    "x" * 3000,
    "word " * 600,
    "一名身穿浅蓝色衬衫的男子。" * 80,
    "。" * 300,
    "“" * 300,
    "A woman in a red coat, 一位女性穿着红色外套 and " + "x" * 200 + " end",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("width", [1, 60, 500])
def test_wrap_keeps_all_characters_within_the_width(text, width):
    font = plain_font(15)
    lines = wrap(text, font, width)
    assert "".join(lines).replace(" ", "") == printable(text).replace(" ", "")
    for line in lines:
        assert line == line.strip()
        assert font.getlength(line) <= width or len(line) == 1


@pytest.mark.parametrize("text", ["", "   \n\t "])
def test_wrap_turns_blank_text_into_one_empty_line(text):
    assert wrap(text, plain_font(15), 100) == [""]


def test_english_words_stay_whole():
    lines = wrap("a pedestrian who carries a backpack " * 10, plain_font(15), 150)
    assert {word for line in lines for word in line.split()} == {"a", "pedestrian", "who", "carries", "backpack"}
    assert len(lines) > 10


def test_chinese_lines_do_not_begin_with_a_comma_or_end_with_an_opening_quote():
    sentence = "一名“戴帽”的男子，身穿《大》衣。"
    for width in range(40, 200):
        lines = wrap(sentence * 6, plain_font(15), width)
        assert "".join(lines) == sentence * 6
        assert not any(line[0] in "，。”》" or line[-1] in "“《" for line in lines)
        assert len(lines) > 2


def test_a_space_between_chinese_and_latin_is_kept():
    assert wrap("红色 coat 外套", plain_font(15), 1000) == ["红色 coat 外套"]
    assert wrap("红色coat外套", plain_font(15), 1000) == ["红色coat外套"]


def test_printable_is_one_line_with_escapes():
    assert printable(" a\n\tb\u3000c ") == "a b c"
    assert printable("a\x00b\x1bc\ud800d\u202ee\u2066") == r"a\x00b\x1bc\ud800d\u202ee\u2066"
    assert printable("👨‍👩‍👧 中文 عربي é") == "👨‍👩‍👧 中文 عربي é"
    for text in HOSTILE:
        printable(text).encode()


@pytest.mark.parametrize("text", ["红", "𠀀", "カ", "한", "，"])
def test_has_chinese(text):
    assert has_chinese(f"a {text} b")


def test_has_chinese_is_false_for_other_scripts():
    assert not has_chinese("a “café” – naïve… é عربي 😀 ✓")


def test_the_plain_font_has_check_marks_and_crosses():
    """Missing characters would all be drawn as the same box."""
    font = plain_font(15)
    shapes = {bytes(font.getmask(sign)) for sign in "✓✗·−…\U0010ffff"}
    assert len(shapes) == 6


def test_the_plain_font_does_not_import_matplotlib(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    assert plain_font(17).getlength("iii") < plain_font(17).getlength("mmm")
    assert "matplotlib" not in sys.modules


def test_the_first_available_chinese_font_is_used(monkeypatch):
    """With a Latin font in its place, as the machine may have none."""
    plain, real, asked = plain_font(15), ImageFont.truetype, []

    def only(name, size):
        asked.append(name)
        if name == "wqy-microhei.ttc":
            return real(plain.path, size)
        raise OSError("cannot open resource")

    monkeypatch.setattr(ImageFont, "truetype", only)
    fonts._first_font.cache_clear()
    try:
        font = chinese_font(15)
        assert font is font_for("红色", 15)
    finally:
        fonts._first_font.cache_clear()
    assert font is not plain
    assert asked == list(fonts.CHINESE_FONTS[: fonts.CHINESE_FONTS.index("wqy-microhei.ttc") + 1])


def test_without_a_chinese_font_boxes_are_drawn(monkeypatch):
    monkeypatch.setattr(fonts, "CHINESE_FONTS", ())
    assert chinese_font(15) is None
    font = font_for("红色", 15)
    assert font.path == plain_font(15).path
    assert np.asarray(font.getmask("红")).any()


def test_a_font_from_a_file(tmp_path):
    own = tmp_path / "own.ttf"
    own.write_bytes(ImageFont.load_default(13).font_bytes)
    assert chinese_font(13, str(own)).path == str(own)
    own.write_text("not a font")
    with pytest.raises(DataError, match=r"font: '.*own\.ttf' cannot be loaded"):
        chinese_font(13, str(own))
