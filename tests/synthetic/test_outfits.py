"""People drawn in several outfits."""

import json
from collections import defaultdict
from dataclasses import asdict
from itertools import combinations, islice

import numpy as np
import pytest

from t2ireid_plugin.data.annotations import UNKNOWN_OUTFIT
from t2ireid_plugin.data.benchmarks import BENCHMARKS
from t2ireid_plugin.data.dataset import CaptionDataset
from t2ireid_plugin.data.images import read_pixels
from t2ireid_plugin.data.item_table import OUTFIT
from t2ireid_plugin.synthetic import write_synthetic
from t2ireid_plugin.synthetic.outfits import outfit_of, sample_cast
from t2ireid_plugin.synthetic.parts import drawn_photos

COUNTS = {"train_ids": 4, "val_ids": 2, "test_ids": 16, "photos": 4, "seed": 2, "progress": False}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The people in one outfit each, as the default has them."""
    root = tmp_path_factory.mktemp("one")
    write_synthetic(root, **COUNTS)
    return root / "CUHK-PEDES"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The same people, those of test in two."""
    root = tmp_path_factory.mktemp("two")
    write_synthetic(root, **COUNTS, outfits=2)
    return root / "CUHK-PEDES"


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def images(folder, rows):
    return {row["file_path"]: (folder / "imgs" / row["file_path"]).read_bytes() for row in rows}


def test_more_test_outfits_leave_train_val_and_the_first_outfit_unchanged(one, two):
    rows = {folder: read(folder, "reid_raw") for folder in (one, two)}
    number = {path: photo["outfit"] for path, photo in read(two, "attributes")["photos"].items()}
    same = [[row for row in rows[folder] if not number[row["file_path"]]] for folder in (one, two)]
    assert [row for row in same[0] if row["split"] != "test"] == [row for row in same[1] if row["split"] != "test"]
    assert [row | {"outfit": 0} for row in same[0]] == [row | {"outfit": 0} for row in same[1]]
    assert images(one, same[0]) == images(two, same[1])
    assert len(same[0]) == 6 * 4 + 16 * 2
    changed = [row for row in rows[two] if number[row["file_path"]]]
    assert {row["split"] for row in changed} == {"test"}
    before, after = images(one, changed), images(two, changed)
    assert all(before[path] != after[path] for path in after)


def test_identity_and_the_first_outfit_do_not_change(one, two):
    assert not [path for path in one.glob("*.json") if "outfit" in path.read_text()]  # a single one is not recorded
    people, before = read(two, "attributes")["people"], read(one, "attributes")["people"]
    for pid, person in people.items():
        assert person["identity"] == before[pid]["identity"]
        first, *others = person["outfits"]
        assert first == before[pid]["clothing"]
        assert len(others) == (int(pid) > 6)


def test_outfits_differ_pairwise_and_no_two_people_look_the_same():
    cast = sample_cast({"train_ids": 20, "val_ids": 0, "test_ids": 60, "seed": 0, "outfits": 3, "train_outfits": 2})
    assert [split for split, _ in cast] == ["train"] * 20 + ["test"] * 60
    assert [len(outfits) for _, outfits in cast] == [2] * 20 + [3] * 60
    for number, (_, outfits) in enumerate(cast, 1):
        assert {person.pid for person in outfits} == {number}
        assert len({person.identity for person in outfits}) == 1
        for a, b in combinations([asdict(person.clothing) for person in outfits], 2):
            same = {name for name in a if a[name] == b[name]}
            assert {name for name in same if a[name] not in ("none", "plain")} <= {"sleeve"}
            assert not same & {"upper_kind", "upper_colour", "lower_kind", "lower_colour", "shoes_kind", "shoes_colour"}
    everybody = [(person.identity, person.clothing) for _, outfits in cast for person in outfits]
    assert len(set(everybody)) == len(everybody)


@pytest.mark.parametrize(("photos", "outfits"), [(4, 2), (6, 3), (5, 2), (2, 2), (7, 1)])
def test_photos_are_divided_evenly_among_outfits(photos, outfits):
    worn = [outfit_of(photo, photos, outfits) for photo in range(photos)]
    assert worn == sorted(worn)
    assert set(worn) == set(range(outfits))
    assert np.ptp(np.bincount(worn)) <= 1


def test_training_people_have_train_outfits(tmp_path):
    write_synthetic(tmp_path, **{**COUNTS, "test_ids": 1}, train_outfits=2)
    truth = read(tmp_path / "CUHK-PEDES", "attributes")
    assert [len(person["outfits"]) for person in truth["people"].values()] == [2] * 6 + [1]
    worn = defaultdict(list)
    for photo in truth["photos"].values():
        worn[photo["id"]].append(photo["outfit"])
    assert worn == {**{pid: [0, 0, 1, 1] for pid in range(1, 7)}, 7: [0, 0, 0, 0]}


def test_the_dataset_and_the_parts_read_several_outfits(two):
    """`drawn_photos` draws each photo again and compares it with the file; a person's photos show both outfits."""
    dataset = CaptionDataset(two.parent, spec=BENCHMARKS["cuhkpedes"])
    assert dataset.counts["test"] == (16 * 4, 16, 16 * 4 * 2)
    assert dataset.gallery.columns[:, OUTFIT].tolist() == [0, 0, 1, 1] * 16
    assert dataset.train.columns[:, OUTFIT].unique().tolist() == [UNKNOWN_OUTFIT]
    for row, labels in islice(drawn_photos(two.parent), 4):
        assert labels.shape == read_pixels(two / "imgs" / row["file_path"]).shape[:2]
