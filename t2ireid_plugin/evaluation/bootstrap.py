"""Bootstrap intervals over test people, of one model's metrics and of a difference between models.

The captions of a person are not independent, so people are resampled, not queries: each sample draws as many identities
as there are, with replacement, and takes all queries of a drawn identity as often as it was drawn (cluster bootstrap;
Field and Welsh 2007, Bootstrapping clustered data, J. R. Stat. Soc. B 69(3), section 2). The interval is between
percentiles of the samples' metrics (Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3).

An interval covers the choice of test people, not that of the training seed or of the gallery. With few identities it is
too narrow: below `FEW` a 95 % interval covers clearly less than 95 %. With one identity, or where all have the same
figures (R@10 of 100 %), both ends are the metric itself, which says nothing about other people.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation.result import RetrievalResult

Array = npt.NDArray

RANKS = (1, 5, 10)
LEVEL = 0.95  # share of the samples between the ends of an interval
FEW = 20  # identities; with as many normal ones the expected coverage of a 95 % interval is 0.93, with 10 it is 0.90


class Difference(NamedTuple):
    """A metric of two models on the same queries, as shares of 1."""

    a: float
    b: float
    low: float  # ends of the interval of b - a
    high: float
    # Share of the samples in which b - a is 0 or has the other sign than it has over all queries; 1 where that is 0.
    # Not a p-value: samples vary around the observed difference, not around zero.
    opposite: float

    @property
    def value(self) -> float:
        """The difference b - a."""
        return self.b - self.a

    @property
    def excludes_zero(self) -> bool:
        """True if 0 is outside the interval, whose ends belong to it."""
        return self.low > 0 or self.high < 0


def intervals(
    result: RetrievalResult, *, ranks: Sequence[int] = RANKS, samples: int = 2000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Low and high end of each metric's 95 % interval, by name: ``R@k`` for each of ``ranks``, ``mAP``, ``mINP``.

    Args:
        result: figures and identities of the queries that have a positive.
        ranks: the k of R@k.
        samples: number of bootstrap samples.
        seed: of the samples.

    Raises:
        DataError: when ``samples`` is less than 1 or ``seed`` negative.
    """
    means = group_means(_query_values(result, ranks), result.pids, samples, seed)
    low, high = percentile_interval(means)
    return dict(zip(_names(ranks), zip(low.tolist(), high.tolist(), strict=True), strict=True))


def paired_difference(
    a: Sequence[RetrievalResult],
    b: Sequence[RetrievalResult],
    *,
    ranks: Sequence[int] = RANKS,
    samples: int = 2000,
    seed: int = 0,
) -> dict[str, Difference]:
    """Each metric of two models on the same queries, with the interval of b - a from the same samples for both.

    Difficulty shared by both models cancels out, so this interval is narrower than two separate ones suggest. Of models
    trained with several seeds, a sample draws people and, independently, seeds, both with replacement, so the interval
    covers both choices. With three seeds the variance between seeds is underestimated by a third, so an interval that
    just misses zero is weak evidence.

    Args:
        a: results of the first model, one per training seed, all of the same queries.
        b: results of the second, the same seeds in the same order.
        ranks, samples, seed: as `intervals`.

    Raises:
        DataError: as `intervals`.
    """
    values = [np.stack([_query_values(result, ranks) for result in side]) for side in (a, b)]  # [S, v, metrics]
    # The same seed draws the same people for each training.
    parts = [group_means(difference, a[0].pids, samples, seed) for difference in values[1] - values[0]]
    weights = np.random.default_rng(seed).multinomial(len(a), np.full(len(a), 1 / len(a)), size=samples) / len(a)
    means = np.einsum("ns,snm->nm", weights, np.stack(parts))  # [samples, metrics]
    low, high = percentile_interval(means)
    means_a, means_b = (side.mean(axis=(0, 1)) for side in values)
    opposite = (means * np.sign(means_b - means_a) <= 0).mean(axis=0)
    columns = (column.tolist() for column in (means_a, means_b, low, high, opposite))
    return {name: Difference(*row) for name, row in zip(_names(ranks), zip(*columns, strict=True), strict=True)}


def resampling_weights(groups: int, samples: int, seed: int) -> Array:
    """How often each sample draws each of the ``groups`` with replacement; int64 ``[samples, groups]``.

    Raises:
        DataError: when ``samples`` is less than 1 or ``seed`` negative.
    """
    for name, number, least in (("samples", samples, 1), ("seed", seed, 0)):
        if number < least:
            raise DataError(f"{name} must be at least {least}, got {number}")
    rng = np.random.default_rng(seed)
    return np.stack([np.bincount(rng.integers(groups, size=groups), minlength=groups) for _ in range(samples)])


def group_means(values: Array, groups: npt.ArrayLike, samples: int, seed: int) -> Array:
    """Means of ``values [n, metrics]`` over resampled ``groups [n]``; ``[samples, metrics]``.

    A sample's mean is over its rows, whose number varies with the groups drawn.
    """
    numbers = np.unique(groups, return_inverse=True)[1].ravel()
    # Sums and counts of each group are all that a sample needs.
    sums = np.stack([np.bincount(numbers, column) for column in (*values.T, np.ones(len(values)))], axis=1)
    totals = resampling_weights(len(sums), samples, seed) @ sums
    return totals[:, :-1] / totals[:, -1:]


def percentile_interval(samples: Array) -> Array:
    """Low and high ends ``[2, …]`` that have 95 % of ``samples [samples, …]`` between them."""
    return np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)


def format_interval(value: float, low: float, high: float, signed: bool = False, digits: int = 2) -> str:
    """Shares of 1 as percentages, ``55.10 [53.90, 56.30]``; ``signed`` for a difference, ``+1.20 [-0.10, +2.50]``."""
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    cells = (round(100 * share, digits) + 0.0 for share in (value, low, high))
    middle, *ends = (f"{cell:{'+' if signed else ''}.{digits}f}" for cell in cells)
    return f"{middle} [{', '.join(ends)}]"


def _names(ranks: Sequence[int]) -> list[str]:
    return [*(f"R@{k}" for k in ranks), "mAP", "mINP"]


def _query_values(result: RetrievalResult, ranks: Sequence[int]) -> Array:
    """Each query's contribution to each metric, in the order of `_names`; float64 ``[v, metrics]``."""
    hits = (np.less_equal(result.first_rank, k) for k in ranks)
    return np.stack([*hits, result.AP, result.INP], axis=1).astype(np.float64)
