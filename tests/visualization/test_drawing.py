import numpy as np
import pytest
from PIL import Image

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.utils import fonts
from t2ireid_plugin.visualization import drawing as pictures
from t2ireid_plugin.visualization.drawing import (
    APART,
    CELL_HEIGHT,
    CELL_WIDTH,
    FRAME,
    GAP,
    GREEN,
    GREY,
    MARGIN,
    RED,
    describe_failures,
    describe_list,
    draw_ranked_lists,
)
from t2ireid_plugin.visualization.ranked_lists import Hit, RankedList

BLUE = (20, 40, 200)
BELOW = 18 + MARGIN  # the labels under the photos, and the margin

HOSTILE = [
    "",
    "   \n\t ",
    "<script>alert(1)</script> & \"quotes\" 'and' <b>tags",
    "zero \x00 byte, escape \x1b[31m, half a pair \ud83d, override \u202e txet",
    "رجل يرتدي قميصا أزرق",
    "a man 😀👨‍👩‍👧 in red 🇩🇪",
    "x" * 10_000,
    "word " * 2_000,
    "一名身穿浅蓝色衬衫的男子。" * 80,
]


@pytest.fixture
def photos(tmp_path):
    """Paths of twelve plain blue photos of different shapes."""
    shapes = [(40, 80), (50, 120), (80, 80), (30, 90), (64, 128), (200, 20), (3, 400), (1, 1)]
    paths = []
    for number in range(12):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.new("RGB", shapes[number % len(shapes)], BLUE).save(paths[-1])
    return paths


def hit(photo, rank, score, correct):
    return Hit(photo, "", rank, score, correct)


def ranked(photos, correct, caption="A man.", number=3, first=None, pid=42, seen=False):
    hits = [hit(photos[1 + i], i + 1, 0.9 - 0.2 * i, right) for i, right in enumerate(correct)]
    first = first or next((item for item in hits if item.correct), None)
    return RankedList(number, pid, caption, photos[0], seen, hits, first)


