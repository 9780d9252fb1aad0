"""What a query found, for people to look at: ranked lists, worst failures, the spread of similarities.

A list is ordered by similarity; where a right and a wrong answer tie, the wrong one comes first, as in `positives`, and
else the order of the gallery decides. Similarities that order a list are computed in float64 and rounded to float32, so
that equal embeddings tie wherever they stand; those that are only counted are computed in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from t2ireid_plugin.evaluation.protocols import IMAGE_QUERY_PROTOCOLS, RetrievalTask
from t2ireid_plugin.evaluation.ranking import QueryScores

Array = npt.NDArray

_CELLS = 1 << 22  # similarities held at once; and float32 counts exactly up to 2^24, which torch.histc relies on


class Query(NamedTuple):
    """What was asked."""

    text: str  # "" where a photo asks alone
    photo: str  # path
    photo_seen: bool  # whether the model saw the photo, or only a text that was written for it


class Answer(NamedTuple):
    """What can be found: an image, or a text."""

    photo: str = ""  # path
    text: str = ""


class Hit(NamedTuple):
    """One answer of a ranking."""

    answer: Answer
    rank: int  # from 1
    score: float  # cosine similarity
    correct: bool  # whether it is of the query's person


class RankedList(NamedTuple):
    """One query and the first answers of its ranking."""

    number: int  # of the query, from 0
    pid: int
    query: Query
    hits: list[Hit]  # best first
    first: Hit | None  # the best right answer, wherever it is; None if the gallery has none


def query_of(protocol: str, item: Sequence[Any]) -> Query:
    """What an item of the data, ``(path, pid, …, caption, id_text, cloth_text)``, asks under a protocol."""
    path, *_, caption, id_text, cloth_text = item
    if protocol in IMAGE_QUERY_PROTOCOLS:
        return Query("", path, photo_seen=True)
    texts = {"identity": id_text, "clothing": cloth_text, "both": f"{id_text} + {cloth_text}"}
    return Query(texts.get(protocol, caption), path, photo_seen=protocol == "ti2i")


def answer_of(protocol: str, item: Sequence[Any]) -> Answer:
    """What an item of the data is to those who find it."""
    return Answer(text=item[-3]) if protocol == "i2t" else Answer(photo=item[0])


def evenly_spaced(count: int, number: int) -> list[int]:
    """Up to ``number`` of ``count`` queries at even distances, so that nobody chose them."""
    return np.unique(np.linspace(0, count - 1, number).round().astype(int)).tolist()


def worst_failures(scores: QueryScores, number: int) -> list[int]:
    """The queries whose first right answer is ranked lowest, worst first; equals in the order of the queries.

    Those whose list begins right, and those without a right answer, have not failed and are never among them.
    """
    order = np.argsort(-scores.first_rank.astype(np.int64), kind="stable")[:number]
    return scores.query_index[order[scores.first_rank[order] > 1]].tolist()


def cmc_curve(scores: QueryScores, max_rank: int = 50) -> Array:
    """R@1 to R@``max_rank`` as shares of 1, of the queries that have a right answer; ``[max_rank]`` float64."""
    firsts = np.bincount(np.minimum(scores.first_rank, max_rank + 1), minlength=max_rank + 2)
    return np.cumsum(firsts[1:-1]) / len(scores.first_rank)


def ranked_lists(
    protocol: str,
    comparison: RetrievalTask,
    asking: Sequence[Sequence[Any]],
    found: Sequence[Sequence[Any]],
    chosen: Sequence[int],
    top: int = 10,
) -> list[RankedList]:
    """The lists of the queries ``chosen``, of up to ``top`` answers each.

    Args:
        protocol: whose ``comparison`` this is.
        comparison: embeddings, identities and cameras.
        asking: items of the data, one a query ``[q]``.
        found: items of the data, one an entry of the gallery ``[g]``.
        chosen: numbers of queries.
        top: answers a list.
    """
    lists = []
    for number, scores in zip(chosen, _similarities(comparison, chosen)):
        pid = int(comparison.q_pids[number])
        right = comparison.g_pids == pid
        kept = np.flatnonzero(~(right & (comparison.g_camids == comparison.q_camids[number])))
        order = kept[np.lexsort((right[kept], -scores[kept]))]  # the last key is the first to sort by
        first = next(iter(np.flatnonzero(right[order]).tolist()), None)
        shown = dict.fromkeys([*range(min(top, len(order))), *([] if first is None else [first])])
        hits = {
            i: Hit(answer_of(protocol, found[order[i]]), i + 1, float(scores[order[i]]), bool(right[order[i]]))
            for i in shown
        }
        best = None if first is None else hits[first]
        lists.append(
            RankedList(number, pid, query_of(protocol, asking[number]), [hits[i] for i in shown if i < top], best)
        )
    return lists


def similarity_histogram(comparison: RetrievalTask, bins: int = 100) -> tuple[Array, Array]:
    """How many pairs of a query and an answer have a similarity in each of ``bins`` equal parts of [-1, 1].

    The whole matrix is never held. Returns the counts of pairs of one person and of two, ``[bins]`` int64 each; what
    is left out of a query's gallery is in neither.
    """
    same, left_out, every = torch.zeros(3, bins, dtype=torch.int64)
    q_pids, g_pids, q_camids, g_camids = map(torch.as_tensor, comparison[2:])
    gallery = comparison.gallery.T
    chunk = max(1, _CELLS // len(g_pids))
    for at in range(0, len(q_pids), chunk):
        part = slice(at, at + chunk)
        scores = comparison.queries[part] @ gallery  # [c, g]
        one_person = q_pids[part, None] == g_pids
        one_camera = one_person & (q_camids[part, None] == g_camids)
        for counts, some in ((every, scores.flatten()), (same, scores[one_person]), (left_out, scores[one_camera])):
            # A product of unit vectors may pass 1 by a rounding, and histc leaves out what lies outside.
            counts += torch.histc(some.clamp(-1, 1), bins, -1, 1).long()
    return (same - left_out).numpy(), (every - same).numpy()


def _similarities(comparison: RetrievalTask, chosen: Sequence[int]) -> npt.NDArray[np.float32]:
    """Of some queries with the whole gallery ``[c, g]``."""
    queries = comparison.queries[torch.as_tensor(list(chosen), dtype=torch.long)].double()
    parts: list[Tensor] = [(queries @ part.double().T).float() for part in comparison.gallery.split(4096)]
    return torch.cat(parts, dim=1).numpy()
