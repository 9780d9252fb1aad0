"""True attributes of drawn photos as labels."""

import json

import numpy as np
import pytest

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.synthetic import write_synthetic
from t2ireid_plugin.synthetic.truth import NOT_SHOWN, read_truth


@pytest.fixture(scope="module", params=[1, 2])
def drawn(tmp_path_factory, request):
    """The root, the paths of its photos in a mixed order, and what attributes.json says of each."""
    root = tmp_path_factory.mktemp("drawn")
    write_synthetic(root, train_ids=1, val_ids=0, test_ids=30, photos=4, outfits=request.param, progress=False)
    content = json.loads((root / "CUHK-PEDES" / "attributes.json").read_text())
    names = np.random.default_rng(0).permutation(sorted(content["photos"])).tolist()
    photos = [content["photos"][name] for name in names]
    paths = [str(root / "CUHK-PEDES" / "imgs" / name) for name in names]
    return root, paths, photos, content["people"]


def test_values_are_those_of_the_person_in_the_outfit(drawn):
    root, paths, photos, people = drawn
    truth = read_truth(root, paths)
    assert truth.pids.tolist() == [photo["id"] for photo in photos]
    assert truth.outfits.tolist() == [photo.get("outfit", 0) for photo in photos]
    assert list(truth.attributes["identity"]) == [
        "sex", "age", "build", "height", "skin", "hair_style", "hair_colour", "glasses"
    ]  # fmt: skip
    assert set(truth.attributes["clothing"]).isdisjoint(truth.attributes["identity"])
    assert len(truth.attributes["clothing"]) == 14
    for i, photo in enumerate(photos):
        person = people[str(photo["id"])]
        worn = person["outfits"][photo["outfit"]] if "outfits" in person else person["clothing"]
        for side, values in ((truth.attributes["identity"], person["identity"]), (truth.attributes["clothing"], worn)):
            for name, labels in side.items():
                assert labels[i] in (values[name], NOT_SHOWN)
                if values[name] not in ("none", "plain") and name != "age":
                    assert (labels[i] == NOT_SHOWN) == (name not in photo["visible"])


def test_attributes_that_a_photo_does_not_show_have_no_label(drawn):
    root, paths, photos, people = drawn
    truth = read_truth(root, paths)
    back = np.array([photo["viewpoint"] == "back" for photo in photos])
    assert 10 < back.sum() < len(back) - 10
    for name in ("age", "skin", "glasses"):
        assert (truth.attributes["identity"][name][back] == NOT_SHOWN).all()
        assert (truth.attributes["identity"][name][~back] != NOT_SHOWN).mean() > 0.6
    assert {"none", "glasses"} <= set(truth.attributes["identity"]["glasses"])
    bald = np.array([people[str(photo["id"])]["identity"]["hair_style"] == "bald" for photo in photos])
    assert (truth.attributes["identity"]["hair_colour"][bald] == NOT_SHOWN).all()


def test_an_absent_item_has_a_kind_but_not_a_colour(drawn):
    root, paths, *_ = drawn
    clothing = read_truth(root, paths).attributes["clothing"]
    for kind, colour, nothing in (
        ("bag_kind", "bag_colour", "none"),
        ("hat_kind", "hat_colour", "none"),
        ("pattern", "pattern_colour", "plain"),
    ):
        assert (clothing[kind] == nothing).sum() > 20
        assert (clothing[colour][clothing[kind] == nothing] == NOT_SHOWN).all()
    assert not [name for name, labels in clothing.items() if name.endswith("colour") and "none" in labels]


def test_unknown_photos_and_folders_are_refused(drawn, tmp_path):
    root, paths, *_ = drawn
    with pytest.raises(DataError, match=r"elsewhere\.jpg' is not one of the drawn photos"):
        read_truth(root, [*paths, str(root / "elsewhere.jpg")])
    message = r"^'\S+json' cannot be read \(No such file or directory\); only people drawn by .+ have true attributes$"
    with pytest.raises(DataError, match=message):
        read_truth(tmp_path, [])
