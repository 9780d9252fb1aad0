"""Ranked lists as pictures: each query with its results, framed green for matches and red for others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, ImageDraw, ImageOps

from t2ireid_plugin.data.images import Pixels, read_pixels, resize
from t2ireid_plugin.utils.atomic_io import atomic_write
from t2ireid_plugin.utils.fonts import font_for, plain_font, printable, wrap
from t2ireid_plugin.utils.language import say

if TYPE_CHECKING:
    from t2ireid_plugin.visualization.ranked_lists import Hit, RankedList  # which imports PyTorch

Colour = tuple[int, int, int]

GREEN, RED, GREY = (34, 160, 70), (208, 48, 48), (120, 120, 120)
_INK, _FAINT, _RULE, _BLANK = (20, 20, 20), (95, 95, 95), (222, 222, 222), (240, 240, 240)
CELL_WIDTH, CELL_HEIGHT, FRAME, GAP, MARGIN = 88, 176, 4, 8, 16
APART = 24  # space around the list, next to the query and to a match beyond the list
_LABEL = 18  # height of the labels under the photos
_TEXT, _SMALL, _TINY = 15, 12, 11  # font sizes; rank 10,000 and its score just fit below a photo
_WIDTH = 2 * MARGIN + 12 * CELL_WIDTH + 9 * GAP + 2 * APART  # the query, ten hits, and a match beyond them
_MAX_LETTERS = 2000  # of a text
_COLUMNS = 10  # of a sheet of photos


class Cell(NamedTuple):
    """A photo of a sheet with two lines below it, of about 16 letters each."""

    pixels: Pixels  # [H, W, 3]
    label: str
    detail: str


def draw_ranked_lists(lists: Sequence[RankedList], path: str | Path, heading: str = "") -> None:
    """Writes a PNG with one row per list: the query's text, its photo (grey), and the hits framed green or red.

    A list without a match is followed by the first match beyond it, set apart.

    Raises:
        DataError: when a photo cannot be read or the picture cannot be written.
    """
    rows = [_draw_row(item) for item in lists]
    if heading:
        title = _text_block(heading, _INK, _TEXT + 2, _WIDTH - 2 * MARGIN)
        rows.insert(0, ImageOps.expand(title, (MARGIN, MARGIN, MARGIN, GAP), "white"))
    sheet = Image.new("RGB", (_WIDTH, sum(row.height for row in rows)), "white")
    y = 0
    for row in rows:
        sheet.paste(row, (0, y))
        if y:
            ImageDraw.Draw(sheet).line((MARGIN, y, _WIDTH - MARGIN, y), _RULE)
        y += row.height
    atomic_write(Path(path), lambda draft: sheet.save(draft))


def draw_cells(title: str, note: str, cells: Sequence[Cell]) -> Image.Image:
    """A sheet of photos in rows of ten below a title and a note."""
    room = _WIDTH - 2 * MARGIN
    blocks = [_text_block(title, _INK, _TEXT, room)] if title.strip() else []
    blocks.append(_text_block(note, _FAINT, _SMALL, room))
    top = 2 * GAP + sum(block.height for block in blocks)
    height = CELL_HEIGHT + 2 * _LABEL + GAP
    canvas = Image.new("RGB", (_WIDTH, top + MARGIN + height * -(-len(cells) // _COLUMNS)), "white")
    y = GAP
    for block in blocks:
        canvas.paste(block, (MARGIN, y))
        y += block.height
    draw, font, step = ImageDraw.Draw(canvas), plain_font(_TINY), (room - CELL_WIDTH) // (_COLUMNS - 1)
    for number, (pixels, label, detail) in enumerate(cells):
        row, column = divmod(number, _COLUMNS)
        x, y = MARGIN + column * step, top + row * height
        canvas.paste(_framed(pixels, GREY), (x, y))
        draw.text((x, y + CELL_HEIGHT + 2), label, _INK, font)
        draw.text((x, y + CELL_HEIGHT + _LABEL - 2), printable(detail), _FAINT, font)
    return canvas


def picture_name(number: int, pid: int) -> str:
    """File name for a query by its number and person, ``000123_pid0042.png``."""
    return f"{number:06d}_pid{pid:04d}.png"


def describe_failures(lists: Sequence[RankedList]) -> str:
    """Heading of a sheet of failures."""
    if not lists:
        return say("No query failed")
    return say("Worst failures: queries whose first match ranks lowest, one per person")


def describe_list(item: RankedList) -> str:
    """One line with the query's number, its person and the rank of its first match."""
    where = say("no match in the gallery")
    if item.first is not None:
        where = say("first match at rank {rank}", rank=item.first.rank)
        where += f": {short_path(item.first.photo)}" if item.first.photo else ""
    return say("query {number} · person {pid} · {where}", number=item.number, pid=item.pid, where=where)


def photo_label(item: RankedList) -> str:
    """Label of the photo beside a list: the query itself, or the photo that the query's text describes."""
    return say("query") if item.photo_seen else say("described")


def mark(hit: Hit) -> str:
    """Sign and rank; the sign repeats the colour for readers who cannot distinguish red and green."""
    return f"{'✓' if hit.correct else '✗'} {hit.rank}"


def format_score(hit: Hit) -> str:
    """The similarity with three digits."""
    return f"{hit.score:.3f}".replace("-", "−")


