"""The ranks of the positives, from embeddings, without the whole similarity matrix and without sorting the gallery.

Only the ranks of the positives (gallery images of the query's identity) matter. A positive's rank is one more than
the number of negatives that score at least as high, plus the positives that score higher. Ties thus count against
the model: a positive that ties with a negative ranks after it, and constant features score as badly as they deserve.

A tie is between scores that are the same float32. Equal embeddings of the gallery always tie, since the copies of an
embedding take the score of the first: a matrix product promises no such thing, it may round one pair of vectors
differently from place to place. For the same reason a positive's score is taken out of its row, never computed apart.
Scores of different embeddings may change in the last bit with the number of queries in a product, the number of
threads and the device, and with them the order of images that are that close.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from t2ireid_plugin.errors import DataError

Array = npt.NDArray
Features = Array | Tensor
Integers = npt.ArrayLike | Tensor
_Labels = tuple[Integers, Integers | None]

_CHUNK = 512  # queries multiplied at once: with fewer the BLAS is slower, with more it is no faster
_CELLS = 1 << 24  # similarities held at once, 64 MiB; a gallery of more than 32,768 images gets smaller chunks
_SORTING = 256  # passes over a row that are worth sorting it, in proportion; the fastest of 32 to 512, or near it


class PositiveRanks(NamedTuple):
    """The ranks, from 1, of all positives of all queries."""

    ranks: Array  # [P] int32, query by query, ascending within a query
    offsets: Array  # [n + 1] int64; query i has ranks[offsets[i] : offsets[i + 1]], none if it has no positive

    @property
    def counts(self) -> Array:
        """Positives of each query ``[n]``."""
        return np.diff(self.offsets)

    @property
    def query_index(self) -> Array:
        """The query that each of ``ranks`` belongs to ``[P]``."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.counts)


@torch.no_grad()
def positive_ranks(
    query_features: Features,
    gallery_features: Features,
    q_pids: Integers,
    g_pids: Integers,
    q_camids: Integers | None = None,
    g_camids: Integers | None = None,
) -> PositiveRanks:
    """The ranks of each query's positives in the gallery sorted by cosine similarity.

    Args:
        query_features: ``[n, D]``; normalised here, in float32. CUDA tensors are ranked on their device.
        gallery_features: ``[m, D]``, likewise.
        q_pids: identities of the queries ``[n]``, any integers.
        g_pids: identities of the gallery ``[m]``.
        q_camids: cameras ``[n]``; with them, gallery images of the query's identity and camera are left out, as in
            ``torchreid.metrics.evaluate_rank``.
        g_camids: cameras ``[m]``.

    Raises:
        DataError: when a feature is not finite.
        ValueError: when shapes do not match, only one side has cameras, or pids or camids are not integers.
    """
    queries, gallery, (q_ids, q_cams), (g_ids, g_cams) = _checked(
        query_features, gallery_features, (q_pids, q_camids), (g_pids, g_camids)
    )
    device = queries.device if queries.is_cuda else gallery.device
    by_pid = np.argsort(g_ids, kind="stable")  # makes the positives of any query one slice of the gallery
    g_ids = g_ids[by_pid]
    first, end = np.searchsorted(g_ids, q_ids, side="left"), np.searchsorted(g_ids, q_ids, side="right")
    order = np.argsort(end - first, kind="stable")  # gives the queries of a chunk about as many positives each
    order = order[(end > first)[order]]

    images = _Gallery.of(gallery.to(device)[_on(device, by_pid)], _on(device, g_cams[by_pid]))
    slices = _on(device, np.stack([first, end, q_cams], axis=1)[order])
    parts = list(_rank_chunks(_normalize_(queries.to(device)[_on(device, order)]), slices, images))
    counts = np.zeros(len(q_ids), np.int64)
    counts[order] = np.concatenate([np.zeros(0, np.int64), *(part.counts for part in parts)])
    ranks = np.concatenate([np.zeros(0, np.int32), *(part.ranks for part in parts)])
    to_queries = np.argsort(np.repeat(order, counts[order]), kind="stable")
    return PositiveRanks(ranks[to_queries], np.concatenate([[0], np.cumsum(counts)]))


