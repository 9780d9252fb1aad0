"""Hits as a picture or as a page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from t2ireid_plugin.data.images import Pixels
from t2ireid_plugin.errors import ConfigError, DataError
from t2ireid_plugin.search.hits import Hit, Hits
from t2ireid_plugin.search.photos import read_photo
from t2ireid_plugin.utils.atomic_io import atomic_write, atomic_write_text
from t2ireid_plugin.utils.language import say
from t2ireid_plugin.visualization.drawing import Cell, draw_cells, fit
from t2ireid_plugin.visualization.html import escape_line, image, page

_NOTE = "Candidates for a person to check, most similar first; scores are similarities, not probabilities."
_HEIGHT, _WIDTH, _QUALITY = 160, 72, 85  # of a thumbnail
_MISSING = np.full((2, 1, 3), 240, np.uint8)


def draw_hits(hits: Hits, path: Path) -> None:
    """See `Hits.draw`."""
    suffix = path.suffix.lower()
    if suffix not in (".html", ".htm", *Image.registered_extensions()):
        raise ConfigError(f"'{path}' is neither a page nor a picture; give a name that ends in .html or .png")
    counts = "{count:,} hits from {searched:,} of {total:,} rows."
    note = f"{say(counts, count=len(hits), searched=hits.searched, total=hits.total)} {say(_NOTE)}"
    cells, problems = [], []
    for number, hit in enumerate(hits, start=1):
        try:
            pixels = read_person(hit)
        except DataError as error:
            pixels = _MISSING
            problems.append(error)
        cells.append(Cell(pixels, f"{number} · {hit.score:.3f}", _origin(hit)))
    if problems and len(problems) == len(cells):
        raise DataError(f"{problems[0]}; if the photos have moved, give their folder as root (--root)")
    if suffix in (".html", ".htm"):
        atomic_write_text(path, _page(hits, note, cells))
    else:
        sheet = draw_cells(hits.query, note, cells)
        atomic_write(path, lambda draft: sheet.save(draft))


def read_person(hit: Hit) -> Pixels:
    """The person of a hit ``[H, W, 3]``: the stored crop, or the part of the photo in its box.

    Raises:
        DataError: when the photo cannot be read.
    """
    if hit.crop:
        return np.array(Image.open(io.BytesIO(hit.crop)).convert("RGB"))
    pixels = read_photo(hit.path)
    if hit.box is None:
        return pixels
    left, top, right, bottom = (max(0, round(edge)) for edge in hit.box)
    return pixels[top:bottom, left:right]


def _origin(hit: Hit) -> str:
    """Camera and time, or the file's name."""
    time = hit.time.astimezone().strftime("%m-%d %H:%M:%S") if hit.time else ""
    return " ".join(filter(None, (hit.camera, time))) or Path(hit.path).name


def _page(hits: Hits, note: str, cells: Sequence[Cell]) -> str:
    figures = []
    for hit, (pixels, label, detail) in zip(hits, cells):
        stream = io.BytesIO()
        Image.fromarray(fit(pixels, _WIDTH, _HEIGHT)).save(stream, "JPEG", quality=_QUALITY)
        picture, caption = image(stream.getvalue(), hit.path), f"{label}<br>{escape_line(detail)}"
        figures.append(
            f'<figure class="query"><div>{picture}</div><figcaption><span>{caption}</span></figcaption></figure>'
        )
    title = hits.query or say("Search")
    heading = f'<h1>{escape_line(title)}</h1><p class="faint">{escape_line(note)}</p>'
    return page(title, f'{heading}\n<div class="photos">{"".join(figures)}</div>')
