"""A picture of a sample of the photos with their captions below, those with a problem first."""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFile, ImageFont, ImageOps

from t2ireid_plugin.prepare.check.images import is_tiny
from t2ireid_plugin.prepare.check.report import CheckReport
from t2ireid_plugin.prepare.check.rows import Row
from t2ireid_plugin.utils.atomic_io import atomic_write
from t2ireid_plugin.utils.fonts import NO_CHINESE, Font, chinese_font, has_chinese, plain_font, printable, wrap

COLUMNS, TILE_WIDTH, PHOTO_HEIGHT, MARGIN = 6, 200, 200, 12
_LINE, _BASELINE, _MOST_LINES = 16, 12, 12
_MOST_LETTERS = 2000  # more than any tile shows
_BACKGROUND, _TILE, _INK, _FAINT, _RED = "#eceef1", "#ffffff", "#22262b", "#80868e", "#c62828"
_MOST_PIXELS = 50_000_000


class _Tile(NamedTuple):
    photo: Image.Image
    head: str
    problem: str
    captions: tuple[str, ...]


class _Fonts(NamedTuple):
    plain: Font
    small: Font
    chinese: Font | None

    def of(self, text: str) -> Font:
        """The font that a text is drawn in."""
        return self.chinese if self.chinese is not None and has_chinese(text) else self.plain


def write_sheet(
    report: CheckReport, path: Path, *, photos: int = 36, seed: int = 0, font: str | None = None
) -> str | None:
    """Draws the sheet; up to half of its photos are ones with a problem, the others a sample drawn by ``seed``.

    Args:
        report: what to draw of.
        path: picture file to write.
        photos: how many.
        seed: the same seed draws the same photos.
        font: file of a font for Chinese; without one the system's fonts are searched, and without any of these there
            are boxes in place of Chinese letters, and a line in the picture that says so.

    Returns:
        What to tell the user: why Chinese is not readable, or that no photo could be drawn and nothing was written.

    Raises:
        DataError: when the font cannot be loaded or the picture not be written.
    """
    fonts = _Fonts(plain_font(12), plain_font(11), chinese_font(13, font))
    tiles = _tiles(report, photos, random.Random(seed))
    if not tiles:
        path.unlink(missing_ok=True)  # that of an earlier check would mislead
        return "no photo could be drawn"
    chinese = any(has_chinese(caption) for tile in tiles for caption in tile.captions)
    note = f"{NO_CHINESE}, or name one with --font FILE" if chinese and fonts.chinese is None else ""
    title = f"{report.spec.name}: {len(tiles)} of {len(report.facts):,} photos, those with a problem first"
    sheet = _draw(tiles, title, note, fonts)
    atomic_write(path, lambda draft: sheet.save(draft, quality=92))
    return note or None