class _Part(NamedTuple):
    ranks: Array  # [p] int32, of some queries one after the other
    counts: Array  # how many of them belong to each query


class _Gallery(NamedTuple):
    """What the queries are compared with, the images of an identity side by side."""

    unit: Tensor  # [m, D] float32
    camids: Tensor  # [m]
    copies: Tensor  # positions of the embeddings that equal an earlier one
    originals: Tensor  # positions of those earlier ones

    @classmethod
    def of(cls, features: Tensor, camids: Tensor) -> _Gallery:
        """Normalises ``features [m, D]`` in place."""
        features += 0.0  # turns -0, which equals 0 with other bits, into 0
        seen: dict[bytes, int] = {}
        digests = (blake2b(row, digest_size=16).digest() for row in features.cpu().numpy())
        originals = np.array([seen.setdefault(digest, i) for i, digest in enumerate(digests)], dtype=np.int64)
        copies = np.flatnonzero(originals != np.arange(len(originals)))
        device = features.device
        return cls(_normalize_(features), camids, _on(device, copies), _on(device, originals[copies]))

    def score_(self, queries: Tensor, scores: Tensor) -> Tensor:
        """Writes the cosines of ``queries [c, D]``, of unit norm, with all images into ``scores [c, m]``."""
        if scores.is_cuda:
            with _full_precision():
                torch.mm(queries, self.unit.T, out=scores)
        else:
            # NumPy's BLAS: the one in torch takes twice as long on AMD's processors. Nothing that the loop over the
            # chunks does beside it is large enough for torch's threads, which would get in the way of its own.
            np.matmul(queries.numpy(), self.unit.numpy().T, out=scores.numpy())
        if len(self.copies):
            scores[:, self.copies] = scores[:, self.originals]
        return scores


