"""What an index stores beside each vector, what it remembers of each file, and filters."""

from __future__ import annotations

import datetime
from dataclasses import astuple, dataclass
from typing import NamedTuple

from t2ireid_plugin.errors import ConfigError

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
Time = float | str | datetime.datetime

_YEAR_10000 = 253_402_300_800  # seconds since 1970


class Row(NamedTuple):
    """One vector's row: a photo, a person in a photo, or a track in a video."""

    path: str  # of the photo or video, see `Store`
    camera: str | None = None
    time: float | None = None  # seconds since 1970, UTC
    track: int | None = None  # unique within an index
    box: Box | None = None  # of the person; None for the whole photo
    frame: int | None = None  # of a video, from 0
    crop: bytes = b""  # the person as a JPEG file, for videos


class File(NamedTuple):
    """A file that was read, whether or not it gave rows."""

    path: str
    size: int  # bytes
    mtime: int  # nanoseconds since 1970
    digest: bytes
    note: str = ""  # why it gave no rows, or how far a video was read


class Move(NamedTuple):
    """A file with the content of one that was indexed under the path ``old``, which may be its own."""

    old: str
    file: File
    camera: str | None = None


@dataclass(frozen=True)
class Filter:
    """Rows to search or to delete: those that fulfil every condition that is not None."""

    camera: str | tuple[str, ...] | None = None  # one of them
    after: float | None = None  # at this time or later, seconds since 1970
    before: float | None = None  # earlier than this time
    path: str | None = None  # this file, or all in this folder
    track: int | None = None

    def __bool__(self) -> bool:
        return any(value is not None for value in astuple(self))


def to_seconds(time: Time | None) -> float | None:
    """Seconds since 1970 of a time; a date in ISO 8601 without an offset is local time.

    Raises:
        ConfigError: for a text that is not a date, or a number that is beyond dates, as milliseconds are.
    """
    if isinstance(time, str):
        try:
            time = datetime.datetime.fromisoformat(time.replace("Z", "+00:00"))
        except ValueError as error:
            raise ConfigError(f"time: '{time}' is not a date such as 2026-11-01T08:00:00+01:00") from error
    if isinstance(time, (int, float)) and abs(time) >= _YEAR_10000:
        raise ConfigError(f"time: {time:.0f} is not a time in seconds since 1970")
    return time.timestamp() if isinstance(time, datetime.datetime) else time
