"""Draws a sheet of photos with their captions, those with a problem first."""

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

# Sizes in pixels.
COLUMNS, TILE_WIDTH, PHOTO_HEIGHT, MARGIN = 6, 200, 200, 12
_LINE, _BASELINE = 16, 12
_MAX_LINES, _MAX_LETTERS = 12, 2000  # of a tile's captions, of one caption
_BACKGROUND, _TILE, _INK, _FAINT, _RED = "#eceef1", "#ffffff", "#22262b", "#80868e", "#c62828"
# Short descriptions of findings that are not in `ImageFacts`.
_LABELS = {
    "image_extension": "other format",
    "image_contradicted": "contradicted",
    "file_contradicted": "contradicted",
}


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
        return self.chinese if self.chinese is not None and has_chinese(text) else self.plain


def write_sheet(
    report: CheckReport, path: Path, *, photos: int = 36, seed: int = 0, font: str | None = None
) -> str | None:
    """Draws the sheet. Up to half of its photos are ones with a problem, the others a random sample.

    Args:
        report: the checked dataset.
        path: picture file to write.
        photos: number of photos.
        seed: the same seed selects the same photos.
        font: font file for Chinese; by default one of the system's fonts. Without any the sheet shows boxes and a hint.

    Returns:
        A hint for the user: that a font for Chinese is missing, or that there was no photo to draw and no file.

    Raises:
        DataError: when the font cannot be loaded or the picture cannot be written.
    """
    fonts = _Fonts(plain_font(12), plain_font(11), chinese_font(13, font))
    tiles = _tiles(report, photos, random.Random(seed))
    if not tiles:
        path.unlink(missing_ok=True)  # a sheet of an earlier check would mislead
        return "no photo could be drawn"
    chinese = any(has_chinese(caption) for tile in tiles for caption in tile.captions)
    hint = f"{NO_CHINESE}, or name one with --font FILE" if chinese and fonts.chinese is None else ""
    title = f"{report.spec.name}: {len(tiles)} of {len(report.facts):,} photos, those with a problem first"
    sheet = _draw(tiles, title, hint, fonts)
    atomic_write(path, lambda draft: sheet.save(draft, quality=92))
    return hint or None


def _tiles(report: CheckReport, photos: int, source: random.Random) -> list[_Tile]:
    """Photos with problems, then a sample of the others; a photo that cannot be drawn is replaced by the next one."""
    rows: dict[str, Row] = {}
    for row in report.rows:
        if row.path in report.facts and report.facts[row.path].problem != "image_unreadable":
            rows.setdefault(row.path, row)
    problems = _problems(report)
    bad, good = [path for path in rows if path in problems], [path for path in rows if path not in problems]
    source.shuffle(bad)
    source.shuffle(good)

    def draw(paths: Sequence[str], limit: int) -> list[_Tile]:
        tiles = (_tile(report.images / path, rows[path], problems.get(path, "")) for path in paths)
        return list(itertools.islice((tile for tile in tiles if tile is not None), limit))

    first = draw(bad, photos if not good else max(photos // 2, photos - len(good)))
    return first + draw(good, photos - len(first))


def _problems(report: CheckReport) -> dict[str, str]:
    """A short description of the problem of each bad image, by path."""
    findings = ((report.finding(kind), label) for kind, label in _LABELS.items())
    problems = {example.path: label for finding, label in findings if finding for example in finding.examples}
    for path, fact in report.facts.items():
        if fact.problem:
            problems[path] = fact.problem.removeprefix("image_")
        elif is_tiny(fact):
            problems[path] = f"tiny: {fact.width} x {fact.height}"
    return problems


def _tile(path: Path, row: Row, problem: str) -> _Tile | None:
    photo = _open(path)
    if photo is None:
        return None
    head = " · ".join(part for part in (f"row {row.number}", f"id {row.pid}", row.split or "") if part)
    return _Tile(photo, head, problem, row.captions)


def _open(path: Path) -> Image.Image | None:
    """The photo at the size of a tile, as far as a truncated file goes; None if it cannot be decoded at all."""
    default = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")  # about damaged metadata
            photo = ImageOps.exif_transpose(image).convert("RGB")
    except Exception:  # Pillow raises errors of many types for damaged files
        return None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = default
    scale = min(TILE_WIDTH / photo.width, PHOTO_HEIGHT / photo.height)
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    return photo.resize(size, Image.Resampling.LANCZOS if scale < 4 else Image.Resampling.NEAREST)


def _draw(tiles: Sequence[_Tile], title: str, hint: str, fonts: _Fonts) -> Image.Image:
    texts = [_wrap_all(tile.captions, fonts, TILE_WIDTH - 2 * MARGIN) for tile in tiles]
    columns = min(COLUMNS, len(tiles))
    bands = [texts[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [PHOTO_HEIGHT + 2 * _LINE + _LINE * max(map(len, band)) + MARGIN for band in bands]
    top = MARGIN + _LINE * (2 if hint else 1) + MARGIN
    width = max(columns * (TILE_WIDTH + MARGIN) + MARGIN, 520)  # at least that of the title
    sheet = Image.new("RGB", (width, top + sum(heights) + MARGIN * len(heights)), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (MARGIN, MARGIN), title, _INK, fonts.plain)
    _write(draw, (MARGIN, MARGIN + _LINE), hint, _RED, fonts.plain)
    for number, tile in enumerate(tiles):
        band, column = divmod(number, columns)
        x, y = MARGIN + column * (TILE_WIDTH + MARGIN), top + sum(heights[:band]) + MARGIN * band
        draw.rectangle((x, y, x + TILE_WIDTH - 1, y + heights[band] - 1), fill=_TILE)
        sheet.paste(tile.photo, (x + (TILE_WIDTH - tile.photo.width) // 2, y + (PHOTO_HEIGHT - tile.photo.height) // 2))
        if tile.problem:
            text_width = fonts.small.getlength(printable(tile.problem))
            draw.rectangle((x, y, x + text_width + 11, y + _LINE + 3), fill=_RED)
            _write(draw, (x + 6, y + 2), tile.problem, _TILE, fonts.small)
        y += PHOTO_HEIGHT + _LINE // 2
        _write(draw, (x + MARGIN, y), tile.head, _FAINT, fonts.small)
        for line in texts[number]:
            y += _LINE
            _write(draw, (x + MARGIN, y), line, _INK, fonts.of(line))
    return sheet


def _write(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, fill: str, font: Font) -> None:
    """Draws a line of text with its baseline at the same height for all fonts."""
    ascent = font.getmetrics()[0] if isinstance(font, ImageFont.FreeTypeFont) else _BASELINE
    draw.text((at[0], at[1] + _BASELINE - ascent), printable(text), fill=fill, font=font)


def _wrap_all(captions: Sequence[str], fonts: _Fonts, width: int) -> list[str]:
    """The lines of all captions with an empty line between them; too many lines end in ``…``."""
    lines: list[str] = []
    for caption in captions:
        lines += [""] * bool(lines) + wrap(caption[:_MAX_LETTERS], fonts.of(caption), width)
        if len(lines) > _MAX_LINES:
            return [*lines[: _MAX_LINES - 1], lines[_MAX_LINES - 1] + " …"]
    return lines