def _tiles(report: CheckReport, photos: int, source: random.Random) -> list[_Tile]:
    """Problems first, then the sample; what cannot be drawn is left out and replaced by the next one."""
    rows: dict[str, Row] = {}
    for row in report.rows:
        if row.path in report.facts:
            rows.setdefault(row.path, row)
    problems = _problems(report)
    troubled, good = [path for path in rows if path in problems], [path for path in rows if path not in problems]
    source.shuffle(troubled)
    source.shuffle(good)

    def drawn(paths: Sequence[str], most: int) -> list[_Tile]:
        tiles = (_tile(report.images / path, rows[path], problems.get(path, "")) for path in paths)
        return list(itertools.islice((tile for tile in tiles if tile is not None), most))

    first = drawn(troubled, photos if not good else max(photos // 2, photos - len(good)))
    return first + drawn(good, photos - len(first))


def _problems(report: CheckReport) -> dict[str, str]:
    """What is wrong with an image, in words, by path. Those that no decoder came back from are never opened here."""
    labels = {
        "image_extension": "other format",
        "image_contradicted": "contradicted",
        "file_contradicted": "contradicted",
    }
    found = {
        example.path: label
        for kind, label in labels.items()
        if (finding := report.finding(kind)) is not None
        for example in finding.examples
    }
    for path, fact in report.facts.items():
        if fact.problem:
            found[path] = fact.problem.removeprefix("image_")
        elif is_tiny(fact):
            found[path] = f"tiny: {fact.width} x {fact.height}"
    return found


def _tile(path: Path, row: Row, problem: str) -> _Tile | None:
    photo = None if problem == "lost" else _open(path)
    if photo is None:
        return None
    head = " · ".join(part for part in (f"row {row.number}", f"id {row.pid}", row.split or "") if part)
    return _Tile(photo, head, problem, row.captions)


def _open(path: Path) -> Image.Image | None:
    """The photo at the size of a tile, of a truncated one what is there; None when there is nothing to draw."""
    usual = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")  # of damaged metadata
            if image.width * image.height > _MOST_PIXELS:
                return None
            photo = ImageOps.exif_transpose(image).convert("RGB")
    except Exception:  # Pillow raises many kinds for damaged files
        return None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = usual
    scale = min(TILE_WIDTH / photo.width, PHOTO_HEIGHT / photo.height)
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    return photo.resize(size, Image.Resampling.LANCZOS if scale < 4 else Image.Resampling.NEAREST)


def _draw(tiles: Sequence[_Tile], title: str, note: str, fonts: _Fonts) -> Image.Image:
    inner = TILE_WIDTH - 2 * MARGIN
    texts = [_wrap_all(tile.captions, fonts, inner) for tile in tiles]
    columns = min(COLUMNS, len(tiles))
    bands = [texts[start : start + columns] for start in range(0, len(tiles), columns)]
    # Each band is as high as its longest text needs.
    heights = [PHOTO_HEIGHT + 2 * _LINE + _LINE * max(map(len, band)) + MARGIN for band in bands]
    top = MARGIN + _LINE * (2 if note else 1) + MARGIN
    width = max(columns * (TILE_WIDTH + MARGIN) + MARGIN, 520)  # for the title
    sheet = Image.new("RGB", (width, top + sum(heights) + MARGIN * len(heights)), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (MARGIN, MARGIN), title, _INK, fonts.plain)
    _write(draw, (MARGIN, MARGIN + _LINE), note, _RED, fonts.plain)
    for number, tile in enumerate(tiles):
        band, column = divmod(number, columns)
        x, y = MARGIN + column * (TILE_WIDTH + MARGIN), top + sum(heights[:band]) + MARGIN * band
        draw.rectangle((x, y, x + TILE_WIDTH - 1, y + heights[band] - 1), fill=_TILE)
        sheet.paste(tile.photo, (x + (TILE_WIDTH - tile.photo.width) // 2, y + (PHOTO_HEIGHT - tile.photo.height) // 2))
        _tag(draw, (x, y), tile.problem, fonts.small)
        y += PHOTO_HEIGHT + _LINE // 2
        _write(draw, (x + MARGIN, y), tile.head, _FAINT, fonts.small)
        for line in texts[number]:
            y += _LINE
            _write(draw, (x + MARGIN, y), line, _INK, fonts.of(line))
    return sheet


def _tag(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, font: Font) -> None:
    """A label over the corner of a tile."""
    if text:
        draw.rectangle((*at, at[0] + font.getlength(printable(text)) + 11, at[1] + _LINE + 3), fill=_RED)
        _write(draw, (at[0] + 6, at[1] + 2), text, _TILE, font)


def _write(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, fill: str, font: Font) -> None:
    """A line of text; all fonts stand on the same line."""
    ascent = font.getmetrics()[0] if isinstance(font, ImageFont.FreeTypeFont) else _BASELINE
    draw.text((at[0], at[1] + _BASELINE - ascent), printable(text), fill=fill, font=font)


def _wrap_all(captions: Sequence[str], fonts: _Fonts, width: int) -> list[str]:
    """The lines of all captions, an empty one between two; ends in ``…`` when there are too many."""
    lines: list[str] = []
    for caption in captions:
        lines += [""] * bool(lines) + wrap(caption[:_MOST_LETTERS], fonts.of(caption), width)
        if len(lines) > _MOST_LINES:
            return [*lines[: _MOST_LINES - 1], lines[_MOST_LINES - 1] + " …"]
    return lines
