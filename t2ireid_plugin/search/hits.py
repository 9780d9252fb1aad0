"""Results of a search, as a list, JSON or a picture."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from t2ireid_plugin.search.rows import Box
from t2ireid_plugin.utils.language import language_of, use_language


class Hit(NamedTuple):
    """One result."""

    path: str  # absolute
    score: float  # similarity: inner product with the query
    id: int
    camera: str | None = None
    time: datetime.datetime | None = None  # UTC
    track: int | None = None
    box: Box | None = None  # of the person in the photo or frame, in pixels: left, top, right, bottom
    frame: int | None = None  # of a video
    crop: bytes = b""  # the person as a JPEG file, for videos

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without the picture."""
        values = self._asdict()
        del values["crop"]
        return {**values, "time": self.time and self.time.isoformat()}


class Hits(Sequence[Hit]):
    """The results of one search, best first.

    Attributes:
        query: the sentence; "" for a photo or a vector.
        searched: number of rows that the filter left.
        total: number of rows of the index.
    """

    def __init__(self, hits: Sequence[Hit], query: str, searched: int, total: int) -> None:
        self._hits = list(hits)
        self.query, self.searched, self.total = query, searched, total

    def __len__(self) -> int:
        return len(self._hits)

    def __getitem__(self, index: Any) -> Any:
        return self._hits[index]

    def __iter__(self) -> Iterator[Hit]:
        return iter(self._hits)

    def __repr__(self) -> str:
        return f"Hits({len(self)} of {self.searched:,} rows searched)"

    def to_json(self) -> str:
        """The query, the counts and the hits."""
        hits = [hit.to_dict() for hit in self]
        values = {"query": self.query, "searched": self.searched, "total": self.total, "hits": hits}
        return json.dumps(values, indent=2, ensure_ascii=False)

    def draw(self, path: str | Path) -> None:
        """Writes the hits as a picture, or as a page without links for a name that ends in ``.html``.

        Raises:
            ConfigError: for a name that ends otherwise than a page's or a picture's.
            DataError: when a photo cannot be read or the file cannot be written.
        """
        from t2ireid_plugin.search.sheet import draw_hits  # which loads OpenCV

        with use_language(language_of([self.query])):
            draw_hits(self, Path(path))
