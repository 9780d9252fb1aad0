import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from t2ireid_plugin.utils import fonts
from t2ireid_plugin.visualization.attention import AttentionMaps
from t2ireid_plugin.visualization.attention_pictures import draw_attention


def halves(top):
    """Maps 4 x 2 of which the identity branch spends ``top`` on the upper half, the clothing branch on the lower."""
    identity = torch.full((4, 2), (1 - top) / 4)
    identity[:2] = top / 4
    return AttentionMaps(identity, identity.flip(0))


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (60, 120), (120, 120, 120)).save(path)
    return path


def draw(photo, maps, words=()):
    out = photo.with_name("out.png")
    draw_attention(photo, maps, out, words)
    return cv2.imread(str(out))[..., ::-1].astype(int)


def test_three_pictures_that_show_the_maps(photo):
    picture = draw(photo, halves(0.9))
    assert picture.shape[1] == 10 + 3 * 170  # 60 x 120 becomes 160 x 320
    middles = [(x + 80) for x in (10, 180, 350)]
    upper, lower = picture[20 + 80], picture[20 + 240]
    assert (upper[middles[0]] == 120).all()
    assert (lower[middles[0]] == 120).all()
    more, less = upper[middles[1]], lower[middles[1]]
    assert more[0] > more[2] + 50  # orange
    assert less[2] > less[0] + 50  # blue
    assert np.array_equal(upper[middles[2]], less)
    assert np.array_equal(lower[middles[2]], more)
    assert (picture[:20] < 150).any()  # labels


def test_an_even_map_leaves_the_grey_photo_whatever_its_grid(photo):
    for even in (torch.full((4, 2), 1 / 8), torch.full((14, 14), 1 / 196)):
        assert (draw(photo, AttentionMaps(even, even))[180, 260] == 120).all()


def test_the_photo_is_visible_under_the_strongest_tint(photo):
    pixels = np.zeros((120, 60, 3), np.uint8)
    pixels[:, 40:] = 255
    Image.fromarray(pixels).save(photo)
    everything = torch.zeros(4, 2)
    everything[0] = 0.5
    picture = draw(photo, AttentionMaps(everything, everything))
    for row in (40, 300):  # all of the attention, none of it
        assert (picture[row, 180 + 140] - picture[row, 180 + 20] >= 0.3 * 255).all()


def test_words_by_relevance(photo):
    maps = halves(0.5)
    plain = draw(photo, maps)
    words = [("speaks", 0.5), ("against", -0.5), ("nothing", 0.0)]
    picture = draw(photo, maps, words)
    assert np.array_equal(picture[: len(plain) - 10], plain[:-10])
    band = picture[len(plain) - 8]  # through the upper edge of the words' boxes
    colours = {tuple(map(int, colour)) for colour in band}
    assert {(90, 210, 90), (240, 90, 90), (255, 255, 255)} == colours
    longer = draw(photo, maps, words * 10)
    assert len(longer) > len(picture)
    assert longer.shape[1] == picture.shape[1]


def test_a_word_that_is_too_long_stays_within_the_picture(photo):
    picture = draw(photo, halves(0.5), [("x" * 3000, 1.0), ("short", 0.5)])
    assert (picture[-60:, -6:] == 255).all()
    assert len(draw(photo, halves(0.5), [("x", 1.0), ("short", 0.5)])) < len(picture)


def test_chinese_words_are_drawn_with_the_font_for_them(photo, monkeypatch):
    sizes = []
    monkeypatch.setattr(fonts, "chinese_font", lambda size: sizes.append(size) or fonts.plain_font(size))
    draw(photo, halves(0.5), [("red", 1.0)])
    assert not sizes
    draw(photo, halves(0.5), [("红", 1.0), ("色", 0.5)])
    assert sizes
