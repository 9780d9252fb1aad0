"""Metrics of a retrieval task, by our exact evaluator or torchreid's, and their table."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchreid import metrics as torchreid_metrics
from torchreid import utils as torchreid_utils

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation.bootstrap import intervals
from t2ireid_plugin.evaluation.protocols import (
    COMPOSED_SUM,
    OFFICIAL,
    PROTOCOLS,
    SUM,
    SUMS,
    WEIGHTS,
    Embeddings,
    RetrievalTask,
)
from t2ireid_plugin.evaluation.ranks import positive_ranks, ranks_from_scores
from t2ireid_plugin.evaluation.result import CHOSEN_ON_TEST, Metrics, RetrievalResult, query_figures
from t2ireid_plugin.utils.language import say
from t2ireid_plugin.utils.text import text_table


def evaluate_task(
    task: RetrievalTask,
    ranks: Sequence[int] = (1, 5, 10),
    evaluator: str = "exact",
    samples: int = 0,
    metric: str = "cosine",
    **fields: Any,
) -> RetrievalResult:
    """The result of a task with its metrics: ``R@k``, ``mAP``, ``mINP`` as shares of 1, counts and intervals.

    Args:
        task: embeddings, identities and cameras of queries and gallery.
        ranks: the k of R@k.
        evaluator: ``exact`` ranks with `positive_ranks`, ``torchreid`` takes R@k and mAP from
            ``torchreid.metrics.evaluate_rank`` (which has no mINP). They agree except for ties.
        samples: of the bootstrap over identities; 0 for none.
        metric: ``cosine`` or ``euclidean``, which takes a whole matrix of distances, as torchreid does.
        **fields: of the result, such as ``target`` and ``protocol``.

    Raises:
        DataError: when no query has an image of its identity in the gallery.
    """
    if metric == "cosine":
        positives = positive_ranks(*task[:8])
    else:
        positives = ranks_from_scores(-_distances(*task[:2], metric), *task[2:8])
    result = result_from_ranks(positives, task, ranks, samples, **fields)
    if evaluator == "torchreid":
        distances = _distances(*task[:2], metric)
        if task.left_out is not None:
            distances[np.arange(len(distances)), task.left_out] = np.inf  # last, where it moves no match
        cmc, mean_ap = torchreid_metrics.evaluate_rank(distances, *task[2:6], max_rank=max(ranks))
        # A gallery smaller than the largest rank gives a shorter curve, which ends at 1.
        result.metrics.update({f"R@{k}": float(cmc[min(k, len(cmc)) - 1]) for k in ranks}, mAP=float(mean_ap))
    return result


def result_from_ranks(
    positives: Sequence[Sequence[int]],
    task: RetrievalTask,
    ranks: Sequence[int],
    samples: int,
    **fields: Any,
) -> RetrievalResult:
    """As `evaluate_task`, from the ranks of each query's positives."""
    valid = [own for own in positives if own]
    if not valid:
        raise DataError("no query has an image of its identity in the gallery")
    query_index = np.flatnonzero([len(own) for own in positives])
    pids = np.asarray(task.q_pids if task.people is None else task.people, np.int64)
    result = RetrievalResult(
        *query_figures(valid),
        pids=pids[query_index],
        query_index=query_index,
        task=task,
        **fields,
    )
    cmc = result.cmc(max(ranks))
    metrics: Metrics = {
        **{f"R@{k}": float(cmc[k - 1]) for k in ranks},
        "mAP": float(result.AP.mean()),
        "mINP": float(result.INP.mean()),
        "queries": len(task.q_pids),
        "valid_queries": len(valid),
        "skipped_queries": len(task.q_pids) - len(valid),  # without a match in their gallery; in none of the metrics
        "gallery": len(task.g_pids),
        "identities": len(np.unique(pids)),
    }
    if samples:
        metrics["interval95"] = {k: list(ends) for k, ends in intervals(result, ranks=ranks, samples=samples).items()}
    return replace(result, metrics=metrics)


