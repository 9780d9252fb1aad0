import numpy as np
import pytest
import torch
from PIL import Image

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation.pictures import GREEN, GREY, RED, RankedList, draw_ranked_lists, rank_examples

BLUE = (20, 40, 200)


@pytest.fixture
def photos(tmp_path):
    """Paths of five plain blue photos of different shapes."""
    paths = []
    for number, size in enumerate([(40, 80), (50, 120), (80, 80), (30, 90), (64, 128)]):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.new("RGB", size, BLUE).save(paths[-1])
    return paths


def frames(picture):
    """Colours of the framed cells from left to right, and where each begins; by walking over the pixels."""
    pixels = np.asarray(picture.convert("RGB"))
    row = pixels[pixels.shape[0] - 12 - 80]  # through the middle of the lowest row of cells
    found, x = [], 0
    while x < len(row):
        colour = tuple(int(c) for c in row[x])
        if colour in (GREEN, RED, GREY):
            start = x
            while x < len(row) and tuple(row[x]) != (255, 255, 255):
                x += 1
            assert tuple(row[x - 1]) == colour  # the frame closes in its own colour
            assert tuple(row[(start + x) // 2]) == BLUE  # and holds the photo
            found.append((colour, start))
        x += 1
    return found


def test_right_answers_are_green_and_wrong_ones_red(photos, tmp_path):
    correct = [True, False, False, True]
    item = RankedList("A man.", photos[0], photos[1:], correct)
    draw_ranked_lists([item], tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as picture:
        found = frames(picture)
    assert [colour for colour, _ in found] == [GREY, GREEN, RED, RED, GREEN]
    starts = [start for _, start in found]
    gaps = np.diff(starts)
    assert gaps[0] > gaps[1] == gaps[2] == gaps[3]  # the described photo stands apart


def test_a_row_for_each_list(photos, tmp_path):
    lists = [RankedList("A man.", photos[0], photos[1:3], [True, False])] * 3
    draw_ranked_lists(lists[:1], tmp_path / "one.png")
    draw_ranked_lists(lists, tmp_path / "three.png")
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "three.png") as three:
        assert (three.width, three.height) == (one.width, 3 * one.height)
        parts = np.split(np.asarray(three), 3)
        assert all(np.array_equal(part, np.asarray(one)) for part in parts)


def test_a_long_caption_takes_lines_and_covers_no_photo(photos, tmp_path):
    short = RankedList("A man.", photos[0], photos[1:], [True] * 4)
    long = short._replace(caption="A man who wears a very long coat over another coat. " * 6)
    draw_ranked_lists([short], tmp_path / "short.png")
    draw_ranked_lists([long], tmp_path / "long.png")
    with Image.open(tmp_path / "short.png") as one, Image.open(tmp_path / "long.png") as other:
        assert other.height > one.height
        below = slice(-170, None)  # the cells
        assert np.array_equal(np.asarray(one)[below], np.asarray(other)[below])
        text = np.asarray(other)[:-172]
        assert (text < 100).any()  # black letters


def test_lists_of_different_lengths(photos, tmp_path):
    lists = [RankedList("A man.", photos[0], photos[1:n], [False] * (n - 1)) for n in (5, 3)]
    draw_ranked_lists(lists, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as picture:
        assert [colour for colour, _ in frames(picture)] == [GREY, RED, RED]  # the lower one


def test_a_missing_photo_is_named(photos, tmp_path):
    item = RankedList("A man.", photos[0], [str(tmp_path / "gone.png")], [True])
    with pytest.raises(DataError, match=r"gone\.png"):
        draw_ranked_lists([item], tmp_path / "out.png")


def examples(number, queries=11, top=3):
    """Query i has pid i and looks like image i; every second image shows somebody else."""
    gallery = [(f"image{i}.png", i if i % 2 == 0 else -1) for i in range(queries)]
    texts = [(f"photo{i}.png", i, f"caption {i}") for i in range(queries)]
    features = torch.eye(queries) + 0.01 * torch.arange(queries)[None]  # after itself, the last image comes first
    return rank_examples(texts, features, gallery, torch.eye(queries), number, top)


@pytest.mark.parametrize(
    ("number", "chosen"), [(1, [0]), (2, [0, 10]), (3, [0, 5, 10]), (6, [0, 2, 4, 6, 8, 10]), (50, list(range(11)))]
)
def test_examples_are_evenly_spaced(number, chosen):
    assert [item.caption for item in examples(number)] == [f"caption {i}" for i in chosen]


def test_examples_are_ranked_and_judged():
    item = examples(3)[1]
    assert item.described == "photo5.png"
    assert item.found == ["image5.png", "image10.png", "image9.png"]
    assert item.correct == [False, False, False]  # image 5 shows somebody else
    first = examples(3)[0]
    assert first.found == ["image0.png", "image10.png", "image9.png"]
    assert first.correct == [True, False, False]


def test_a_gallery_smaller_than_the_list():
    assert len(examples(1, queries=2, top=10)[0].found) == 2
