"""Linear probes on features whose content is known, and against scikit-learn's own cross-validation."""

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import KFold, LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.probing.probes import C, format_probes, probe_attributes

WIDTH = 24


class People:
    """`number` people with `photos` each and random attributes."""

    def __init__(self, number=120, photos=5, seed=0):
        self.rng = np.random.default_rng(seed)
        self.groups = np.repeat(self.rng.permutation(10 * number)[:number], photos)
        self.number, self.photos = number, photos

    def attribute(self, values, shares=None):
        """The same value in all photos of a person."""
        return np.repeat(self.rng.choice(values, self.number, p=shares), self.photos)

    def noise(self, width=WIDTH):
        return self.rng.normal(size=(len(self.groups), width))

    def showing(self, *attributes, strength=4.0):
        """Noise with a direction for each value of the attributes."""
        features = self.noise()
        for labels in attributes:
            names, numbers = np.unique(labels, return_inverse=True)
            features += strength * self.rng.normal(size=(len(names), WIDTH))[numbers]
        return features


COLOURS = ["black", "red", "green", "white"]


def the_only(table):
    """The scores of the only probe of a table."""
    ((probe,),) = [[*side.values()] for side in next(iter(table["attributes"].values())).values()]
    return probe


def test_planted_attributes_are_read_and_noise_stays_at_chance():
    people = People(200)
    hair, coat = people.attribute(["short", "long", "bald"], [0.6, 0.3, 0.1]), people.attribute(COLOURS)
    features = {
        "id": people.showing(hair),
        "cloth": people.showing(coat),
        "both": people.showing(hair, coat),
        "noise": people.noise(),
        "nothing": np.ones((len(hair), 3)),
    }
    table = probe_attributes(features, {"identity": {"hair": hair}, "clothing": {"coat": coat}}, people.groups)
    probes = {feature: sides["identity"] | sides["clothing"] for feature, sides in table["attributes"].items()}
    for feature, attribute, planted in [
        ("id", "hair", True), ("id", "coat", False), ("cloth", "hair", False), ("cloth", "coat", True),
        ("both", "hair", True), ("both", "coat", True), ("noise", "hair", False), ("noise", "coat", False),
        ("nothing", "hair", False), ("nothing", "coat", False),
    ]:  # fmt: skip
        probe = probes[feature][attribute]
        assert probe["chance"] == {"hair": 1 / 3, "coat": 1 / 4}[attribute]
        assert probe["values"] == {"hair": 3, "coat": 4}[attribute]
        assert probe["low"] <= probe["accuracy"] <= probe["high"]
        if planted:
            assert probe["low"] > 0.9, probe
        else:
            assert abs(probe["accuracy"] - probe["chance"]) < 0.07, probe
    assert table["means"]["id"]["identity"]["above_chance"] > 0.9
    assert abs(table["means"]["id"]["clothing"]["above_chance"]) < 0.1


def test_people_are_never_in_both_training_and_test():
    """Features that encode only identity: tested on people of the training folds they would reveal the attribute."""
    people = People(60, photos=6)
    coat = people.attribute(COLOURS)
    who = np.unique(people.groups, return_inverse=True)[1]
    features = 5 * np.eye(60)[who] + 0.1 * people.noise(60)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000))
    leaking = cross_val_predict(pipeline, features, coat, cv=KFold(5, shuffle=True, random_state=0))
    assert balanced_accuracy_score(coat, leaking) > 0.99
    probe = the_only(probe_attributes({"id": features}, {"clothing": {"coat": coat}}, people.groups))
    assert probe["accuracy"] < 0.4


def test_against_scikit_learns_cross_validation():
    """With as many folds as people the division is not random, so scikit-learn has the same."""
    people = People(12, photos=8)
    worn = np.array(["a", "a", "a", "b", "b", "c", "c", "c"] * 12)  # everyone wears all of them, so none is rare
    features = people.showing(worn, strength=0.5)
    probe = the_only(probe_attributes({"x": features}, {"clothing": {"worn": worn}}, people.groups, folds=12))
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=C, class_weight="balanced", max_iter=1000))
    answers = cross_val_predict(pipeline, features, worn, groups=people.groups, cv=LeaveOneGroupOut())
    assert 0.4 < probe["accuracy"] < 0.95
    assert probe["accuracy"] == pytest.approx(balanced_accuracy_score(worn, answers))


