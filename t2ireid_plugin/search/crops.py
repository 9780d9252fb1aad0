"""The pictures of people behind the rows of an index; loads no PyTorch."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from t2ireid_plugin.data.images import Pixels
from t2ireid_plugin.search.hits import Hit
from t2ireid_plugin.search.photos import read_photo


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
