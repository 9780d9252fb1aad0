"""From an image file to what torchreid's transforms take."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from t2ireid_plugin.errors import DataError

# torchreid ignores a transform name that it does not know; ours are checked against its list.
TRANSFORMS = ("random_flip", "random_crop", "random_patch", "color_jitter", "random_erase")


def read_image(path: str | Path) -> Image.Image:
    """An image file as RGB, rotated as its EXIF data says.

    torchreid's own reader tries a damaged file again for ever; this one raises.

    Raises:
        DataError: when the file is missing, no image, or cut short.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"missing image '{path}' ({error.strerror})") from error
    # OpenCV fills the rest of a truncated JPEG with grey and says nothing; its end marker tells.
    head, tail = data[:2].tobytes(), data[-4096:].tobytes()
    if head == b"\xff\xd8" and b"\xff\xd9" not in tail:
        raise DataError(f"unreadable image '{path}': the file is truncated")
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None  # [H, W, 3] uint8 BGR
    if pixels is None:
        raise DataError(f"unreadable image '{path}': no image, or a damaged one")
    return Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
