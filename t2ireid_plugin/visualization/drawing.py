"""Ranked lists as pictures: what was asked, and what the model found, framed green (right) and red (wrong)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from t2ireid_plugin.data.transforms import Pixels, read_pixels, resize
from t2ireid_plugin.utils.atomic_io import atomic_write
from t2ireid_plugin.utils.fonts import Font, font_for, plain_font, printable, wrap
from t2ireid_plugin.visualization.ranked_lists import Hit, RankedList

Colour = tuple[int, int, int]

GREEN, RED, GREY = (34, 160, 70), (208, 48, 48), (120, 120, 120)
_INK, _FAINT, _RULE, _BLANK = (20, 20, 20), (95, 95, 95), (222, 222, 222), (240, 240, 240)
CELL_WIDTH, CELL_HEIGHT, FRAME, GAP, MARGIN = 88, 176, 4, 8, 16
APART = 24  # what sets the query, and the right answer of a list without one, apart from the list
_LINE, _SMALL_LINE = 21, 18
_TEXT, _SMALL, _TINY = 15, 12, 11  # sizes of letters; rank 10,000 and its score just fit below a photo
_TEXT_CELLS = 10  # as wide as so many photos are lists of texts, and lines of which there is nothing else
_MOST_LETTERS = 2000  # of a text

Line = tuple[str, Colour, Font, int]  # text, colour, font and height


def draw_ranked_lists(lists: Sequence[RankedList], path: str | Path, heading: str = "") -> None:
    """A PNG with one row a list, written over ``path``: query, its photo (grey), answers framed green or red.

    A list without a right answer is followed, a little apart, by the first one that comes after it.

    Raises:
        DataError: when a photo cannot be read or the picture cannot be written.
    """
    width = max([_width(item) for item in lists], default=_photos_width(1 + _TEXT_CELLS))
    rows = [_draw_row(item, width) for item in lists]
    if heading:
        title = Image.new("RGB", (width, MARGIN + _LINE + GAP), "white")
        ImageDraw.Draw(title).text((MARGIN, MARGIN), heading, _INK, plain_font(_TEXT + 2))
        rows.insert(0, title)
    picture = _stack(rows)
    atomic_write(Path(path), lambda draft: picture.save(draft))


def draw_failures(lists: Sequence[RankedList], path: str | Path) -> None:
    """A PNG of the lists of `worst_failures`, drawn as by `draw_ranked_lists`.

    Raises:
        DataError: when a photo cannot be read or the picture cannot be written.
    """
    draw_ranked_lists(lists, path, describe_failures(lists))


def write_pictures(folder: Path, lists: Sequence[RankedList]) -> list[Path]:
    """A PNG for each list in a folder that exists, named by `picture_name`.

    Raises:
        DataError: when a photo cannot be read or a picture cannot be written.
    """
    paths = [folder / picture_name(item.number, item.pid) for item in lists]
    for item, path in zip(lists, paths):
        draw_ranked_lists([item], path)
    return paths


def picture_name(number: int, pid: int) -> str:
    """``000123_pid0042.png``, by the number of a query, which is its own, and its person."""
    return f"{number:06d}_pid{pid:04d}.png"


def describe_failures(lists: Sequence[RankedList]) -> str:
    """What a sheet of failures shows, or that there is none."""
    return "Worst failures: queries whose first right answer comes last" if lists else "No query failed"


def describe_list(item: RankedList) -> str:
    """Which query it is and where its first right answer is, in words."""
    where = "the gallery has nothing of this person"
    if item.first is not None:
        photo = item.first.answer.photo
        where = f"first right answer at rank {item.first.rank}" + (f": {short(photo)}" if photo else "")
    return f"query {item.number} · person {item.pid} · {where}"


def label_of(item: RankedList) -> str:
    """What the photo beside a list is to it."""
    return "query" if item.query.photo_seen else "described"


def beyond(item: RankedList) -> Hit | None:
    """The first right answer, if the list ends before it."""
    return item.first if item.first and item.first.rank > len(item.hits) else None


def mark(hit: Hit) -> str:
    """Sign and rank; the sign says the same as the colours, which not everybody can tell apart."""
    return f"{'✓' if hit.correct else '✗'} {hit.rank}"


def score(hit: Hit) -> str:
    """The similarity in three digits."""
    return f"{hit.score:.3f}".replace("-", "−")


def short(path: str) -> str:
    """A file and its folder."""
    return "/".join(Path(path).parts[-2:])


def fit(path: str | Path, width: int, height: int) -> Pixels:
    """A photo ``[h, w, 3]``, undistorted, as large as ``width`` x ``height`` allows.

    Raises:
        DataError: when it cannot be read.
    """
    pixels = read_pixels(path)
    scale = min(width / pixels.shape[1], height / pixels.shape[0])
    return resize(pixels, max(1, round(scale * pixels.shape[0])), max(1, round(scale * pixels.shape[1])))


def _finds_texts(item: RankedList) -> bool:
    return any(not hit.answer.photo for hit in item.hits)


def _width(item: RankedList) -> int:
    if _finds_texts(item):
        return _photos_width(1 + _TEXT_CELLS)
    extra = beyond(item) is not None
    # A few cells would leave no room for the words.
    return _photos_width(max(1 + len(item.hits), 5)) + extra * (CELL_WIDTH + APART)


def _photos_width(cells: int) -> int:
    """Of the query's photo and the answers beside it."""
    return 2 * MARGIN + cells * (CELL_WIDTH + GAP) - GAP + APART - GAP


