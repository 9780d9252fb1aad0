"""Linear probes: what a linear classifier can read off an embedding (Alain and Bengio 2016, arXiv:1610.01644).

A probe is a logistic regression from the standardised embeddings of photos to one attribute. Each photo is asked once,
of probes trained on other people (cross-validation in folds of people): somebody whom a probe knows it would recognise,
and recall the attribute instead of seeing it.

Its figure is the balanced accuracy, the mean over an attribute's values of the share of photos recognised. Values are
of unequal frequency, and plain accuracy would have 76 % for saying that nobody wears a hat. Chance is one over the
number of values for whatever knows nothing, constant answers included. As that differs between attributes, the mean
over attributes is of ``(accuracy - chance) / (1 - chance)``: 0 for chance, 1 for all right.

Intervals are between percentiles of a bootstrap over people, as in `bootstrap`, the same samples for all probes. They
say what other test people would change; the probes are not trained anew.
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

Array = npt.NDArray[Any]

FOLDS = 5
C = 0.01  # inverse strength of the L2 penalty
SAMPLES = 1000
_NOT_SHOWN = ""
_MIDDLE = (2.5, 97.5)  # percentiles


class Probe(NamedTuple):
    """One attribute read off one embedding."""

    feature: str
    side: str
    attribute: str
    values: int  # that the attribute has
    photos: int
    people: int
    chance: float
    accuracy: float  # balanced
    low: float  # ends of the 95 % interval
    high: float


class Mean(NamedTuple):
    """All attributes of a side read off one embedding, counting alike."""

    feature: str
    side: str
    attributes: int
    above_chance: float  # 0 for chance, 1 for all right
    low: float  # ends of the 95 % interval
    high: float


class ProbeTable(NamedTuple):
    """All probes of some embeddings."""

    probes: list[Probe]
    means: list[Mean]
    left_out: list[str]  # attributes with fewer than two values that enough people have

    def mean(self, feature: str, side: str) -> Mean:
        """What an embedding tells of one side."""
        return next(mean for mean in self.means if (mean.feature, mean.side) == (feature, side))

    def as_dict(self) -> dict[str, Any]:
        """What a JSON file holds: ``means`` and ``attributes`` by embedding and side; shares of 1."""
        means: dict[str, Any] = {}
        attributes: dict[str, Any] = {}
        for feature, side, *_ in self.means:
            means.setdefault(feature, {})[side] = _rest(self.mean(feature, side))
            attributes.setdefault(feature, {})[side] = {
                probe.attribute: _rest(probe) for probe in self.probes if (probe.feature, probe.side) == (feature, side)
            }
        return {"means": means, "attributes": attributes, "left_out": self.left_out}


class _Answers(NamedTuple):
    """How many of each person's photos of each value there are, and were recognised; ``[P, values]`` each."""

    photos: Array
    right: Array

    def balanced_accuracy(self, weights: Array) -> Array:
        """For each sample of the people ``[S, P]``, which may lack some values; ``[S]``."""
        photos, right = weights @ self.photos, weights @ self.right
        return np.nanmean(np.where(photos > 0, right / np.maximum(photos, 1), np.nan), axis=1)


def probe_attributes(
    features: Mapping[str, Array | Tensor],
    attributes: Mapping[str, Mapping[str, Array]],
    groups: Array,
    *,
    folds: int = FOLDS,
    penalty: float = C,
    samples: int = SAMPLES,
    seed: int = 0,
) -> ProbeTable:
    """Reads each attribute off each embedding, all with the same folds and samples of people.

    Args:
        features: embeddings ``[n, D]`` of the same photos, by name; D may differ.
        attributes: strings ``[n]`` by side (identity, clothing) and name. Left out for an attribute are photos with an
            empty string, and values that fewer than ``folds`` people have.
        groups: the person on each photo ``[n]``.
        folds: parts that the people are divided into.
        penalty: scikit-learn's C.
        samples: of the bootstrap.
        seed: divides the people and draws the samples.

    Raises:
        DataError: for too few people, features that are not finite, or when there is nothing to probe.
        ValueError: when the lengths differ.
    """
    arrays = {name: _checked(name, values, len(groups)) for name, values in features.items()}
    names, people = np.unique(groups, return_inverse=True)
    if not 2 <= folds <= len(names):
        raise DataError(f"{len(names)} people cannot be divided into {folds} parts")
    rng = np.random.default_rng(seed)
    part = (rng.permutation(len(names)) % folds)[people]
    weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=samples)

    probes, left_out = [], []
    above: dict[tuple[str, str], list[Array]] = {}  # of each mean: what is averaged, [samples + 1] each
    for side, attribute, labels in _listed(attributes, len(groups)):
        kept = _usable(labels, people, folds)
        values, numbers = np.unique(labels[kept], return_inverse=True)
        if len(values) < 2:
            left_out.append(attribute)
            continue
        about = len(values), int(kept.sum()), len(np.unique(people[kept])), 1 / len(values)
        for name, array in arrays.items():
            guesses = _cross_validate(array[kept], numbers, part[kept], penalty)
            answers = _count(numbers, guesses == numbers, people[kept], (len(names), len(values)))
            found = answers.balanced_accuracy(np.vstack([np.ones_like(weights[:1]), weights]))
            probes.append(Probe(name, side, attribute, *about, *_with_interval(found)))
            above.setdefault((name, side), []).append((found - about[-1]) / (1 - about[-1]))
    if not probes:
        raise DataError(
            f"nothing to probe: no attribute has two values that {folds} of the {len(names)} people each show"
        )
    means = [Mean(*key, len(found), *_with_interval(np.mean(found, axis=0))) for key, found in above.items()]
    return ProbeTable(probes, means, left_out)


