"""How far R@k, mAP and mINP would move with other test people: bootstrap intervals, of one model and of a difference.

The captions of a person are no independent evidence, so people are resampled, not queries: each sample draws as many
identities as there are, with replacement, and takes all queries of a drawn identity as often as it was drawn (cluster
bootstrap; Field and Welsh 2007, Bootstrapping clustered data, J. R. Stat. Soc. B 69(3), section 2). The interval is
between percentiles of the samples' metrics (Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3).

It says what the choice of test people does, not what another training seed or another gallery would do. With few
identities it is too narrow: below `FEW` a 95 % interval covers clearly less than 95 %, and with one identity, or where
all have the same figures (R@10 of 100 %), both ends are the metric itself, which says nothing about other people.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation.ranking import QueryScores

Array = npt.NDArray

RANKS = (1, 5, 10)
FEW = 20  # identities; with as many normal ones the expected coverage of a 95 % interval is 0.93, with 10 it is 0.90

_CELLS = 1 << 20  # draws held at once, in three arrays of 8 MiB


class Difference(NamedTuple):
    """A metric of two models on the same queries, as shares of 1."""

    a: float
    b: float
    low: float  # ends of the interval of b - a
    high: float
    # Share of the samples in which b - a is 0 or has the other sign than it has over all queries; 1 where that is 0.
    # No p-value: samples vary around the observed difference, not around none.
    opposite: float

    @property
    def value(self) -> float:
        """By how much b is larger."""
        return self.b - self.a

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 is outside the interval, whose ends belong to it."""
        return self.low > 0 or self.high < 0


