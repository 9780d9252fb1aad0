"""Ranked lists, worst failures and similarity histograms of a retrieval result, ready to be drawn.

A list is ordered by similarity. Where a match and a non-match tie, the non-match comes first, as in `positive_ranks`;
other ties keep the gallery's order. Similarities that order a list are computed in float64 and rounded to float32, so
that equal embeddings tie; those that are only counted are computed in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from t2ireid_plugin.evaluation.protocols import COMPOSED, IMAGE_QUERY_PROTOCOLS, SUMS, RetrievalTask
from t2ireid_plugin.evaluation.result import RetrievalResult
from t2ireid_plugin.utils.language import say

Array = npt.NDArray
Items = Sequence[Sequence[Any]]  # items of a dataset, ``(path, pid, …, caption, id_text, cloth_text)``

_CELLS = 1 << 22  # similarities held at once; torch.histc relies on float32 counting exactly up to 2^24


class Hit(NamedTuple):
    """One gallery entry in a ranking: an image or a text."""

    photo: str  # path; "" for a text
    text: str  # "" for an image
    rank: int  # from 1
    score: float  # cosine similarity
    correct: bool  # whether it is of the query's person, in composed search also in the described outfit


class RankedList(NamedTuple):
    """One query and the first entries of its ranking."""

    number: int  # of the query, from 0
    pid: int
    text: str  # "" where the query is a photo alone
    photo: str  # path
    photo_seen: bool  # whether the model saw the photo, or only a text that describes it
    hits: list[Hit]  # best first
    first: Hit | None  # the best match, wherever it is; None if the gallery has none

    @property
    def beyond(self) -> list[Hit]:
        """The first match where the list ends before it, else nothing."""
        return [self.first] if self.first and self.first.rank > len(self.hits) else []


def evenly_spaced(count: int, number: int) -> list[int]:
    """Positions of up to ``number`` of ``count`` queries at even distances."""
    return np.unique(np.linspace(0, count - 1, min(count, number)).round().astype(int)).tolist()


def example_positions(result: RetrievalResult, number: int) -> tuple[list[int], list[int]]:
    """Positions of up to ``number`` queries: those whose first answer is right, and those whose first answer is wrong.

    A third of them is wrong, or less where there are fewer, or more where fewer are right. Each kind is evenly spaced
    among all of its kind, in the order of the queries. Queries without a match are of neither kind.
    """
    right, wrong = (result.query_index[mask] for mask in (result.first_rank == 1, result.first_rank > 1))
    few = min(len(wrong), max(round(number / 3), number - len(right)))
    chosen_right, chosen_wrong = evenly_spaced(len(right), number - few), evenly_spaced(len(wrong), few)
    return right[chosen_right].tolist(), wrong[chosen_wrong].tolist()


def worst_failures(result: RetrievalResult, number: int) -> list[int]:
    """Positions of the queries whose first match ranks lowest, the worst of each person, worst first.

    Equal ones are in the order of the queries. Queries whose first match has rank 1 and queries without a match are
    not failures.
    """
    order = np.argsort(-result.first_rank, kind="stable")
    failed = order[result.first_rank[order] > 1]
    _, worst = np.unique(result.pids[failed], return_index=True)
    return result.query_index[failed[np.sort(worst)[:number]]].tolist()


def ranked_lists(
    result: RetrievalResult, queries: Items, gallery: Items, positions: Sequence[int], top: int = 10
) -> list[RankedList]:
    """The ranked lists of some queries.

    Args:
        result: with its task.
        queries: items of the data, one per query ``[q]``.
        gallery: items of the data, one per gallery entry ``[g]``.
        positions: of the queries.
        top: entries per list.
    """
    task, protocol = result.task, result.protocol
    assert task is not None
    chosen = task.queries[list(positions)].double()
    similarities = (chosen @ task.gallery.double().T).float().numpy()
    return [_ranked_list(task, protocol, queries, gallery, *pair, top) for pair in zip(positions, similarities)]


def example_lists(result: RetrievalResult, queries: Items, gallery: Items, number: int) -> dict[str, list[RankedList]]:
    """The ranked lists of `example_positions`, under a heading for each kind; a kind without queries is left out.

    Args:
        result: with its task.
        queries: items of the data, one per query ``[q]``.
        gallery: items of the data, one per gallery entry ``[g]``.
        number: of lists in all.
    """
    kinds, groups = example_positions(result, number), {}
    right, every = int((result.first_rank == 1).sum()), len(result.first_rank)
    headings = (
        say("First answer right: {count:,} of {every:,} queries", count=right, every=every),
        say("First answer wrong: {count:,} of {every:,} queries", count=every - right, every=every),
    )
    for heading, positions, count in zip(headings, kinds, (right, every - right)):
        if positions:
            which = say("; all of them")
            if len(positions) < count:
                which = say("; {number} of them, evenly spaced", number=len(positions))
            groups[heading + which] = ranked_lists(result, queries, gallery, positions)
    return groups


def _ranked_list(
    task: RetrievalTask, protocol: str, queries: Items, gallery: Items, number: int, scores: Array, top: int
) -> RankedList:
    correct = task.g_pids == task.q_pids[number]
    excluded = correct & (task.g_camids == task.q_camids[number])
    photo = queries[number][0]
    if task.left_out is not None:
        excluded[task.left_out[number]], photo = True, gallery[task.left_out[number]][0]
    eligible = np.flatnonzero(~excluded)
    order = eligible[np.lexsort((correct[eligible], -scores[eligible]))]  # the last key is the first to sort by

    def hit(place: int) -> Hit:
        i = order[place]
        own, words = ("", gallery[i][-3]) if protocol == "i2t" else (gallery[i][0], "")
        return Hit(own, words, place + 1, float(scores[i]), bool(correct[i]))

    hits = [hit(place) for place in range(min(top, len(order)))]
    first = next((hit(place) for place in np.flatnonzero(correct[order]).tolist()), None)
    text, seen = query_text(protocol, queries[number])
    return RankedList(number, int(queries[number][1]), text, photo, seen, hits, first)


def query_text(protocol: str, item: Sequence[Any]) -> tuple[str, bool]:
    """The text of an item's query under a protocol, and whether the model sees the item's photo."""
    *_, caption, id_text, cloth_text = item
    if protocol in (*IMAGE_QUERY_PROTOCOLS, "ti2i_photo", "composed_photo"):
        return "", True
    texts = {"identity": id_text, "clothing": cloth_text, "both": f"{id_text} + {cloth_text}"}
    texts["caption_clothing"] = f"{caption} + {cloth_text}"
    if protocol.startswith(COMPOSED):
        return cloth_text, protocol != "composed_words"
    return texts.get(protocol, caption), protocol in SUMS


def similarity_histogram(task: RetrievalTask, bins: int = 100) -> tuple[Array, Array]:
    """Counts of the pairs of query and gallery entry whose similarity is in each of ``bins`` equal parts of [-1, 1].

    Computed in chunks of queries. Returns the counts of pairs of the same person and of different people, int64
    ``[bins]`` each; entries excluded from a query's gallery are in neither.
    """
    same, excluded, every, left_out = torch.zeros(4, bins, dtype=torch.int64)
    q_pids, g_pids, q_camids, g_camids = map(torch.as_tensor, task[2:6])
    chunk = max(1, _CELLS // len(g_pids))
    for start in range(0, len(q_pids), chunk):
        part = slice(start, start + chunk)
        scores = task.queries[part] @ task.gallery.T  # [c, g]
        same_pid = q_pids[part, None] == g_pids
        same_camera = same_pid & (q_camids[part, None] == g_camids)
        groups = [(every, scores.flatten()), (same, scores[same_pid]), (excluded, scores[same_camera])]
        if task.left_out is not None:
            groups.append((left_out, scores.gather(1, torch.as_tensor(task.left_out[part, None]))))
        for counts, values in groups:
            # Rounding may take a product of unit vectors beyond 1, where histc would not count it.
            counts += torch.histc(values.clamp(-1, 1), bins, -1, 1).long()
    return (same - excluded).numpy(), (every - same - left_out).numpy()  # what is left out never matches