def _rank_chunks(queries: Tensor, tables: Tensor, gallery: _Gallery) -> Iterator[_Part]:
    """Ranks of ``queries [v, D]``, of unit norm, whose slices of the gallery and cameras are ``tables [v, 3]``."""
    if not len(queries):
        return
    images = len(gallery.unit)
    chunk = min(max(1, min(_CHUNK, _CELLS // images)), len(queries))
    buffer = torch.empty(chunk, images, device=queries.device)
    for part, table in zip(queries.split(chunk), tables.split(chunk)):
        yield _rank_chunk(gallery.score_(part, buffer[: len(part)]), table, gallery.camids)


def _rank_chunk(scores: Tensor, table: Tensor, g_cams: Tensor) -> _Part:
    """Ranks of the positives of each row of ``scores [c, m]``, which are overwritten with -inf."""
    first, end, q_cams = (column[:, None] for column in table.unbind(dim=1))
    slots = torch.arange(int((end - first).max()), device=scores.device)
    # A query with fewer positives than the chunk's most repeats its last one, and does not keep the repetitions.
    columns = torch.minimum(first + slots, end - 1)  # [c, k]
    kept = (first + slots < end) & (g_cams[columns] != q_cams)
    counts = kept.sum(dim=1)
    positives = scores.gather(1, columns).masked_fill_(~kept, torch.inf).sort(dim=1).values
    scores.scatter_(1, columns, -torch.inf)  # so that only negatives are counted
    ahead = _count_at_least(scores, positives, counts)
    # The best positive is the last of those kept; turned round, it has the first slot.
    ranks = ahead.gather(1, (counts[:, None] - 1 - slots).clamp_(min=0)) + slots + 1
    return _Part(ranks[slots < counts[:, None]].int().cpu().numpy(), counts.cpu().numpy())


def _count_at_least(scores: Tensor, thresholds: Tensor, numbers: Tensor) -> Tensor:
    """How many of each row of ``scores [c, m]`` are at least each of its ``thresholds [c, k]``; int64 ``[c, k]``.

    Thresholds ascend; only the first of ``numbers [c]`` of each row need be counted.
    """
    if scores.is_cuda:
        return scores.shape[1] - torch.searchsorted(scores.sort(dim=1).values, thresholds)
    counts = torch.zeros(thresholds.shape, dtype=torch.int64)
    mask = np.empty(scores.shape[1], dtype=bool)
    for row, few, number, out in zip(scores.numpy(), thresholds.numpy(), numbers.tolist(), counts.numpy()):
        _count_row(row, few[:number], mask, out)
    return counts


def _count_row(row: Array, thresholds: Array, mask: Array, counts: Array) -> None:
    """Writes into ``counts [k]`` how many of ``row [m]`` are at least each of ``thresholds [k]``, which ascend.

    Passes over the row, each a comparison and a count, until few scores are above the threshold or many thresholds
    are left; then sorts these scores. Threads would gain nothing: each call is too short to share the interpreter.
    """
    for j, threshold in enumerate(thresholds):
        np.greater_equal(row, threshold, out=mask)
        counts[j] = above = np.count_nonzero(mask)
        if above * _SORTING <= len(row) * (len(thresholds) - j - 1):
            rest = row.compress(mask)
            rest.sort()
            counts[j + 1 : len(thresholds)] = above - np.searchsorted(rest, thresholds[j + 1 :])
            return


def _checked(
    query_features: Features, gallery_features: Features, q_ids: _Labels, g_ids: _Labels
) -> tuple[Tensor, Tensor, tuple[Array, Array], tuple[Array, Array]]:
    """The arguments of `positive_ranks` in one type each, or its errors; labels are pids and camids."""
    if (q_ids[1] is None) != (g_ids[1] is None):
        raise ValueError("cameras are needed of both the queries and the gallery, or of neither")
    queries, gallery = _features(query_features, "query"), _features(gallery_features, "gallery")
    q_pids, g_pids = _integers(q_ids[0], "q_pids"), _integers(g_ids[0], "g_pids")
    # Without cameras no query shares one with the gallery.
    q_cams = np.zeros_like(q_pids) if q_ids[1] is None else _integers(q_ids[1], "q_camids")
    g_cams = np.ones_like(g_pids) if g_ids[1] is None else _integers(g_ids[1], "g_camids")
    if len({len(queries), len(q_pids), len(q_cams)}) + len({len(gallery), len(g_pids), len(g_cams)}) > 2:
        raise ValueError(
            f"{len(queries)} query features for {len(q_pids)} pids, {len(gallery)} gallery features for "
            f"{len(g_pids)} pids; cameras of {len(q_cams)} queries and {len(g_cams)} images"
        )
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"query features have {queries.shape[1]} dimensions, gallery features {gallery.shape[1]}")
    return queries, gallery, (q_pids, q_cams), (g_pids, g_cams)


def _features(features: Features, side: str) -> Tensor:
    """``features`` as a float32 tensor ``[n, D]``, on the CPU or a CUDA device, without a copy where possible."""
    if isinstance(features, Tensor):
        rows = features.detach().float()
        rows = rows if rows.is_cuda else rows.cpu()
    else:
        with np.errstate(over="ignore"):  # becomes infinite, which is reported below
            rows = torch.from_numpy(np.require(features, np.float32, ["C", "W"]))
    if rows.ndim != 2:
        raise ValueError(f"{side} features have the shape {list(rows.shape)}, not [number, dimension]")
    bad = (~torch.isfinite(rows)).any(dim=1).nonzero()
    if len(bad):
        raise DataError(f"{side} features: row {int(bad[0])} (from 0) has values that are not finite in float32")
    return rows


def _normalize_(features: Tensor) -> Tensor:
    for rows in features.split(2048):  # what is float64 meanwhile stays small
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64)
        rows /= norms.clamp_(min=1e-12)
    return features


def _integers(values: Integers, name: str) -> Array:
    """``values [n]`` as int64."""
    array = np.asarray(values.cpu() if isinstance(values, Tensor) else values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{name} must be a list of integers, not {array.dtype} of shape {list(array.shape)}")
    if array.size and array.dtype == np.uint64 and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name} holds {array.max()}, which is more than an int64")
    return array.astype(np.int64)


def _on(device: torch.device, values: Array) -> Tensor:
    return torch.from_numpy(values).to(device)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Keeps a CUDA product of float32 from being rounded to TF32, whatever the training has set."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
