"""Product-quantised codes of FAISS ("FastScan"): a first pass over many vectors at a thirtieth of their memory.

Codes alone rank sentences badly, since sentences lie further from all photos than photos from each other; the best
candidates are therefore compared again with the vectors themselves.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from t2ireid_plugin.search.store import Vectors
from t2ireid_plugin.search.store.segments import chunks

MIN_INDEX = 100_000  # rows of an index above which segments have codes
MIN_SEGMENT = 16_384  # rows of a segment with codes
_TRAINING = 16_384  # vectors from which centroids are learned


@functools.cache
def has_faiss() -> bool:
    """True when FAISS is installed."""
    try:
        import faiss  # noqa: F401
    except ImportError:
        return False
    return True


def can_code(dim: int) -> bool:
    """True for vectors that codes are made of: FastScan takes an even number of parts, ours of 4 values."""
    return dim % 8 == 0


def build_codes(vectors: Vectors) -> Any:
    """A FAISS index of ``vectors [n, d]`` with 4 bits per 4 values, numbered by position."""
    import faiss

    dim = vectors.shape[1]
    codes = faiss.index_factory(dim, f"PQ{dim // 4}x4fs", faiss.METRIC_INNER_PRODUCT)
    positions = np.linspace(0, len(vectors) - 1, min(len(vectors), _TRAINING)).astype(np.int64)
    codes.train(np.ascontiguousarray(vectors[positions]))
    for part in chunks(vectors):
        codes.add(np.ascontiguousarray(part))
    return codes
