"""Adds the people of videos to an index."""

from __future__ import annotations

import os
import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from t2ireid_plugin.data.images import Pixels
from t2ireid_plugin.errors import ConfigError, DataError
from t2ireid_plugin.search.people import Detector, load_detector, parse_start, people_in_video
from t2ireid_plugin.search.photos import describe_file
from t2ireid_plugin.search.rows import File, Row

if TYPE_CHECKING:
    from t2ireid_plugin.search.gallery import Gallery

_UNFINISHED = re.compile(r"read to ([\d.e+-]+) s")


def index_video(
    gallery: Gallery,
    path: str | Path,
    detector: str | Detector,
    camera: str | None,
    start: str | datetime | None,
    fps: float,
    progress: bool,
) -> int:
    """Adds a row per track and returns how many; arguments as of `Gallery.add_video`.

    Each part is a commit, which also records how far the video was read, so that the next call can continue there.

    Raises:
        ConfigError: for a start without a time zone, or a rate that is not above 0.
        DataError: when the file is missing or not a video, or the index cannot be written.
        EncoderError: for a detector that cannot be loaded.
    """
    if not fps > 0:
        raise ConfigError(f"fps: {fps:g} is not a rate; give a number above 0, such as 5")
    start = parse_start(start) if isinstance(start, str) else start
    encoder, store, stored = gallery.need_encoder(), gallery.store, gallery.stored_path(path)
    count = 0
    with store.writing():
        file, begin = _compare(path, store.files().get(stored))
        if begin is None:
            return 0
        detect = load_detector(detector) if isinstance(detector, str) else detector
        first_track = store.last_track() + 1
        parts = people_in_video(path, detect, encoder.encode_images, fps, start, begin, progress=progress)
        for number, (entries, end) in enumerate(parts):
            note = "" if end == np.inf else f"read to {end!r} s"
            vectors = np.array([entry.vector for entry in entries], np.float32).reshape(-1, encoder.dim)
            rows = [Row(stored, camera, e.time, first_track + e.track, e.box, e.frame, _jpeg(e.crop)) for e in entries]
            replace = [stored] if number == 0 and begin == 0 else []  # rows of an earlier content
            store.add(vectors, rows, [file._replace(path=stored, note=note)], replace)
            count += len(rows)
    return count


def _compare(path: str | Path, record: File | None) -> tuple[File, float | None]:
    """A file as it is, and from which second on it must be read; None if all of it is in the index."""
    try:
        file = describe_file(os.path.abspath(path))
    except OSError as error:
        raise DataError(f"missing video '{path}' ({error.strerror})") from error
    if record is None or record.digest != file.digest:
        return file, 0.0
    unfinished = _UNFINISHED.fullmatch(record.note)
    return file, float(unfinished[1]) if unfinished else None


def _jpeg(crop: Pixels) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
