"""Search over the vectors of one commit, without SQL.

A *slot* is the position of a vector in the concatenation of all segments. Scores that order a result are computed in
float64 and rounded to float32, so that equal vectors tie, as in evaluation's ranked lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.search.store import Ids, Vectors
from t2ireid_plugin.search.store.segments import SegmentFiles, chunks

_MARGIN = 32  # candidates beyond k, for float32 may order near ties differently
_CANDIDATES = 400  # that codes select per query
_CELLS = 1 << 24  # scores held at once


class Segment(NamedTuple):
    """Vectors ``[n, d]`` in the order of their ids ``[n]``."""

    name: str
    ids: Ids
    vectors: Vectors


class Snapshot:
    """The segments of one commit, in the order of their ids, and the slots of deleted rows.

    Args:
        segments: in this order.
        dead: ids of deleted rows, sorted.
        files: to load codes from.
        codes: of an earlier snapshot; None for a segment without.
    """

    def __init__(
        self, segments: Sequence[Segment], dead: Ids, files: SegmentFiles, codes: Mapping[str, Any] | None = None
    ) -> None:
        self.segments = segments
        self.ids = np.concatenate([np.empty(0, np.int64), *(segment.ids for segment in segments)])
        self.dead = self.slots(dead)
        self._starts = np.cumsum([0, *(len(segment.ids) for segment in segments)])
        self._files = files
        names = {segment.name for segment in segments}
        self.codes = {name: value for name, value in (codes or {}).items() if name in names and value is not None}

    def __len__(self) -> int:
        return len(self.ids) - len(self.dead)

    def slots(self, ids: Ids) -> Ids:
        """Slots of sorted ids."""
        return np.searchsorted(self.ids, ids)

    def search(
        self, queries: Vectors, k: int, ids: Ids | None = None, exact: bool = False
    ) -> tuple[npt.NDArray[np.float32], Ids]:
        """As `Store.search`, over sorted ``ids`` or all rows."""
        slots = None if ids is None else self.slots(ids)
        k = min(k, len(self) if slots is None else len(slots))
        if k == 0 or len(queries) == 0:
            return np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        found = None
        if slots is None and not exact and 4 * k <= _CANDIDATES:
            found = self._candidates(queries)
        if found is None:
            found = self._exact_candidates(queries, k, slots)
        best = [self._ranked(query, candidates, k) for query, candidates in zip(queries, found)]
        return np.stack([scores for scores, _ in best]), self.ids[np.stack([order for _, order in best])]

    def vectors(self, slots: Ids) -> Vectors:
        """The vectors ``[n, d]`` of sorted slots."""
        return np.concatenate([part for _, part in self._parts(slots)])

    def _parts(self, slots: Ids | None) -> Iterator[tuple[int, Vectors]]:
        """Vectors of all or of sorted slots, a few at a time, each with its position among them."""
        at = 0
        for start, segment in zip(self._starts, self.segments):
            if slots is None:
                source: Vectors = segment.vectors
                for part in chunks(source):
                    yield at, part
                    at += len(part)
                continue
            inside = slots[slice(*np.searchsorted(slots, [start, start + len(segment.ids)]))] - start
            for places in chunks(inside):
                contiguous = places[-1] - places[0] + 1 == len(places)
                yield at, segment.vectors[places[0] : places[-1] + 1] if contiguous else segment.vectors[places]
                at += len(places)

    def _exact_candidates(self, queries: Vectors, k: int, slots: Ids | None) -> list[Ids]:
        """Slots of the best k and a margin, per query."""
        n = len(self.ids) if slots is None else len(slots)
        alive = n - (len(self.dead) if slots is None else 0)
        found: list[Ids] = []
        step = max(1, _CELLS // n)
        for first in range(0, len(queries), step):
            some = queries[first : first + step]
            scores = np.empty((len(some), n), np.float32)
            for at, part in self._parts(slots):
                scores[:, at : at + len(part)] = some @ part.T
            if slots is None:
                scores[:, self.dead] = -np.inf
            top = _top(scores, min(k + _MARGIN, alive))
            found += list(top if slots is None else slots[top])
        return found

    def _candidates(self, queries: Vectors) -> list[Ids] | None:
        """Slots of the best by codes and of the best of segments without, per query.

        None without codes, or where deleted rows are so many of the best that others may be missing.
        """
        coded: list[tuple[npt.NDArray[np.float32], Ids]] = []
        others: list[Ids] = []
        for start, segment in zip(self._starts, self.segments):
            codes = self._codes_of(segment.name)
            if codes is None:
                scores = np.concatenate([queries @ part.T for part in chunks(segment.vectors)], axis=1)
                others.append(start + _top(scores, min(_CANDIDATES, len(segment.ids))))
            else:
                scores, places = codes.search(queries, min(_CANDIDATES, len(segment.ids)))
                coded.append((scores, np.where(places < 0, -1, start + places)))  # -1: FAISS has no further one
        if not coded:
            return None
        scores, slots = (np.concatenate(parts, axis=1) for parts in zip(*coded))
        best = np.take_along_axis(slots, _top(scores, min(_CANDIDATES, scores.shape[1])), axis=1)
        alive = [row[(row >= 0) & ~np.isin(row, self.dead)] for row in np.concatenate([best, *others], axis=1)]
        return alive if min(map(len, alive)) >= min(len(self), _CANDIDATES // 2) else None

    def _codes_of(self, name: str) -> Any:
        if name not in self.codes:
            self.codes[name] = self._files.load_codes(name)
        return self.codes[name]

    def _ranked(self, query: npt.NDArray, slots: Ids, k: int) -> tuple[npt.NDArray[np.float32], Ids]:
        slots = np.sort(slots)
        scores = (self.vectors(slots).astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
        order = np.lexsort((slots, -scores))[:k]
        return scores[order], slots[order]


def _top(scores: npt.NDArray[np.float32], k: int) -> Ids:
    """Positions of the k highest scores of each row, in any order."""
    n = scores.shape[1]
    return np.argpartition(scores, n - k, axis=1)[:, n - k :] if k < n else np.tile(np.arange(n), (len(scores), 1))
