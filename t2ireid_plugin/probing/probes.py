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
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
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


def probe_attributes(
    features: Mapping[str, Array | Tensor],
    attributes: Mapping[str, Mapping[str, Array]],
    groups: Array,
    *,
    folds: int = FOLDS,
) -> dict[str, Any]:
    """Probes each embedding for each attribute, all with the same folds and bootstrap samples of people.

    Args:
        features: embeddings ``[n, D]`` of the same photos, by name; D may differ.
        attributes: strings ``[n]`` by side (identity, clothing) and name. Excluded for an attribute are photos with an
            empty string, and values that fewer than ``folds`` people have, or only people of one part.
        groups: the person in each photo ``[n]``.
        folds: number of parts that the people are divided into.

    Returns:
        Content for a JSON file; ``low`` and ``high`` are the ends of 95 % intervals:

        - ``means[feature][side]``: number of ``attributes``, mean ``above_chance`` (0 at chance, 1 when all are
          correct), ``low``, ``high``,
        - ``attributes[feature][side][name]``: numbers of ``values``, ``photos`` and ``people``, ``chance``, balanced
          ``accuracy``, ``low``, ``high``,
        - ``left_out``: attributes with fewer than two values.

    Raises:
        DataError: for too few people, features that are not finite, or when there is nothing to probe.
    """
    arrays = {name: np.asarray(values, np.float64) for name, values in features.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise DataError(f"{name} has values that are not finite")
    names, people = np.unique(groups, return_inverse=True)
    if not 2 <= folds <= len(names):
        raise DataError(f"{len(names)} people cannot be divided into {folds} parts")
    part = (np.random.default_rng(0).permutation(len(names)) % folds)[people]
    # The first row weights all people once, the others are the bootstrap's.
    weights = np.vstack([np.ones((1, len(names)), int), resampling_weights(len(names), SAMPLES, seed=0)])

    means: dict[str, dict[str, Any]] = {}
    probes: dict[str, dict[str, dict[str, Any]]] = {}
    left_out = []
    for side, group in attributes.items():
        above_chance: dict[str, list[Array]] = {}  # by embedding: one [1 + samples] for each attribute
        for attribute, labels in group.items():
            where = {value: labels == value for value in np.unique(labels) if value}
            common = [
                value
                for value, rows in where.items()
                if len(np.unique(people[rows])) >= folds and len(np.unique(part[rows])) > 1
            ]
            if len(common) < 2:
                left_out.append(attribute)
                continue
            usable, chance = np.isin(labels, common), 1 / len(common)
            numbers = np.unique(labels[usable], return_inverse=True)[1]
            counts = {"values": len(common), "photos": int(usable.sum()), "people": len(np.unique(people[usable]))}
            for name, array in arrays.items():
                probe = make_pipeline(StandardScaler(), LogisticRegression(C=C, class_weight="balanced", max_iter=1000))
                predictions = cross_val_predict(probe, array[usable], numbers, cv=PredefinedSplit(part[usable]))
                accuracies = _balanced_accuracies(numbers, predictions, people[usable], weights)
                scores = {**counts, "chance": chance, **_with_interval("accuracy", accuracies)}
                probes.setdefault(name, {}).setdefault(side, {})[attribute] = scores
                above_chance.setdefault(name, []).append((accuracies - chance) / (1 - chance))
        for name, own in above_chance.items():
            mean = {"attributes": len(own), **_with_interval("above_chance", np.mean(own, axis=0))}
            means.setdefault(name, {})[side] = mean
    if not means:
        raise DataError(f"nothing to probe: no attribute has two values that {folds} of the {len(names)} people show")
    return {"means": means, "attributes": probes, "left_out": left_out}


def format_probes(table: Mapping[str, Any]) -> str:
    """Results of `probe_attributes` in percent: a row per attribute and a column per embedding."""
    means, probes = table["means"], table["attributes"]
    features = list(means)
    rows: list[list[str]] = []
    for side in means[features[0]]:
        rows.append([side, "values", "people", "chance", *features])
        for attribute, probe in probes[features[0]][side].items():
            counts = str(probe["values"]), str(probe["people"]), f"{100 * probe['chance']:.1f}"
            accuracies = (_format(probes[name][side][attribute], "accuracy") for name in features)
            rows.append([f"  {attribute}", *counts, *accuracies])
        rows.append(
            ["  mean above chance", "", "", "", *(_format(means[name][side], "above_chance") for name in means)]
        )
    lines = [
        text_table(rows[0], rows[1:]),
        "Balanced accuracy of linear probes in %, on people that they were not trained on, with 95 % intervals.",
        "Mean above chance: of (accuracy - chance) / (1 - chance), 0 at chance and 100 when all are correct.",
    ]
    if table["left_out"]:
        lines.append(f"Left out, with fewer than two values that enough people show: {', '.join(table['left_out'])}.")
    return "\n".join(lines)


def _balanced_accuracies(labels: Array, predictions: Array, people: Array, weights: Array) -> Array:
    """Balanced accuracy ``[S]`` for each weighting of the people ``[S, P]``, over the values that it has."""
    photos, correct = np.zeros((2, weights.shape[1], labels.max() + 1))  # [P, values] each
    np.add.at(photos, (people, labels), 1)
    np.add.at(correct, (people, labels), labels == predictions)
    photos, correct = weights @ photos, weights @ correct  # [S, values]
    return np.nanmean(np.where(photos > 0, correct / np.maximum(photos, 1), np.nan), axis=1)


def _with_interval(name: str, values: Array) -> dict[str, float]:
    """The first value, which is of all people, and the ends of the interval of the others."""
    low, high = percentile_interval(values[1:])
    return {name: float(values[0]), "low": float(low), "high": float(high)}


def _format(scores: Mapping[str, float], name: str) -> str:
    return format_interval(scores[name], scores["low"], scores["high"], digits=1)