def choose_weight(protocol: str, sets: Iterable[Embeddings]) -> float | None:
    """The weight of `WEIGHTS` with the highest mean mAP over some val sets; of equals, the one nearest to the middle.

    None where no set can tell: no described person has a second photo, or a second outfit.
    """
    tasks = functools.partial(_task, protocol)
    if protocol == SUM:
        sets = [e for e in sets if np.isin(e.query_pids, _with_several_photos(e.pids)).any()]
    if protocol in (COMPOSED_SUM, "composed_pair"):
        sets = [e for e in sets if e.looks is not None]
    scores = {w: np.mean([evaluate_task(tasks(e, w)).metrics["mAP"] for e in sets]) for w in WEIGHTS[protocol] if sets}
    middle = WEIGHTS[protocol][len(WEIGHTS[protocol]) // 2]
    return max(scores, key=lambda w: (scores[w], -abs(w - middle))) if scores else None


def _task(protocol: str, embeddings: Embeddings, weight: float) -> RetrievalTask:
    if protocol == OFFICIAL:  # its weight is the ranking's
        embeddings = embeddings._replace(ranking=embeddings.ranking._replace(weight=weight))
    return PROTOCOLS[protocol].build_task(embeddings, weight)


def _with_several_photos(pids: npt.NDArray) -> npt.NDArray:
    people, photos = np.unique(pids, return_counts=True)
    return people[photos > 1]


def reranked_metrics(
    task: RetrievalTask,
    ranks: Sequence[int] = (1, 5, 10),
    samples: int = 0,
    metric: str = "cosine",
) -> Metrics:
    """The metrics after torchreid's k-reciprocal re-ranking (Zhong et al. 2017), which holds whole distance matrices.

    Raises:
        DataError: when no query has an image of its identity in the gallery.
    """
    queries, gallery = task[:2]
    pairs = (queries, gallery), (queries, queries), (gallery, gallery)
    reranked = torchreid_utils.re_ranking(*(_distances(*pair, metric) for pair in pairs))
    return result_from_ranks(ranks_from_scores(-reranked, *task[2:8]), task, ranks, samples).metrics


def metrics_by_target(results: Iterable[RetrievalResult]) -> dict[str, dict[str, Metrics]]:
    """Metrics by target and protocol, as in ``results.json``; re-ranked ones are named ``<protocol>+rerank``."""
    table: dict[str, dict[str, Metrics]] = {}
    for result in results:
        protocols = table.setdefault(result.target, {})
        protocols[result.protocol] = result.metrics
        if result.reranked is not None:
            protocols[f"{result.protocol}+rerank"] = result.reranked
    return table


def format_metrics(target: str, protocol: str, metrics: Metrics) -> str:
    """One line with the metrics in percent and the sizes of both sides."""
    shares = " ".join(f"{key} {100 * metrics[key]:.2f}" for key in metrics if key.startswith(("R@", "m")))
    return f"{target} {protocol}: {shares} ({metrics['queries']} queries, {metrics['gallery']} in the gallery)"


def format_table(results: Mapping[str, Mapping[str, Metrics]]) -> str:
    """One row per target and protocol, shares of 1 as percentages, with the 95 % intervals of R@1 and mAP.

    Empty without results, as of a set without labels.
    """
    if not results:
        return ""
    rows = [(target, protocol, metrics) for target, group in results.items() for protocol, metrics in group.items()]
    names = [name for name in rows[0][2] if name.startswith("R@")] + ["mAP", "mINP"]
    bounded = [name for name in ("R@1", "mAP") if name in rows[0][2].get("interval95", {})]
    columns = [say(name) for name in ("target", "protocol", *names, "queries", "gallery")]
    header = [*columns, *(f"{name} 95 %" for name in bounded)]
    cells, notes = [], []
    for target, protocol, metrics in rows:
        shares = (f"{100 * metrics[name]:.2f}" for name in names)
        pairs = ((f"{100 * end:.1f}" for end in metrics["interval95"][name]) for name in bounded)
        ends = (say("{low} to {high}", low=low, high=high) for low, high in pairs)
        cells.append([target, protocol, *shares, str(metrics["queries"]), str(metrics["gallery"]), *ends])
        if number := metrics["skipped_queries"]:
            note = say("{number} queries have no match in their gallery and are left out", number=number)
            notes.append(f"{target} {protocol}: {note}")
        if "mSD" in metrics:
            note = "mSD {msd:.2f} (as the authors' published file computes it: {other:.2f})"
            values = {"msd": 100 * metrics["mSD"], "other": 100 * metrics["mSD_unsorted"]}
            notes.append(f"{target} {protocol}: {say(note, **values)}")
        if "epoch_chosen_on" in metrics:
            notes.append(f"{target} {protocol}: {say(CHOSEN_ON_TEST)}")
        if "weight" in metrics:
            sentence = "the identity branch's weight is {weight:g}"
            if protocol in SUMS:
                sentence = "the caption's weight is {weight:g}"
            origin = ", chosen on val" if metrics["weight_chosen"] else ", fixed, not chosen on val"
            notes.append(f"{target} {protocol}: {say(sentence, weight=metrics['weight'])}{say(origin)}")
    return "\n".join([text_table(header, cells, text_columns=2), *notes])


def _distances(query_features: Any, gallery_features: Any, metric: str) -> npt.NDArray:
    """torchreid's matrix of distances ``[q, g]``, squared where Euclidean.

    Raises:
        DataError: when one is not finite.
    """
    sides = torch.as_tensor(query_features), torch.as_tensor(gallery_features)
    distances = torchreid_metrics.compute_distance_matrix(*sides, metric).numpy()
    if not np.isfinite(distances).all():
        raise DataError("the features have values that are not finite, or distances too large for float32")
    return distances
