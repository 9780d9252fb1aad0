"""Inspection of one image file: format, completeness, size and a hash of its bytes."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from t2ireid_plugin.data.annotations import image_format
from t2ireid_plugin.data.transforms import read_pixels
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.utils.safe_io import read_bytes

# File name suffixes by format.
SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp", ".dib"),
    "WebP": (".webp",),
    "TIFF": (".tif", ".tiff"),
}
# In JPEG's coded data an FF byte is followed by 00, a restart marker or another FF; all else is a marker.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_END_OF_IMAGE = 0xD9
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}


class ImageFacts(NamedTuple):
    """Properties of an image file."""

    problem: str = ""  # a kind of finding: image_unreadable, image_truncated or image_damaged
    reason: str = ""
    format: str = ""
    height: int = 0
    width: int = 0
    digest: bytes = b""  # of the file's bytes; empty for a file without any


def inspect_image(path: str) -> ImageFacts:
    """Reads and decodes an image file as training does. Never raises.

    Redirects the standard error of the process meanwhile, so no other thread may use it.
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        return ImageFacts("image_unreadable", error.strerror or str(error))
    if not data:
        return ImageFacts("image_unreadable", "the file is empty")
    facts = ImageFacts(format=image_format(data[:12]), digest=hashlib.blake2b(data, digest_size=16).digest())
    if not facts.format:
        return facts._replace(problem="image_unreadable", reason=f"not an image file, it begins with {data[:12]!r}")
    if missing := missing_end(data, facts.format):
        return facts._replace(problem="image_truncated", reason=missing)
    try:
        with _decoder_warnings() as lines:
            height, width = read_pixels(path).shape[:2]
    except DataError as error:
        return facts._replace(problem="image_unreadable", reason=str(error).rpartition(f"'{path}': ")[2])
    facts = facts._replace(height=height, width=width)
    warning = next((line for line in lines if re.search("corrupt|premature", line, re.IGNORECASE)), "")
    if warning:
        # A decoder that runs out of data fills the rest of the image.
        problem = "image_truncated" if "premature end" in warning.lower() else "image_damaged"
        return facts._replace(problem=problem, reason=warning)
    return facts


def missing_end(data: bytes, name: str) -> str:
    """Describes why the end of a file of this format is missing; empty for a complete file."""
    if name in ("JPEG", "PNG"):
        complete = _jpeg_is_complete(data) if name == "JPEG" else _png_is_complete(data)
        return "" if complete else f"no end marker in its {len(data):,} bytes"
    if name in ("WebP", "BMP"):
        at, more = (4, 8) if name == "WebP" else (2, 0)
        announced = int.from_bytes(data[at : at + 4], "little") + more
        return f"{len(data):,} of {announced:,} bytes" if len(data) < announced else ""
    return ""


def _jpeg_is_complete(data: bytes) -> bool:
    """True if the segments lead to an end marker; that of a thumbnail lies inside a segment and does not count."""
    at = 2
    while marker := _MARKER.search(data, at):
        code, at = data[marker.start() + 1], marker.end()
        if code == _END_OF_IMAGE:
            return True
        if code not in _WITHOUT_LENGTH:
            at += int.from_bytes(data[at : at + 2], "big")  # after a start of scan the coded data follows
    return False


def _png_is_complete(data: bytes) -> bool:
    at = 8
    while at + 12 <= len(data):
        name, at = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        if name == b"IEND":
            return at <= len(data)
    return False


@contextmanager
def _decoder_warnings() -> Iterator[list[str]]:
    """Collects the lines that C libraries write to standard error; libjpeg reports damaged data only there."""
    lines: list[str] = []
    saved = os.dup(2)
    with tempfile.TemporaryFile() as stream:
        os.dup2(stream.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            stream.seek(0)
            lines += stream.read().decode("utf-8", "replace").splitlines()