def intervals(
    scores: QueryScores,
    pids: npt.ArrayLike,
    *,
    ranks: Sequence[int] = RANKS,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Low and high end of each metric's interval, by name: ``R@k`` for each of ``ranks``, ``mAP``, ``mINP``.

    Args:
        scores: of the ``v`` queries that have a positive. Others count in no metric; an identity that has only such
            queries is not drawn.
        pids: identities of all queries ``[n]``, those without a positive included, as ``scores.query_index`` counts.
        ranks: the k of R@k.
        samples: how often the identities are resampled.
        level: share of the samples between the ends.
        seed: the same gives the same intervals.

    Raises:
        DataError: when no query has a positive, ``samples`` is less than 1, or ``level`` not between 0 and 1.
        ValueError: when ``scores`` is of more queries than ``pids``.
    """
    drawn = _resample(_values(scores, ranks), _identities(scores, pids), samples, seed)
    low, high = _percentiles(drawn, level)
    return dict(zip(_names(ranks), zip(low.tolist(), high.tolist(), strict=True), strict=True))


def paired_difference(
    scores_a: QueryScores,
    scores_b: QueryScores,
    pids: npt.ArrayLike,
    *,
    ranks: Sequence[int] = RANKS,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Difference]:
    """Each metric of two models on the same queries and the interval of b - a, every sample drawn for both alike.

    What is hard for both then cancels out, so this is narrower than two intervals held side by side suggest.
    Arguments, names and errors are those of `intervals`.

    Raises:
        ValueError: also when the two are not of the same queries.
    """
    return difference_over_seeds([scores_a], [scores_b], pids, ranks=ranks, samples=samples, level=level, seed=seed)


def difference_over_seeds(
    scores_a: Sequence[QueryScores],
    scores_b: Sequence[QueryScores],
    pids: npt.ArrayLike,
    *,
    ranks: Sequence[int] = RANKS,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Difference]:
    """As `paired_difference`, of two recipes that were each trained with the same ``S`` seeds.

    A sample draws people and, on its own, seeds, both with replacement: what is left of the difference does not hang
    on the people nor on the seeds. With three seeds the share of the seeds is underestimated (by a third of its
    variance, as a sample of three varies less than what it was drawn from), so an interval that just misses zero says
    little.

    Args:
        scores_a: of each seed, all of the same queries.
        scores_b: likewise, the same seeds in the same order.

    Raises:
        ValueError: when the numbers of seeds differ, or the scores are not of the same queries.
    """
    if len(scores_a) != len(scores_b) or not scores_a:
        raise ValueError(f"{len(scores_a)} and {len(scores_b)} seeds to compare")
    if any(not np.array_equal(scores.query_index, scores_a[0].query_index) for scores in (*scores_a, *scores_b)):
        raise ValueError("the scores to compare are not of the same queries")
    values = [np.stack([_values(scores, ranks) for scores in side]) for side in (scores_a, scores_b)]  # [S, v, metrics]
    seeds, identities = len(scores_a), _identities(scores_a[0], pids)
    # The same seed draws the same people for each training.
    parts = [_resample(difference, identities, samples, seed) for difference in values[1] - values[0]]
    rng = np.random.default_rng(seed)
    chosen = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=samples) / seeds  # [samples, S]
    drawn = np.einsum("ns,snm->nm", chosen, np.stack(parts))
    low, high = _percentiles(drawn, level)
    means_a, means_b = (side.mean(axis=(0, 1)) for side in values)
    opposite = (drawn * np.sign(means_b - means_a) <= 0).mean(axis=0)
    columns = (column.tolist() for column in (means_a, means_b, low, high, opposite))
    return {name: Difference(*row) for name, row in zip(_names(ranks), zip(*columns, strict=True), strict=True)}


def format_interval(value: float, low: float, high: float, signed: bool = False) -> str:
    """Shares of 1 as percentages, ``55.10 [53.90, 56.30]``; ``signed`` for a difference, ``+1.20 [-0.10, +2.50]``."""
    # A zero of its own, so that what rounds to none does not read -0.00.
    cells = (round(100 * share, 2) + 0.0 for share in (value, low, high))
    middle, *ends = (f"{cell:{'+' if signed else ''}.2f}" for cell in cells)
    return f"{middle} [{', '.join(ends)}]"


def _names(ranks: Sequence[int]) -> list[str]:
    return [*(f"R@{k}" for k in ranks), "mAP", "mINP"]


def _values(scores: QueryScores, ranks: Sequence[int]) -> Array:
    """What each query adds to each metric, in the order of `_names`; float64 ``[v, metrics]``.

    Raises:
        DataError: when there is no query.
    """
    if not len(scores.query_index):
        raise DataError("no query has an image of its identity in the gallery, so there is nothing to resample")
    hits = (np.less_equal(scores.first_rank, k) for k in ranks)
    return np.stack([*hits, scores.AP, scores.INP], axis=1).astype(np.float64)


def _identities(scores: QueryScores, pids: npt.ArrayLike) -> Array:
    """Identities of the queries of ``scores``, numbered from 0 by their order ``[v]``."""
    every = np.asarray(pids)
    if scores.query_index.max() >= len(every):
        raise ValueError(f"{len(every)} pids, but scores of query {scores.query_index.max()}")
    return np.unique(every[scores.query_index], return_inverse=True)[1]


def _resample(values: Array, identities: Array, samples: int, seed: int) -> Array:
    """Means of ``values [v, metrics]`` over each resampling of the ``identities [v]``; ``[samples, metrics]``.

    A sample's mean is that over its queries, as the metric's is, whose number varies with the identities drawn.

    Raises:
        DataError: when ``samples`` is less than 1 or ``seed`` negative.
    """
    for name, number, least in (("samples", samples, 1), ("seed", seed, 0)):
        if number < least:
            raise DataError(f"{name} must be at least {least}, got {number}")
    # Sums and numbers of queries of each identity are all that a sample needs.
    sums = np.stack([np.bincount(identities, column) for column in (*values.T, np.ones(len(values)))], axis=1)
    people = len(sums)
    rng = np.random.default_rng(seed)
    rows = max(1, _CELLS // people)
    parts = []
    for start in range(0, samples, rows):
        number = min(rows, samples - start)
        drawn = rng.integers(people, size=(number, people)) + people * np.arange(number)[:, None]
        times = np.bincount(drawn.ravel(), minlength=number * people).reshape(number, people)
        parts.append(times.astype(np.float64) @ sums)
    totals = np.concatenate(parts)
    return totals[:, :-1] / totals[:, -1:]


def _percentiles(drawn: Array, level: float) -> Array:
    """Low and high ends ``[2, metrics]`` that have the share ``level`` of ``drawn [samples, metrics]`` between them."""
    if not 0 < level < 1:
        raise DataError(f"level must be between 0 and 1, got {level}")
    return np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
