"""People in videos: one entry per track, with crop, embedding, box and time."""

from __future__ import annotations

import logging
import math
import os
import re
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from t2ireid_plugin.data.images import Pixels
from t2ireid_plugin.errors import ConfigError, DataError
from t2ireid_plugin.search.people.detectors import Detector, find_people
from t2ireid_plugin.search.people.tracking import Embed, Track, Tracker
from t2ireid_plugin.utils.progress import show_progress
from t2ireid_plugin.utils.safe_io import open_file

_QUIET_PART, _LONGEST_PART = 60.0, 600.0  # seconds
logger = logging.getLogger(__name__)
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # else FFmpeg prints a line for every damaged block


class PersonEntry(NamedTuple):
    """A person who was seen for a while, in the frame that shows the person best."""

    crop: Pixels  # uint8 [h, w, 3] RGB
    vector: npt.NDArray[np.float32]  # [D]: the mean of at most five crops' embeddings, so its norm is at most theirs
    box: tuple[float, float, float, float]  # left, top, right, bottom in pixels
    track: int  # from 1, in the order of appearance
    detections: int  # of the track
    frame: int  # of the video, from 0
    offset: float  # in seconds since the video's start
    time: float | None  # in seconds since 1970 UTC; None when the time of the video's start is unknown


class VideoPart(NamedTuple):
    """What a video shows from the end of the part before it; whoever stores each part can continue after the last."""

    entries: list[PersonEntry]
    end: float  # seconds since the video's start; infinity for the last part


class Frame(NamedTuple):
    """A picture of a video."""

    image: Pixels
    number: int
    offset: float  # seconds


def people_in_video(
    path: str | Path,
    detect: Detector,
    embed: Embed,
    fps: float = 5.0,
    start: datetime | None = None,
    begin: float = 0.0,
    min_frames: int = 3,
    progress: bool = False,
) -> Iterator[VideoPart]:
    """One entry per track, in parts that end when nobody is in view, or after ten minutes.

    Args:
        path: video file that OpenCV can read.
        detect: detector of people.
        embed: crops to embeddings [N, D].
        fps: frames per second to look at; all, where the video has fewer.
        start: time of the first frame, with a time zone.
        begin: ``end`` of the last part that is known already, to continue after it.
        min_frames: tracks with fewer detections are dropped, which are mostly false ones.
        progress: report progress and remaining time on standard error.

    Raises:
        DataError: when the file is not a video or has no readable frame.
    """
    tracker, entries, last_end = Tracker(embed), list[PersonEntry](), begin
    expected = round((video_length(path) - begin) * fps)
    frames = read_frames(path, fps, begin or -1.0)  # the first frame is at 0
    shown = progress and expected > 0
    for image, number, offset in show_progress(frames, expected, f"people in {Path(path).name}", "frame", shown):
        entries += _entries(tracker.update(image, find_people(image, detect), offset, number), min_frames, start)
        lasted = offset - last_end
        if (not tracker.tracks and (entries or lasted > _QUIET_PART)) or lasted > _LONGEST_PART:
            yield VideoPart(entries + _entries(tracker.finish(), min_frames, start), offset)
            entries, last_end = [], offset
    yield VideoPart(entries + _entries(tracker.finish(), min_frames, start), math.inf)


def _entries(tracks: list[Track], min_frames: int, start: datetime | None) -> list[PersonEntry]:
    entries = []
    for track in tracks:
        if track.frames >= min_frames and track.best is not None:
            crop, box, offset, frame = track.best
            time = None if start is None else start.timestamp() + offset
            entries.append(PersonEntry(crop, track.vector, box, track.number, track.frames, frame, offset, time))
    return entries


def read_frames(path: str | Path, fps: float, after: float = -1.0) -> Iterator[Frame]:
    """Frames of a video later than ``after`` seconds, the first of every ``1 / fps`` seconds.

    Raises:
        DataError: when the file is missing, not a video or has no readable frame.
    """
    video = _open(path)
    number, slot, offset = 0, -1, 0.0
    try:
        while video.grab():
            offset = video.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if int(offset * fps + 1e-3) > slot:  # 0.2 s may be stored as 0.1999
                slot = int(offset * fps + 1e-3)
                decoded, image = video.retrieve() if offset > after else (False, None)
                if decoded:
                    yield Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), number, offset)
            number += 1
    finally:
        video.release()
    if number == 0:
        raise DataError(f"video '{path}': no readable frame; convert it with ffmpeg, or leave it out")
    if offset < 0.9 * (length := video_length(path)):
        logger.warning("'%s' ends after %.1f of %.1f seconds; the rest is damaged or missing", path, offset, length)


def video_length(path: str | Path) -> float:
    """Seconds that a video lasts according to its header; 0 when it does not say.

    Raises:
        DataError: when the file is missing or not a video.
    """
    video = _open(path)
    frames, rate = video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)
    video.release()
    return max(0.0, frames / rate) if rate > 0 else 0.0


def _open(path: str | Path) -> cv2.VideoCapture:
    try:
        open_file(path, sys.maxsize).close()  # OpenCV would also open addresses and series of pictures
    except OSError as error:
        raise DataError(f"missing video '{path}' ({error.strerror})") from error
    set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # of OpenCV 4, of 5
    level = set_log_level(0)  # it would repeat the error below in its own words
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    set_log_level(level)
    if not video.isOpened():
        raise DataError(f"video '{path}': not a video that OpenCV can read; convert it with ffmpeg, or leave it out")
    return video


def parse_start(text: str) -> datetime:
    """The time of a video's first frame, as in ``2026-11-01T08:00:00+01:00``.

    Raises:
        ConfigError: for anything else, also without a time zone.
    """
    example = "write a time with its zone, as in 2026-11-01T08:00:00+01:00"
    try:
        time = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text))
    except ValueError as error:
        raise ConfigError(f"start: '{text}' is not a time; {example}") from error
    if time.tzinfo is None:
        raise ConfigError(f"start: '{text}' has no time zone; {example}")
    return time