def test_interval_width_follows_the_number_of_people():
    """One photo each of two equally frequent values make a binomial share; copies of photos do not narrow it."""
    people = People(400, photos=1)
    coat = np.tile(["red", "blue"], 200)
    features = people.showing(coat, strength=0.15)
    probe = the_only(probe_attributes({"x": features}, {"clothing": {"coat": coat}}, people.groups))
    assert 0.55 < probe["accuracy"] < 0.9
    deviation = np.sqrt(probe["accuracy"] * (1 - probe["accuracy"]) / 400)
    assert probe["high"] - probe["low"] == pytest.approx(2 * 1.96 * deviation, rel=0.15)
    copies = {"x": np.tile(features, (3, 1))}, {"clothing": {"coat": np.tile(coat, 3)}}, np.tile(people.groups, 3)
    copied = the_only(probe_attributes(*copies))
    assert copied["photos"] == 3 * probe["photos"]
    assert copied["high"] - copied["low"] == pytest.approx(probe["high"] - probe["low"], rel=0.15)


def test_empty_and_rare_values_are_left_out():
    people = People(40)
    coat = people.attribute(COLOURS[:2]).astype("U9")
    coat[:: people.photos] = ""  # the first photo of everybody
    coat[1:20:5] = "turquoise"  # of four people
    lone = np.where(people.groups == people.groups[0], "tattoo", "none")
    attributes = {"clothing": {"coat": coat}, "identity": {"mark": lone, "unknown": np.full(len(coat), "")}}
    table = probe_attributes({"x": people.noise()}, attributes, people.groups)
    assert table["left_out"] == ["mark", "unknown"]
    probe = the_only(table)
    assert (probe["values"], probe["photos"], probe["people"]) == (2, 40 * 4 - 4, 40)


def test_a_value_that_only_one_part_of_the_people_shows_is_left_out():
    """Without it, everyone else would have one value, which no probe can be trained on."""
    people = People(40)
    part = (np.random.default_rng(0).permutation(40) % 5)[np.unique(people.groups, return_inverse=True)[1]]
    coat = np.where(part == 2, "red", "black")
    attributes = {"clothing": {"coat": coat, "hat": people.attribute(["yes", "no"])}}
    assert probe_attributes({"x": people.noise()}, attributes, people.groups)["left_out"] == ["coat"]


def test_tensors_order_and_scale_change_nothing():
    people = People(40)
    coat = people.attribute(COLOURS)
    features = people.showing(coat, strength=1).astype(np.float32)
    attributes = {"clothing": {"coat": coat}}
    first = probe_attributes({"x": features}, attributes, people.groups)
    tensor = torch.from_numpy(features)
    both = probe_attributes({"y": tensor * 1, "x": tensor}, attributes, people.groups)
    assert both["attributes"]["x"] == first["attributes"]["x"]
    scaled = probe_attributes({"x": 100 * features - 7}, attributes, people.groups)  # standardised away
    assert the_only(scaled)["accuracy"] == pytest.approx(the_only(first)["accuracy"], abs=0.01)


def test_table_means_and_json():
    people = People(40)
    attributes = {"identity": {"hair": people.attribute(["a", "b"])}, "clothing": {"coat": people.attribute(COLOURS)}}
    attributes["clothing"]["hat"] = people.attribute(["yes", "no"])
    table = probe_attributes({"id_embeds": people.noise(), "cloth_embeds": people.noise()}, attributes, people.groups)
    content = json.loads(json.dumps(table))
    assert content == table
    lines = [line.split() for line in format_probes(table).splitlines()]
    for side, attribute in (("identity", "hair"), ("clothing", "coat")):
        assert next(line for line in lines if line[0] == side)[-2:] == ["id_embeds", "cloth_embeds"]
        probe = content["attributes"]["id_embeds"][side][attribute]
        cells = [str(probe["values"]), "40", f"{100 / probe['values']:.1f}", f"{100 * probe['accuracy']:.1f}"]
        assert next(line for line in lines if line[0] == attribute)[1:6] == [*cells, f"[{100 * probe['low']:.1f},"]
    mean = content["means"]["cloth_embeds"]["clothing"]
    probes = content["attributes"]["cloth_embeds"]["clothing"].values()
    above_chance = [(probe["accuracy"] - probe["chance"]) / (1 - probe["chance"]) for probe in probes]
    assert mean["above_chance"] == pytest.approx(np.mean(above_chance))
    assert mean["attributes"] == 2
    assert mean["low"] <= mean["above_chance"] <= mean["high"]


def test_invalid_input_is_refused():
    people = People(20)
    features, coat = people.noise(), people.attribute(COLOURS)
    attributes = {"clothing": {"coat": coat}}
    with pytest.raises(DataError, match="id_embeds has values that are not finite"):
        probe_attributes({"id_embeds": np.full_like(features, np.nan)}, attributes, people.groups)
    with pytest.raises(DataError, match="20 people cannot be divided into 21 parts"):
        probe_attributes({"x": features}, attributes, people.groups, folds=21)
    with pytest.raises(DataError, match="nothing to probe"):
        probe_attributes({"x": features}, {"clothing": {"coat": np.full(100, "red")}}, people.groups)
