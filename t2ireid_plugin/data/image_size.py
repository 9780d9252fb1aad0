"""How many pixels an image file claims to have, before a decoder believes it."""

from __future__ import annotations

import re

# A camera's photo, not a person's crop; 100 megapixels take 300 MB decoded.
MOST_PIXELS = 100_000_000
# Progressive JPEGs have some ten scans; each is another pass over all pixels.
_MOST_SCANS = 100
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the markers that say the size
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257


def size_problem(data: bytes) -> str:
    """What makes an image file one not to decode, empty for nothing.

    Decoders allocate what the header claims, and a file of a hundred bytes can claim 40 GB. OpenCV itself stops at
    2**30 pixels, which are 3 GB.
    """
    size = claimed_size(data)
    if size is None:
        return "no image in JPEG, PNG, BMP, WebP or TIFF"
    width, height = size
    if width * height > MOST_PIXELS:
        return f"it claims {width} x {height} pixels, more than the {MOST_PIXELS:,} taken"
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > _MOST_SCANS:
        return f"it has more than {_MOST_SCANS} scans, which would take a decoder minutes"
    return ""


def claimed_size(data: bytes) -> tuple[int, int] | None:
    """Width and height as the header says, zeros where it is cut off; None for a format that is not taken.

    By hand, as Pillow takes half as long for it as decoding does, and refuses some files that OpenCV reads.
    """
    if data.startswith(b"\xff\xd8"):
        return _jpeg_size(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _big(data, 16, 4), _big(data, 20, 4)
    if data.startswith(b"BM"):
        if _little(data, 14, 4) == 12:  # the header of OS/2
            return _little(data, 18, 2), _little(data, 20, 2)
        return _little(data, 18, 4), abs(int.from_bytes(data[22:26], "little", signed=True))  # below 0 is upside down
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp_size(data)
    if data.startswith((b"II*\x00", b"MM\x00*")):
        return _tiff_size(data)
    return None


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    while found := _JPEG_MARKER.search(data, at):
        code, at = found[1][0], found.end()
        if code in _FRAMES:
            return _big(data, at + 5, 2), _big(data, at + 3, 2)
        if code not in _WITHOUT_LENGTH:
            at += _big(data, at, 2)
    return 0, 0


def _webp_size(data: bytes) -> tuple[int, int]:
    """By the first chunk: extended, without loss, or else with."""
    if data[12:16] == b"VP8X":
        return 1 + _little(data, 24, 3), 1 + _little(data, 27, 3)
    if data[12:16] == b"VP8L":
        bits = _little(data, 21, 4)
        return 1 + bits % 2**14, 1 + (bits >> 14) % 2**14
    return _little(data, 26, 2) % 2**14, _little(data, 28, 2) % 2**14


def _tiff_size(data: bytes) -> tuple[int, int]:
    """Of the first picture; of a tag that is there twice the larger."""
    read = _little if data.startswith(b"II") else _big
    start = read(data, 4, 4)
    size = {_TIFF_WIDTH: 0, _TIFF_HEIGHT: 0}
    for at in range(start + 2, start + 2 + 12 * read(data, start, 2), 12):
        tag = read(data, at, 2)
        if tag in size:
            size[tag] = max(size[tag], read(data, at + 8, 2 if read(data, at + 2, 2) == 3 else 4))
    return size[_TIFF_WIDTH], size[_TIFF_HEIGHT]


def _big(data: bytes, at: int, length: int) -> int:
    return int.from_bytes(data[at : at + length], "big")


def _little(data: bytes, at: int, length: int) -> int:
    return int.from_bytes(data[at : at + length], "little")