def _draw_row(item: RankedList, width: int) -> Image.Image:
    room = width - 2 * MARGIN
    lines = _lines(item.query.text, _INK, _TEXT, _LINE, room) if item.query.text.strip() else []
    lines += _lines(describe_list(item), _FAINT, _SMALL, _SMALL_LINE, room)
    top = 2 * GAP + _height(lines)
    draw_answers, height = (_draw_texts, _texts_height(item, width)) if _finds_texts(item) else (_draw_photos, 0)
    canvas = Image.new("RGB", (width, top + max(CELL_HEIGHT, height) + _SMALL_LINE + MARGIN), "white")
    _write(canvas, lines, MARGIN, GAP)
    canvas.paste(framed(item.query.photo, GREY), (MARGIN, top))
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, top + CELL_HEIGHT + 2), label_of(item), _FAINT, plain_font(_SMALL))
    draw_answers(canvas, item, top)
    return canvas


def _draw_photos(canvas: Image.Image, item: RankedList, top: int) -> None:
    x = MARGIN + CELL_WIDTH + APART
    for hit in item.hits:
        _draw_hit(canvas, hit, x, top)
        x += CELL_WIDTH + GAP
    if (extra := beyond(item)) is not None:
        middle = x + (APART - GAP) // 2, top + CELL_HEIGHT // 2
        ImageDraw.Draw(canvas).text(middle, "…", _FAINT, plain_font(_TEXT), anchor="mm")
        _draw_hit(canvas, extra, x - GAP + APART, top)


def _draw_hit(canvas: Image.Image, hit: Hit, x: int, top: int) -> None:
    colour = GREEN if hit.correct else RED
    canvas.paste(framed(hit.answer.photo, colour), (x, top))
    draw, bottom, font = ImageDraw.Draw(canvas), top + CELL_HEIGHT + 2, plain_font(_TINY)
    draw.text((x, bottom), mark(hit), colour, font)
    draw.text((x + CELL_WIDTH, bottom), score(hit), _INK, font, anchor="ra")


def _draw_texts(canvas: Image.Image, item: RankedList, top: int) -> None:
    """The texts found below each other, each in a frame with its rank and score to the left."""
    x, y = MARGIN + CELL_WIDTH + APART, top
    draw, font = ImageDraw.Draw(canvas), plain_font(_TINY)
    for hit in _text_hits(item):
        lines = _answer_lines(hit, canvas.width)
        colour, bottom = GREEN if hit.correct else RED, y + _height(lines) + GAP
        draw.rectangle((x, y, canvas.width - MARGIN - 1, bottom - 1), "white", colour, FRAME // 2)
        draw.text((x + GAP, y + GAP // 2 + 1), mark(hit), colour, font)
        draw.text((x + CELL_WIDTH, y + GAP // 2 + 1), score(hit), _INK, font, anchor="ra")
        _write(canvas, lines, x + CELL_WIDTH + GAP, y + GAP // 2)
        y = bottom + GAP // 2


def _texts_height(item: RankedList, width: int) -> int:
    return sum(_height(_answer_lines(hit, width)) + GAP + GAP // 2 for hit in _text_hits(item))


def _text_hits(item: RankedList) -> list[Hit]:
    extra = beyond(item)
    return [*item.hits, *([] if extra is None else [extra])]


def _answer_lines(hit: Hit, width: int) -> list[Line]:
    room = width - 2 * MARGIN - 2 * CELL_WIDTH - APART - 2 * GAP
    return _lines(hit.answer.text, _INK, _SMALL + 1, _SMALL_LINE, room)


def _lines(text: str, colour: Colour, size: int, height: int, room: float) -> list[Line]:
    text = printable(text)
    if len(text) > _MOST_LETTERS:
        text = f"{text[:_MOST_LETTERS]} …"
    font = font_for(text, size)
    return [(line, colour, font, height) for line in wrap(text, font, room)]


def _height(lines: Sequence[Line]) -> int:
    return sum(height for *_, height in lines)


def _write(canvas: Image.Image, lines: Sequence[Line], x: int, y: int) -> None:
    for text, colour, font, height in lines:
        ImageDraw.Draw(canvas).text((x, y), text, colour, font)
        y += height


def framed(path: str, colour: Colour) -> Image.Image:
    """A photo, whole and undistorted, in a frame of `CELL_WIDTH` x `CELL_HEIGHT`."""
    cell = Image.new("RGB", (CELL_WIDTH, CELL_HEIGHT), colour)
    width, height = CELL_WIDTH - 2 * FRAME, CELL_HEIGHT - 2 * FRAME
    cell.paste(_BLANK, (FRAME, FRAME, FRAME + width, FRAME + height))
    photo = Image.fromarray(fit(path, width, height))
    cell.paste(photo, ((CELL_WIDTH - photo.width) // 2, (CELL_HEIGHT - photo.height) // 2))
    return cell


def _stack(rows: Sequence[Image.Image]) -> Image.Image:
    """The rows below each other, a thin line between two."""
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    y = 0
    for row in rows:
        sheet.paste(row, (0, y))
        if y:
            ImageDraw.Draw(sheet).line((MARGIN, y, sheet.width - MARGIN, y), _RULE)
        y += row.height
    return sheet