def short_path(path: str) -> str:
    """The last folder and the file name of a path."""
    return "/".join(Path(path).parts[-2:])


def fit(photo: str | Path | Pixels, width: int, height: int) -> Pixels:
    """A photo ``[h, w, 3]``, undistorted, as large as ``width`` x ``height`` allows.

    Raises:
        DataError: when it cannot be read.
    """
    pixels = read_pixels(photo) if isinstance(photo, (str, Path)) else photo
    scale = min(width / pixels.shape[1], height / pixels.shape[0])
    return resize(pixels, max(1, round(scale * pixels.shape[0])), max(1, round(scale * pixels.shape[1])))


def _draw_row(item: RankedList) -> Image.Image:
    room = _WIDTH - 2 * MARGIN
    blocks = [_text_block(item.text, _INK, _TEXT, room)] if item.text.strip() else []
    blocks.append(_text_block(describe_list(item), _FAINT, _SMALL, room))
    beside = room - 2 * CELL_WIDTH - APART - 2 * GAP
    retrieved = [hit for hit in item.hits + item.beyond if not hit.photo]
    texts = [(hit, _text_block(hit.text, _INK, _SMALL + 1, beside)) for hit in retrieved]
    top = 2 * GAP + sum(block.height for block in blocks)
    height = sum(block.height + GAP + GAP // 2 for _, block in texts)
    canvas = Image.new("RGB", (_WIDTH, top + max(CELL_HEIGHT, height) + _LABEL + MARGIN), "white")
    y = GAP
    for block in blocks:
        canvas.paste(block, (MARGIN, y))
        y += block.height
    canvas.paste(_framed(item.photo, GREY), (MARGIN, top))
    label = photo_label(item)
    ImageDraw.Draw(canvas).text((MARGIN, top + CELL_HEIGHT + 2), label, _FAINT, font_for(label, _SMALL))
    if texts:
        _draw_texts(canvas, texts, top)
    else:
        _draw_photos(canvas, item, top)
    return canvas


def _draw_photos(canvas: Image.Image, item: RankedList, top: int) -> None:
    x = MARGIN + CELL_WIDTH + APART
    for hit in (*item.hits, *item.beyond):
        if hit.rank > len(item.hits):  # beyond the list
            middle = x + (APART - GAP) // 2, top + CELL_HEIGHT // 2
            ImageDraw.Draw(canvas).text(middle, "…", _FAINT, plain_font(_TEXT), anchor="mm")
            x += APART - GAP
        colour = GREEN if hit.correct else RED
        canvas.paste(_framed(hit.photo, colour), (x, top))
        _draw_rank(canvas, hit, colour, (x, x + CELL_WIDTH), top + CELL_HEIGHT + 2)
        x += CELL_WIDTH + GAP


def _draw_rank(canvas: Image.Image, hit: Hit, colour: Colour, x: tuple[int, int], y: int) -> None:
    """Mark and rank at the left end ``x[0]``, score at the right end ``x[1]``."""
    draw, font = ImageDraw.Draw(canvas), plain_font(_TINY)
    draw.text((x[0], y), mark(hit), colour, font)
    draw.text((x[1], y), format_score(hit), _INK, font, anchor="ra")


def _draw_texts(canvas: Image.Image, texts: Sequence[tuple[Hit, Image.Image]], top: int) -> None:
    """The retrieved texts below each other, each in a frame with its rank and score to the left."""
    x, y = MARGIN + CELL_WIDTH + APART, top
    for hit, block in texts:
        colour, bottom = GREEN if hit.correct else RED, y + block.height + GAP
        frame = (x, y, canvas.width - MARGIN - 1, bottom - 1)
        ImageDraw.Draw(canvas).rectangle(frame, "white", colour, FRAME // 2)
        _draw_rank(canvas, hit, colour, (x + GAP, x + CELL_WIDTH), y + GAP // 2 + 1)
        canvas.paste(block, (x + CELL_WIDTH + GAP, y + GAP // 2))
        y = bottom + GAP // 2


def _text_block(text: str, colour: Colour, size: int, width: int) -> Image.Image:
    """A picture of the text in lines of ``width`` pixels."""
    text = printable(text)
    if len(text) > _MAX_LETTERS:
        text = f"{text[:_MAX_LETTERS]} …"
    font, height = font_for(text, size), round(1.4 * size)
    lines = wrap(text, font, width)
    block = Image.new("RGB", (width, height * len(lines)), "white")
    for number, line in enumerate(lines):
        ImageDraw.Draw(block).text((0, number * height), line, colour, font)
    return block


def _framed(path: str | Pixels, colour: Colour) -> Image.Image:
    """A photo, whole and undistorted, in a frame of `CELL_WIDTH` x `CELL_HEIGHT`."""
    cell = Image.new("RGB", (CELL_WIDTH, CELL_HEIGHT), colour)
    width, height = CELL_WIDTH - 2 * FRAME, CELL_HEIGHT - 2 * FRAME
    cell.paste(_BLANK, (FRAME, FRAME, FRAME + width, FRAME + height))
    photo = Image.fromarray(fit(path, width, height))
    cell.paste(photo, ((CELL_WIDTH - photo.width) // 2, (CELL_HEIGHT - photo.height) // 2))
    return cell
