"""One image file: its format, whether all of it is there, its size and a fingerprint of its bytes."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from t2ireid_plugin.data.transforms import read_pixels
from t2ireid_plugin.errors import DataError

# Endings of names by format; the formats are those that training takes, see `annotations.check_images`.
EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp", ".dib"),
    "WebP": (".webp",),
    "TIFF": (".tif", ".tiff"),
}
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"BM": "BMP",
    b"RIFF": "WebP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
}
# In JPEG's coded data an FF byte is followed by 00, a restart number or another FF; all else is a marker.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_END_OF_IMAGE = 0xD9
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}


class ImageFacts(NamedTuple):
    """What an image file is."""

    problem: str = ""  # a kind of finding: image_unreadable, image_truncated or image_damaged
    reason: str = ""
    format: str = ""
    height: int = 0
    width: int = 0
    fingerprint: bytes = b""  # empty when there are no bytes to compare


def inspect_image(path: str) -> ImageFacts:
    """Reads and decodes an image file as training does; never raises."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for somebody to write
            return ImageFacts("image_unreadable", "not a file")
        with open(path, "rb") as stream:
            data = stream.read()
    except (OSError, ValueError) as error:
        return ImageFacts("image_unreadable", getattr(error, "strerror", None) or str(error))
    if not data:
        return ImageFacts("image_unreadable", "the file is empty")
    facts = ImageFacts(format=format_of(data), fingerprint=hashlib.blake2b(data, digest_size=16).digest())
    if not facts.format:
        return facts._replace(problem="image_unreadable", reason=f"not an image file, it begins with {data[:12]!r}")
    missing = incomplete(data, facts.format)
    if missing:
        return facts._replace(problem="image_truncated", reason=missing)
    try:
        with _decoder_output() as complaints:
            height, width = read_pixels(path).shape[:2]
    except DataError as error:
        return facts._replace(problem="image_unreadable", reason=str(error).rpartition(f"'{path}': ")[2])
    except Exception as error:  # OpenCV's own, such as that for more pixels than it takes
        return facts._replace(problem="image_unreadable", reason=" ".join(str(error).split())[:200])
    facts = facts._replace(height=height, width=width)
    reason = next((line for line in complaints if re.search("corrupt|premature", line, re.IGNORECASE)), "")
    if reason:
        # A decoder that runs out of data in the middle fills the rest and goes on.
        partly = "premature end" in reason.lower()
        return facts._replace(problem="image_truncated" if partly else "image_damaged", reason=reason)
    return facts


def format_of(data: bytes) -> str:
    """The image format that a file's first bytes tell; empty for none that training takes."""
    name = next((name for start, name in _SIGNATURES.items() if data.startswith(start)), "")
    return "" if name == "WebP" and data[8:12] != b"WEBP" else name


def incomplete(data: bytes, name: str) -> str:
    """What shows that the end of a file is missing; empty when nothing does."""
    if name in ("JPEG", "PNG"):
        ends = _jpeg_ends(data) if name == "JPEG" else _png_ends(data)
        return "" if ends else f"no end marker in its {len(data):,} bytes"
    if name in ("WebP", "BMP"):
        at, more = (4, 8) if name == "WebP" else (2, 0)
        announced = int.from_bytes(data[at : at + 4], "little") + more
        return f"{len(data):,} of {announced:,} bytes" if len(data) < announced else ""
    return ""


def _jpeg_ends(data: bytes) -> bool:
    """Whether the segments lead to an end marker; that of a thumbnail, inside a segment, does not count."""
    at = 2
    while True:
        found = _MARKER.search(data, at)
        if found is None:
            return False
        code, at = data[found.start() + 1], found.end()
        if code == _END_OF_IMAGE:
            return True
        if code not in _WITHOUT_LENGTH:
            at += int.from_bytes(data[at : at + 2], "big")  # after a start of scan the coded data follows


def _png_ends(data: bytes) -> bool:
    at = 8
    while at + 12 <= len(data):
        name, at = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        if name == b"IEND":
            return at <= len(data)
    return False


@contextmanager
def _decoder_output() -> Iterator[list[str]]:
    """Catches what C libraries write to standard error: libjpeg says only there that data are damaged.

    Only for a process that does nothing else meanwhile: everybody's standard error is caught.
    """
    lines: list[str] = []
    saved = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            caught.seek(0)
            lines += caught.read().decode("utf-8", "replace").splitlines()
