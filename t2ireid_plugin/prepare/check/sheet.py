"""Draws a sheet of photos with their captions, those with a problem first."""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFile, ImageOps

from t2ireid_plugin.data.images import on_white
from t2ireid_plugin.prepare.check.report import CheckReport
from t2ireid_plugin.prepare.check.rows import Row
from t2ireid_plugin.utils.atomic_io import atomic_write
from t2ireid_plugin.utils.fonts import NO_CHINESE, Font, chinese_font, has_chinese, plain_font, wrap

# Sizes in pixels.
COLUMNS, TILE_WIDTH, PHOTO_HEIGHT, MARGIN = 6, 200, 200, 12
_LINE, _TEXT, _SMALL = 16, 12, 11  # height of a line, font sizes
_MAX_LINES, _MAX_LETTERS = 12, 2000  # of a tile's captions, of one caption
_BACKGROUND, _TILE, _INK, _FAINT, _RED = "#eceef1", "#ffffff", "#22262b", "#80868e", "#c62828"
# Problems of images that are not in `ImageFacts`.
_PROBLEMS = ("image_extension", "image_contradicted", "file_contradicted")


class _Tile(NamedTuple):
    photo: Image.Image
    row: Row
    problem: str


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
    chinese = chinese_font(_TEXT + 1, font)
    tiles = _tiles(report, photos, random.Random(seed))
    if not tiles:
        path.unlink(missing_ok=True)  # a sheet of an earlier check would mislead
        return "no photo could be drawn"
    boxes = chinese is None and any(has_chinese(caption) for tile in tiles for caption in tile.row.captions)
    hint = f"{NO_CHINESE}, or name one with --font FILE" if boxes else ""
    title = f"{report.spec.name}: {len(tiles)} of {len(report.facts):,} photos, those with a problem first"
    sheet = _draw([_draw_tile(tile, chinese) for tile in tiles], title, hint)
    atomic_write(path, lambda draft: sheet.save(draft, quality=92))
    return hint or None


def _tiles(report: CheckReport, photos: int, source: random.Random) -> list[_Tile]:
    """Photos with problems, then a sample of the others; a photo that cannot be drawn is replaced by the next one."""
    first_rows = {row.path: row for row in reversed(report.rows)}
    rows = {path: first_rows[path] for path, fact in report.facts.items() if fact.digest}  # a pipe is never read
    problems = _problems(report)
    bad, good = [path for path in rows if path in problems], [path for path in rows if path not in problems]
    source.shuffle(bad)
    source.shuffle(good)

    def read(paths: Sequence[str], limit: int) -> list[_Tile]:
        pictures = ((path, _open(report.images / path)) for path in paths)
        tiles = (_Tile(photo, rows[path], problems.get(path, "")) for path, photo in pictures if photo is not None)
        return list(itertools.islice(tiles, limit))

    first = read(bad, photos if not good else max(photos // 2, photos - len(good)))
    return first + read(good, photos - len(first))


def _problems(report: CheckReport) -> dict[str, str]:
    """A short description of the problem of each bad image, by path."""
    findings = [finding for finding in report.findings if finding.kind in _PROBLEMS]
    problems = {example.path: finding.kind.partition("_")[2] for finding in findings for example in finding.examples}
    for path, fact in report.facts.items():
        if fact.problem:
            problems[path] = fact.problem.removeprefix("image_")
        elif fact.is_tiny:
            problems[path] = f"tiny: {fact.width} x {fact.height}"
    return problems


def _open(path: Path) -> Image.Image | None:
    """The photo at the size of a tile, as far as a truncated file goes; None if it cannot be decoded at all."""
    default = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")  # about damaged metadata
            return ImageOps.contain(on_white(ImageOps.exif_transpose(image)), (TILE_WIDTH, PHOTO_HEIGHT))
    except Exception:  # Pillow raises errors of many types for damaged files
        return None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = default


def _draw_tile(tile: _Tile, chinese: Font | None) -> Image.Image:
    """The photo, its problem in the corner, and its row's number, identity, split and captions below."""
    row, photo, small = tile.row, tile.photo, plain_font(_SMALL)
    head = " · ".join(part for part in (f"row {row.number}", f"id {row.pid}", row.split or "") if part)
    lines = _wrap_all(row.captions, chinese)
    picture = Image.new("RGB", (TILE_WIDTH, PHOTO_HEIGHT + _LINE * (2 + len(lines)) + MARGIN), _TILE)
    picture.paste(photo, ((TILE_WIDTH - photo.width) // 2, (PHOTO_HEIGHT - photo.height) // 2))
    draw = ImageDraw.Draw(picture)
    if tile.problem:
        draw.rectangle((0, 0, small.getlength(tile.problem) + 11, _LINE + 3), _RED)
        draw.text((6, 2), tile.problem, _TILE, small)
    y = PHOTO_HEIGHT + _LINE + MARGIN // 2
    draw.text((MARGIN, y), head, _FAINT, small, anchor="ls")
    for line, font in lines:
        y += _LINE
        draw.text((MARGIN, y), line, _INK, font, anchor="ls")
    return picture


def _wrap_all(captions: Sequence[str], chinese: Font | None) -> list[tuple[str, Font]]:
    """The lines of all captions and their fonts, with an empty line between captions; too many lines end in ``…``."""
    lines: list[tuple[str, Font]] = []
    for caption in captions:
        font = chinese if chinese is not None and has_chinese(caption) else plain_font(_TEXT)
        texts = [""] * bool(lines) + wrap(caption[:_MAX_LETTERS], font, TILE_WIDTH - 2 * MARGIN)
        lines += [(text, font) for text in texts]
        if len(lines) > _MAX_LINES:
            text, font = lines[_MAX_LINES - 1]
            return [*lines[: _MAX_LINES - 1], (f"{text} …", font)]
    return lines


def _draw(tiles: Sequence[Image.Image], title: str, hint: str) -> Image.Image:
    columns = min(COLUMNS, len(tiles))
    heights = [max(tile.height for tile in tiles[i : i + columns]) + MARGIN for i in range(0, len(tiles), columns)]
    top = 2 * MARGIN + _LINE * (2 if hint else 1)
    width = max(columns * (TILE_WIDTH + MARGIN) + MARGIN, 520)  # at least that of the title
    sheet = Image.new("RGB", (width, top + sum(heights)), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, _INK, plain_font(_TEXT))
    draw.text((MARGIN, MARGIN + _LINE), hint, _RED, plain_font(_TEXT))
    for number, tile in enumerate(tiles):
        band, column = divmod(number, columns)
        sheet.paste(tile, (MARGIN + column * (TILE_WIDTH + MARGIN), top + sum(heights[:band])))
    return sheet
