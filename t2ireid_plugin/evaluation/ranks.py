"""Ranks of the positives from embeddings, in chunks of queries, without sorting the gallery.

A positive is a gallery image of the query's identity. Its rank is its place among the positives plus the number of
negatives that score at least as high. Ties thus count against the model: a positive that ties with a negative ranks
after it, and constant features score as badly as they deserve.

Scores are cosines in float32, and a tie is an equal float32. Equal gallery embeddings always tie: a matrix product may
round equal columns differently, so every copy of an embedding takes the score of the first. Images whose cosines differ
by less than float32 resolves may change places with the number of threads or of queries in a product.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
from torch import Tensor

from t2ireid_plugin.errors import DataError

Array = npt.NDArray

_CELLS = 1 << 22  # similarities held at once, 16 MiB


def positive_ranks(
    queries: Tensor,
    gallery: Tensor,
    q_pids: Array,
    g_pids: Array,
    q_camids: Array,
    g_camids: Array,
    left_out: Array | None = None,
    ignored: Array | None = None,
) -> list[list[int]]:
    """Ranks, from 1 and ascending, of each query's positives in the gallery sorted by cosine similarity.

    Args:
        queries: ``[n, D]``; normalised here, in float32.
        gallery: ``[m, D]``, likewise.
        q_pids, g_pids: identities ``[n]`` and ``[m]``, any integers.
        q_camids, g_camids: cameras ``[n]`` and ``[m]``; gallery images of the query's identity and camera are left out,
            as in ``torchreid.metrics.evaluate_rank``.
        left_out: position ``[n]`` of one more gallery image that is left out.
        ignored: further gallery images of the query's identity that are left out, ``[n, m]``.

    Raises:
        DataError: when a feature is not finite.
    """
    return ranks_from_scores(cosine_rows(queries, gallery), q_pids, g_pids, q_camids, g_camids, left_out, ignored)


def cosine_rows(queries: Tensor, gallery: Tensor) -> Iterator[Array]:
    """Cosines ``[m]`` in float32 of each of the queries ``[n, D]`` with the gallery ``[m, D]``; use each at once.

    Raises:
        DataError: when a feature is not finite.
    """
    return _score_rows(_unit_features(queries, "query"), _unit_features(gallery, "gallery"))


def ranks_from_scores(
    rows: Iterable[Array],
    q_pids: Array,
    g_pids: Array,
    q_camids: Array,
    g_camids: Array,
    left_out: Array | None = None,
    ignored: Array | None = None,
) -> list[list[int]]:
    """Ranks as from `positive_ranks`, given each query's scores ``[m]``, which are overwritten; higher is nearer."""
    images_of = {pid: np.flatnonzero(g_pids == pid) for pid in np.unique(q_pids).tolist()}
    ranks = []
    absent = [-1] * len(q_pids) if left_out is None else left_out.tolist()
    for query, (row, pid, camid, left) in enumerate(zip(rows, q_pids.tolist(), q_camids.tolist(), absent, strict=True)):
        same = images_of[pid]
        found = (g_camids[same] != camid) & (same != left)
        if ignored is not None:
            found &= ~ignored[query, same]
        positives = np.sort(row[same][found])[::-1]
        row[same] = -np.inf  # only negatives are left to count
        if left >= 0:
            row[left] = -np.inf
        ranks.append([place + np.count_nonzero(row >= score) for place, score in enumerate(positives, 1)])
    return ranks


def _score_rows(queries: Array, gallery: Array) -> Iterator[Array]:
    """Cosines ``[m]`` of each query with the gallery, both of unit norm; the next chunk reuses the memory."""
    seen: dict[bytes, int] = {}  # first position of each embedding, by its digest
    digests = (blake2b(row, digest_size=16).digest() for row in gallery)
    originals = np.array([seen.setdefault(digest, i) for i, digest in enumerate(digests)], dtype=np.int64)
    copies = np.flatnonzero(originals != np.arange(len(gallery)))
    chunk = max(1, min(len(queries), _CELLS // max(1, len(gallery))))
    buffer = np.empty((chunk, len(gallery)), np.float32)
    for start in range(0, len(queries), chunk):
        part = queries[start : start + chunk]
        scores = np.matmul(part, gallery.T, out=buffer[: len(part)])
        scores[:, copies] = scores[:, originals[copies]]
        yield from scores


def _unit_features(features: Tensor, side: str) -> Array:
    """Rows of ``features [n, D]`` scaled to unit norm, as a float32 array."""
    rows = features.detach().float().cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise DataError(f"{side} features: row {bad[0]} (from 0) has values that are not finite in float32")
    norms = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))[:, None]
    unit = np.divide(rows, np.maximum(norms, 1e-12), out=np.empty(rows.shape, np.float32), casting="same_kind")
    return np.add(unit, np.float32(0), out=unit)  # turns -0 into 0, which has other bits