def pixels(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def draw(lists, folder):
    draw_ranked_lists(lists, folder / "out.png")
    return pixels(folder / "out.png")


def find_frames(image, bottom=0):
    """Colours of the frames of the row ``bottom`` pixels above the end, and where they begin, checked all around."""
    end = len(image) - BELOW - bottom
    row = image[end - CELL_HEIGHT // 2]
    frames, x = [], MARGIN
    while x + CELL_WIDTH <= len(row):
        colour = tuple(row[x])
        if colour not in (GREEN, RED, GREY):
            x += 1
            continue
        cell = image[end - CELL_HEIGHT : end, x : x + CELL_WIDTH]
        mask = np.ones(cell.shape[:2], bool)
        mask[FRAME:-FRAME, FRAME:-FRAME] = False
        assert (cell[mask] == colour).all()
        assert not (cell[~mask] == colour).all(axis=-1).any()
        assert (image[end - CELL_HEIGHT - 1, x : x + CELL_WIDTH] == 255).all()
        frames.append((colour, x))
        x += CELL_WIDTH
    return frames


def test_matches_are_green_and_others_red(photos, tmp_path):
    image = draw([ranked(photos, [True, False, False, True])], tmp_path)
    colours, starts = zip(*find_frames(image))
    assert colours == (GREY, GREEN, RED, RED, GREEN)
    assert starts[0] == MARGIN
    # The described photo stands apart.
    assert np.diff(starts).tolist() == [CELL_WIDTH + APART] + [CELL_WIDTH + GAP] * 3


def test_photos_are_whole_and_undistorted(photos, tmp_path):
    image = draw([ranked(photos, [True] * 7)], tmp_path)
    top = len(image) - BELOW - CELL_HEIGHT
    for (_, x), path in zip(find_frames(image), photos[:8], strict=True):
        cell = image[top + FRAME : top + CELL_HEIGHT - FRAME, x + FRAME : x + CELL_WIDTH - FRAME]
        blue = (cell == BLUE).all(axis=-1)
        high, wide = blue.any(axis=1).sum(), blue.any(axis=0).sum()
        assert blue.sum() == high * wide  # one rectangle
        with Image.open(path) as photo:
            scale = min(80 / photo.width, 168 / photo.height)
            assert (wide, high) == (max(1, round(scale * photo.width)), max(1, round(scale * photo.height)))
        rows, columns = np.flatnonzero(blue.any(axis=1)), np.flatnonzero(blue.any(axis=0))
        assert abs(rows[0] - (167 - rows[-1])) <= 1  # in the middle
        assert abs(columns[0] - (79 - columns[-1])) <= 1


def test_rank_and_score_stand_below_each_photo(photos, tmp_path):
    item = ranked(photos, [True, False])
    one = draw([item], tmp_path)
    two = draw([item._replace(hits=[one_hit._replace(score=-0.5) for one_hit in item.hits])], tmp_path)
    changed = np.argwhere((one != two).any(axis=-1))
    assert changed[:, 0].min() >= len(one) - BELOW  # only below the photos
    assert changed[:, 0].max() < len(one) - MARGIN + 2
    for _, x in find_frames(one):
        assert (one[len(one) - BELOW :, x : x + CELL_WIDTH] < 128).any()


def test_largest_rank_and_score_do_not_touch():
    font = fonts.plain_font(pictures._TINY)
    last = hit("", 19_848, 0.123, False)
    assert font.getlength(pictures.mark(last)) + font.getlength(pictures.format_score(last)) < CELL_WIDTH
    assert pictures.format_score(last._replace(score=-0.5)) == "−0.500"


def test_first_match_follows_a_list_without_one(photos, tmp_path):
    item = ranked(photos, [False] * 10, first=hit(photos[11], 153, 0.1, True))
    image = draw([item], tmp_path)
    colours, starts = zip(*find_frames(image))
    assert colours == (GREY, *[RED] * 10, GREEN)
    assert starts[-1] - starts[-2] == CELL_WIDTH + APART
    assert image.shape[1] == starts[-1] + CELL_WIDTH + MARGIN
    assert describe_list(item).startswith("query 3 · person 42 · first match at rank 153: ")
    assert describe_list(item).endswith("/11.png")


def test_retrieved_texts_stand_below_each_other(photos, tmp_path):
    captions = ["A man.", "A woman in a long red coat. " * 12, "一名身穿浅蓝色衬衫的男子。" * 20]
    hits = [Hit("", text, i + 1, 0.5, i == 1) for i, text in enumerate(captions)]
    image = draw([RankedList(0, 1, "", photos[0], True, hits, hits[1])], tmp_path)
    x = MARGIN + CELL_WIDTH + APART
    column = [tuple(colour) for colour in image[:, x]]
    runs = [colour for i, colour in enumerate(column) if colour != (255, 255, 255) and column[i - 1] != colour]
    assert runs == [RED, GREEN, RED]
    heights = [column.count(RED), column.count(GREEN)]
    assert min(heights) > 3 * 18  # several lines each
    assert (image[:, -MARGIN:] == 255).all()
    assert (image[-MARGIN:] == 255).all()


def test_a_row_for_each_list(photos, tmp_path):
    assert describe_list(ranked(photos, [False] * 2)).endswith("no match in the gallery")
    image = draw([ranked(photos, [False] * n) for n in (4, 2)], tmp_path)
    assert [colour for colour, _ in find_frames(image)] == [GREY, RED, RED]
    assert [colour for colour, _ in find_frames(image, len(image) // 2)] == [GREY, RED, RED, RED, RED]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_any_caption_is_drawn_within_the_picture(photos, tmp_path, number):
    image = draw([ranked(photos, [True] * 4, HOSTILE[number])], tmp_path)
    assert len(find_frames(image)) == 5
    assert (image[:, -MARGIN + 4 :] == 255).all()
    assert (image[:, :8] == 255).all()


def test_a_heading_stands_above_the_rows(photos, tmp_path):
    lists = [ranked(photos, [False] * 10, number=n, first=hit(photos[11], 99 - n, 0.1, True)) for n in (1, 2)]
    rows = draw(lists, tmp_path)
    draw_ranked_lists(lists, tmp_path / "failures.png", describe_failures(lists))
    sheet = pixels(tmp_path / "failures.png")
    assert rows.shape[1] == sheet.shape[1]
    heading = len(sheet) - len(rows)
    assert (sheet[:heading] < 100).any()
    assert np.array_equal(sheet[heading + 1 :], rows[1:])
    draw_ranked_lists([], tmp_path / "none.png", describe_failures([]))
    assert (pixels(tmp_path / "none.png") < 100).any()


def test_unwritable_pictures_and_unreadable_photos_are_named(photos, tmp_path):
    with pytest.raises(DataError, match="none"):
        draw_ranked_lists([ranked(photos, [True])], tmp_path / "none" / "out.png")
    item = ranked([photos[0], str(tmp_path / "gone.png")], [True])
    with pytest.raises(DataError, match=r"gone\.png"):
        draw_ranked_lists([item], tmp_path / "out.png")
