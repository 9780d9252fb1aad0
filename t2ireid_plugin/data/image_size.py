"""How many pixels an image file claims to have, before a decoder believes it."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable

from PIL import BmpImagePlugin, ImageFile, TiffImagePlugin, WebPImagePlugin

# A camera's photo, not a person's crop, of 100 megapixels takes 300 MB decoded.
MOST_PIXELS = 100_000_000
# Progressive JPEGs have some ten scans; each is another pass over all pixels.
_MOST_SCANS = 100
# By first bytes; `PIL.Image.open` would refuse large ones without telling their size.
_READERS: dict[bytes, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    b"BM": BmpImagePlugin.BmpImageFile,
    b"RIFF": WebPImagePlugin.WebPImageFile,
    b"II*\x00": TiffImagePlugin.TiffImageFile,
    b"MM\x00*": TiffImagePlugin.TiffImageFile,
}
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))


def size_problem(data: bytes) -> str:
    """What makes an image file one not to decode, empty for nothing.

    Decoders allocate what the header claims, and a file of a hundred bytes can claim 40 GB. OpenCV itself stops at
    2**30 pixels, which are 3 GB.
    """
    size = claimed_size(data)
    if size is None:
        return "no image, or a damaged one"
    width, height = size
    if width * height > MOST_PIXELS:
        return f"it claims {width} x {height} pixels, more than the {MOST_PIXELS:,} taken"
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > _MOST_SCANS:
        return f"it has more than {_MOST_SCANS} scans, which would take a decoder minutes"
    return ""


def claimed_size(data: bytes) -> tuple[int, int] | None:
    """Width and height; by hand for the formats of the benchmarks, as Pillow needs half as long as decoding does."""
    if data.startswith(b"\xff\xd8"):
        return _jpeg_size(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR" and len(data) >= 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    reader = next((reader for start, reader in _READERS.items() if data.startswith(start)), None)
    if reader is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata
            with reader(io.BytesIO(data)) as image:
                return image.size
    except Exception:  # Pillow raises many kinds for damaged files
        return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    while found := _JPEG_MARKER.search(data, at):
        code, at = found[1][0], found.end()
        if code in _FRAMES:
            height, width = int.from_bytes(data[at + 3 : at + 5], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
            return width, height
        if code not in _WITHOUT_LENGTH:
            at += int.from_bytes(data[at : at + 2], "big")
    return None
