"""Linear probes: how well a linear classifier reads an attribute off an embedding (Alain and Bengio, arXiv:1610.01644).

A probe is a logistic regression from the standardised embeddings of photos to one attribute. Each photo is classified
once, by a probe trained on other people (cross-validation in folds of people): a probe could recognise a person it was
trained on and recall the attribute instead of seeing it.

The score is the balanced accuracy, the mean over an attribute's values of the share of photos classified correctly.
Values have unequal frequencies: plain accuracy would reach 76 % by predicting that nobody wears a hat. Chance is one
over the number of values, also for constant predictions. As that differs between attributes, the mean over attributes
is of ``(accuracy - chance) / (1 - chance)``: 0 at chance, 1 when all are correct.

Intervals are percentiles of a bootstrap over people, see `bootstrap`, with the same samples for all probes. They cover
the choice of test people; the probes are not retrained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation.bootstrap import format_interval, percentile_interval, resampling_weights
from t2ireid_plugin.utils.text import text_table

Array = npt.NDArray[Any]

FOLDS = 5  # parts that the people are divided into
C = 0.01  # inverse strength of the L2 penalty
SAMPLES = 1000  # of the bootstrap


class Probe(NamedTuple):
    """Result of one attribute and one embedding."""

    feature: str
    side: str
    attribute: str
    values: int  # number of values of the attribute
    photos: int
    people: int
    chance: float
    accuracy: float  # balanced
    low: float  # ends of the 95 % interval
    high: float


class Mean(NamedTuple):
    """Mean over all attributes of a side for one embedding."""

    feature: str
    side: str
    attributes: int
    above_chance: float  # 0 at chance, 1 when all are correct
    low: float  # ends of the 95 % interval
    high: float


class ProbeTable(NamedTuple):
    """Results of all probes."""

    probes: list[Probe]
    means: list[Mean]
    left_out: list[str]  # attributes with fewer than two values shared by enough people

    def mean(self, feature: str, side: str) -> Mean:
        """The mean of one embedding and side."""
        return next(mean for mean in self.means if (mean.feature, mean.side) == (feature, side))

    def as_dict(self) -> dict[str, Any]:
        """Content for a JSON file: ``means`` and ``attributes`` by embedding and side; shares of 1."""
        means: dict[str, dict[str, Any]] = {}
        attributes: dict[str, dict[str, dict[str, Any]]] = {}
        for mean in self.means:
            means.setdefault(mean.feature, {})[mean.side] = _scores(mean)
        for probe in self.probes:
            attributes.setdefault(probe.feature, {}).setdefault(probe.side, {})[probe.attribute] = _scores(probe)
        return {"means": means, "attributes": attributes, "left_out": self.left_out}


def probe_attributes(
    features: Mapping[str, Array | Tensor],
    attributes: Mapping[str, Mapping[str, Array]],
    groups: Array,
    *,
    folds: int = FOLDS,
) -> ProbeTable:
    """Probes each embedding for each attribute, all with the same folds and bootstrap samples of people.

    Args:
        features: embeddings ``[n, D]`` of the same photos, by name; D may differ.
        attributes: strings ``[n]`` by side (identity, clothing) and name. Excluded for an attribute are photos with an
            empty string, and values that fewer than ``folds`` people have.
        groups: the person in each photo ``[n]``.
        folds: number of parts that the people are divided into.

    Raises:
        DataError: for too few people, features that are not finite, or when there is nothing to probe.
        ValueError: when the lengths differ.
    """
    arrays = {name: _as_float64(name, values, len(groups)) for name, values in features.items()}
    names, people = np.unique(groups, return_inverse=True)
    if not 2 <= folds <= len(names):
        raise DataError(f"{len(names)} people cannot be divided into {folds} parts")
    part = (np.random.default_rng(0).permutation(len(names)) % folds)[people]
    # The first row weights all people once, the others are the bootstrap's.
    weights = np.vstack([np.ones((1, len(names)), int), resampling_weights(len(names), SAMPLES, seed=0)])

    probes, left_out = [], []
    above_chance: dict[tuple[str, str], list[Array]] = {}  # per mean: one [1 + samples] for each attribute
    rows = [(side, name, np.asarray(labels)) for side, group in attributes.items() for name, labels in group.items()]
    for side, attribute, labels in rows:
        if labels.shape != groups.shape:
            raise ValueError(f"{attribute} has labels of shape {list(labels.shape)} for {len(groups)} photos")
        # "" is not a value.
        common = [v for v in np.unique(labels) if v and len(np.unique(people[labels == v])) >= folds]
        usable = np.isin(labels, common)
        values, numbers = np.unique(labels[usable], return_inverse=True)
        if len(values) < 2:
            left_out.append(attribute)
            continue
        chance = 1 / len(values)
        counts = len(values), int(usable.sum()), len(np.unique(people[usable]))
        for name, array in arrays.items():
            predictions = _cross_validate(array[usable], numbers, part[usable])
            accuracies = _balanced_accuracies(numbers, predictions, people[usable], weights)
            probes.append(Probe(name, side, attribute, *counts, chance, *_with_interval(accuracies)))
            above_chance.setdefault((name, side), []).append((accuracies - chance) / (1 - chance))
    if not probes:
        raise DataError(f"nothing to probe: no attribute has two values that {folds} of the {len(names)} people show")
    means = [Mean(*key, len(own), *_with_interval(np.mean(own, axis=0))) for key, own in above_chance.items()]
    return ProbeTable(probes, means, left_out)


def format_probes(table: ProbeTable) -> str:
    """One row per attribute with each embedding's accuracy in percent, and the mean of each side."""
    features = list(dict.fromkeys(mean.feature for mean in table.means))
    rows: list[list[str]] = []
    for side in dict.fromkeys(mean.side for mean in table.means):
        rows.append([side, "values", "people", "chance", *features])
        for attribute in dict.fromkeys(probe.attribute for probe in table.probes if probe.side == side):
            probes = [probe for probe in table.probes if (probe.side, probe.attribute) == (side, attribute)]
            counts = str(probes[0].values), str(probes[0].people), f"{100 * probes[0].chance:.1f}"
            intervals = (format_interval(*probe[-3:], digits=1) for probe in probes)
            rows.append([f"  {attribute}", *counts, *intervals])
        means = (format_interval(*table.mean(feature, side)[-3:], digits=1) for feature in features)
        rows.append(["  mean above chance", "", "", "", *means])
    lines = [
        text_table(rows[0], rows[1:]),
        "Balanced accuracy of linear probes in %, on people that they were not trained on, with 95 % intervals.",
        "Mean above chance: of (accuracy - chance) / (1 - chance), 0 at chance and 100 when all are correct.",
    ]
    if table.left_out:
        lines.append(f"Left out, with fewer than two values that enough people show: {', '.join(table.left_out)}.")
    return "\n".join(lines)