def format_probes(table: ProbeTable) -> str:
    """A line an attribute with what each embedding tells of it, in percent, and the mean of each side."""
    features = list(dict.fromkeys(mean.feature for mean in table.means))
    lines: list[list[str]] = []
    for side in dict.fromkeys(mean.side for mean in table.means):
        rows: dict[str, list[Probe]] = {}
        for probe in table.probes:
            if probe.side == side:
                rows.setdefault(probe.attribute, []).append(probe)
        lines.append([side, "values", "people", "chance", *features])
        for attribute, found in rows.items():
            about = str(found[0].values), str(found[0].people), f"{100 * found[0].chance:.1f}"
            lines.append([f"  {attribute}", *about, *(_percent(*probe[-3:]) for probe in found)])
        means = [table.mean(feature, side) for feature in features]
        lines.append(["  mean above chance", "", "", "", *(_percent(*mean[-3:]) for mean in means)])
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))])
        for line in lines
    ]
    text += [
        "Balanced accuracy of linear probes in %, on people that they were not trained on, with 95 % intervals.",
        "Mean above chance: of (accuracy - chance) / (1 - chance), 0 for chance and 100 for all right.",
    ]
    if table.left_out:
        text.append(f"Left out, with fewer than two values that enough people show: {', '.join(table.left_out)}.")
    return "\n".join(text)


def _listed(attributes: Mapping[str, Mapping[str, Array]], number: int) -> list[tuple[str, str, Array]]:
    rows = [(side, name, np.asarray(labels)) for side, named in attributes.items() for name, labels in named.items()]
    for _, name, labels in rows:
        if labels.shape != (number,):
            raise ValueError(f"{name} has labels of shape {list(labels.shape)} for {number} photos")
    return rows


def _checked(name: str, features: Array | Tensor, number: int) -> Array:
    """One embedding as float64 ``[n, D]``."""
    array = np.asarray(features.detach().cpu() if isinstance(features, Tensor) else features, np.float64)
    if array.ndim != 2 or len(array) != number:
        raise ValueError(f"{name} must be [{number}, D], not {list(array.shape)}")
    if not np.isfinite(array).all():
        raise DataError(f"{name} has values that are not finite")
    return array


def _usable(labels: Array, people: Array, least: int) -> npt.NDArray[np.bool_]:
    """Which photos ``[n]`` show a value that at least so many people have."""
    shown = [value for value in np.unique(labels) if value != _NOT_SHOWN]
    return np.isin(labels, [value for value in shown if len(np.unique(people[labels == value])) >= least])


def _cross_validate(features: Array, labels: Array, part: Array, penalty: float) -> Array:
    """The answer ``[n]`` for each photo, of a probe trained on the other parts."""
    answers = np.empty_like(labels)
    for tested in (part == one for one in np.unique(part)):
        known = labels[~tested]
        if len(np.unique(known)) < 2:  # all who show another value are tested
            answers[tested] = known[0]
            continue
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, class_weight="balanced", max_iter=1000))
        answers[tested] = probe.fit(features[~tested], known).predict(features[tested])
    return answers


def _count(labels: Array, right: Array, people: Array, shape: tuple[int, int]) -> _Answers:
    photos, recognised = np.zeros(shape), np.zeros(shape)
    np.add.at(photos, (people, labels), 1)
    np.add.at(recognised, (people, labels), right)
    return _Answers(photos, recognised)


def _with_interval(found: Array) -> tuple[float, float, float]:
    """The first, which is of all people, and the ends of the interval of the others."""
    low, high = np.percentile(found[1:], _MIDDLE)
    return float(found[0]), float(low), float(high)


def _rest(row: Probe | Mean) -> dict[str, Any]:
    return {key: value for key, value in row._asdict().items() if key not in ("feature", "side", "attribute")}


def _percent(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
