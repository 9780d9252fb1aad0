"""Image files: their formats, and pixels at the model's size as training, evaluation and search see them."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from t2ireid_plugin.data.shards import is_in_shard, read_from_shard
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.utils.safe_io import open_file, read_bytes
from t2ireid_plugin.utils.text import first_line

Pixels = npt.NDArray[np.uint8]  # [H, W, 3] RGB

# Supported image formats: their first bytes, and suffixes of their file names.
FORMATS = {
    "JPEG": (rb"\xff\xd8\xff", (".jpg", ".jpeg", ".jpe", ".jfif")),
    "PNG": (rb"\x89PNG\r\n\x1a\n", (".png",)),
    "BMP": (rb"BM", (".bmp", ".dib")),
    "WebP": (rb"RIFF.{4}WEBP", (".webp",)),
    "TIFF": (rb"II\*\x00|MM\x00\*", (".tif", ".tiff")),
}


def read_pixels(path: str | Path) -> Pixels:
    """An image file, or one in a shard, as RGB, with its EXIF orientation applied and transparent pixels on white.

    torchreid's own reader retries a damaged file forever; this one raises.

    Raises:
        DataError: when the file is missing, not an image, truncated, or larger than OpenCV's limit of 2^30 pixels.
    """
    try:
        data = read_from_shard(str(path)) if is_in_shard(str(path)) else read_bytes(path)
    except OSError as error:
        raise DataError(f"missing image '{path}' ({error.strerror})") from error
    return decode_pixels(data, path)


def decode_pixels(data: bytes, path: str | Path) -> Pixels:
    """As `read_pixels`, from the content of a file; ``path`` is named in messages."""
    # OpenCV fills the rest of a truncated JPEG with grey without an error.
    if data.startswith(b"\xff\xd8") and not data.endswith(b"\xff\xd9") and decoding_problem(data):
        raise DataError(f"unreadable image '{path}': the file is truncated")
    if (image := _with_alpha(data)) is not None:
        return np.array(on_white(image))
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:  # an empty file, or more pixels than OpenCV's limit
        pixels = None
    if pixels is None:
        raise DataError(f"unreadable image '{path}': damaged, too large or not an image")
    return pixels


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """The image at ``height`` x ``width``: area averaging where it shrinks, bilinear interpolation where it grows.

    If it shrinks in one direction and grows in the other, it is resized bilinearly, which uses every pixel down to half
    the size; a direction that shrinks by more than that is first resized by area averaging.
    """
    old_height, old_width = pixels.shape[:2]
    if height <= old_height and width <= old_width:
        return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    if old_height > 2 * height or old_width > 2 * width:
        pixels = cv2.resize(pixels, (min(width, old_width), min(height, old_height)), interpolation=cv2.INTER_AREA)
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)


def normalise(pixels: Pixels, mean: Sequence[float], std: Sequence[float]) -> npt.NDArray[np.float32]:
    """``[H, W, 3]`` to ``[3, H, W]``: ``(value / 255 - mean) / std``, rounded as `TestTransform.tensor` rounds it."""
    means, stds = (np.array(values, np.float32)[:, None, None] for values in (mean, std))
    return np.array(cv2.split(pixels), np.float32) * (1 / (255 * stds)) + -(means / stds)


def on_white(image: Image.Image) -> Image.Image:
    """A Pillow image as RGB, with transparent pixels on white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")


def is_transparent(data: bytes) -> bool:
    """True for the content of an image file with pixels that are not opaque."""
    image = _with_alpha(data)
    return image is not None and bool((np.asarray(image)[..., 3] < 255).any())


def image_format(start: bytes) -> str:
    """Image format by the first 12 bytes of a file, such as "JPEG"; empty for an unsupported one."""
    return next((name for name, (signature, _) in FORMATS.items() if re.match(signature, start, re.DOTALL)), "")


def image_problem(path: str) -> str:
    """Describes a missing or truncated file, or one that does not begin like an image; empty for others.

    Reads the beginning and the end alone, so an image may still be damaged inside.
    """
    try:
        with open_file(path) as stream:
            start = stream.read(12)
            if image_format(start) == "JPEG":
                stream.seek(-2, io.SEEK_END)
                if stream.read() != b"\xff\xd9" and stream.seek(0) == 0 and decoding_problem(stream.read()):
                    return f"unreadable image '{path}': the file is truncated"
    except OSError as error:
        return f"missing image '{path}' ({error.strerror})"
    if not image_format(start):
        return f"unreadable image '{path}': {'not an image file' if start else 'the file is empty'}"
    return ""


def decoding_problem(data: bytes) -> str:
    """Describes why Pillow cannot decode an image file's content to its end; empty if it can.

    Anything may follow the end, such as the film of a phone's motion photo.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.draft("L", (1, 1))  # decodes a JPEG at an eighth of its size, which is faster
            image.load()
    except Exception as error:  # Pillow raises errors of many types for damaged files
        return first_line(error)
    return ""


def _with_alpha(data: bytes) -> Image.Image | None:
    """An image with an alpha channel as RGBA, with its EXIF orientation applied; None for others and damaged ones."""
    if image_format(data[:12]) == "JPEG":
        return None
    try:
        with Image.open(io.BytesIO(data)) as image:
            return ImageOps.exif_transpose(image).convert("RGBA") if image.has_transparency_data else None
    except Exception:  # Pillow raises errors of many types for damaged files
        return None