def _as_float64(name: str, features: Array | Tensor, number: int) -> Array:
    """One embedding as float64 ``[n, D]``."""
    array = np.asarray(features.detach().cpu() if isinstance(features, Tensor) else features, np.float64)
    if array.ndim != 2 or len(array) != number:
        raise ValueError(f"{name} must be [{number}, D], not {list(array.shape)}")
    if not np.isfinite(array).all():
        raise DataError(f"{name} has values that are not finite")
    return array


def _cross_validate(features: Array, labels: Array, part: Array) -> Array:
    """The prediction ``[n]`` for each photo, by a probe trained on the other parts."""
    predictions = np.empty_like(labels)
    for tested in (part == one for one in np.unique(part)):
        train_labels = labels[~tested]
        if len(np.unique(train_labels)) < 2:  # everyone with another value is tested
            predictions[tested] = train_labels[0]
            continue
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=C, class_weight="balanced", max_iter=1000))
        predictions[tested] = probe.fit(features[~tested], train_labels).predict(features[tested])
    return predictions


def _balanced_accuracies(labels: Array, predictions: Array, people: Array, weights: Array) -> Array:
    """Balanced accuracy ``[S]`` for each weighting of the people ``[S, P]``, over the values that it has."""
    photos, correct = np.zeros((2, weights.shape[1], labels.max() + 1))  # [P, values] each
    np.add.at(photos, (people, labels), 1)
    np.add.at(correct, (people, labels), labels == predictions)
    photos, correct = weights @ photos, weights @ correct  # [S, values]
    return np.nanmean(np.where(photos > 0, correct / np.maximum(photos, 1), np.nan), axis=1)


def _with_interval(values: Array) -> tuple[float, float, float]:
    """The first value, which is of all people, and the ends of the interval of the others."""
    low, high = percentile_interval(values[1:])
    return float(values[0]), float(low), float(high)


def _scores(row: Probe | Mean) -> dict[str, Any]:
    return {key: value for key, value in row._asdict().items() if key not in ("feature", "side", "attribute")}
