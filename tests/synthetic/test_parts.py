import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.synthetic.attributes import COLOURS, DENIM, HAIR_COLOURS, SKIN_TONES, sample_people
from t2ireid_plugin.synthetic.cameras import CAMERAS
from t2ireid_plugin.synthetic.canvas import PARTS
from t2ireid_plugin.synthetic.drawing import draw_figure, draw_person
from t2ireid_plugin.synthetic.parts import GARMENTS, drawn_photos, part_labels, part_masks
from t2ireid_plugin.synthetic.shot import CANVAS_HEIGHT, plan_shot

# A neutral camera, which reproduces colours exactly.
CLEAR = replace(CAMERAS[0], gain=1.0, cast=(1.0, 1.0, 1.0), blur=0.0, noise=0.0)


@pytest.fixture(scope="module")
def person():
    """A person whose parts all have different colours."""
    person = sample_people(1, seed=0)[0]
    looks = {"sex": "man", "age": "young", "skin": "tanned", "hair_style": "short", "hair_colour": "black"}
    identity = replace(person.identity, **looks, glasses="glasses")
    clothing = replace(
        person.clothing,
        upper_kind="t-shirt", upper_colour="red", pattern="plain", pattern_colour="none", sleeve="short",
        inner_colour="none", lower_kind="shorts", lower_colour="green", shoes_kind="boots", shoes_colour="yellow",
        bag_kind="shoulder bag", bag_colour="light blue", hat_kind="beanie", hat_colour="purple",
    )  # fmt: skip
    return replace(person, identity=identity, clothing=clothing)


def open_shot(seed, **changes):
    """A shot without an occluder, all of the figure in the photo."""
    shot = plan_shot((200, 240), np.random.default_rng(seed))
    return replace(shot, occlusion="none", occluder=None, foot=(0.5, 0.98), **changes)


def inner(mask):
    """The mask without its edge, where pixels mix two colours."""
    return cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0


def hue(bgr):
    """The colour without its brightness, which shading and light change."""
    values = np.asarray(bgr, float)
    return values / values.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_each_part_has_its_colour_and_garment_colours_do_not_occur_elsewhere(person, seed, back):
    shot = open_shot(seed, back=back)
    photo = draw_person(person, CLEAR, np.random.default_rng(seed), shot)
    masks = part_masks(part_labels(person, shot))
    expected = {
        "hat": COLOURS["purple"],
        "upper": COLOURS["red"],
        "lower": COLOURS["green"],
        "shoes": COLOURS["yellow"],
        "bag": COLOURS["light blue"],
        "skin": SKIN_TONES["tanned"],
    }
    for name, rgb in expected.items():
        assert masks[name].shape == photo.shape[:2]
        seen = hue(np.median(photo[masks[name]], axis=0))
        assert np.abs(seen - hue(rgb[::-1])).max() < 0.06, name
    for name in ("upper", "lower", "shoes", "hat"):
        distance = np.abs(hue(photo.astype(float) + 1) - hue(expected[name][::-1])).max(axis=-1)
        has_colour = (distance < 0.05) & ~masks["background"]
        assert has_colour.sum() > 100
        within = cv2.dilate(masks[name].astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        assert within[has_colour].mean() > 0.97, name  # the edge is uncertain by a pixel


@pytest.mark.parametrize("seed", range(5))
def test_the_head_is_face_and_hair(person, seed):
    clothing = replace(person.clothing, hat_kind="none", hat_colour="none")
    for back, shares in ((False, (0.3, 0.2)), (True, (0.0, 0.7))):
        shot = open_shot(seed, back=back)
        bare = replace(person, identity=replace(person.identity, hair_colour="red", glasses="none"), clothing=clothing)
        photo = draw_person(bare, CLEAR, np.random.default_rng(seed), shot)
        head = hue(photo[part_masks(part_labels(bare, shot))["head"]])
        tones = SKIN_TONES["tanned"], HAIR_COLOURS["red"]
        skin, hair = (np.abs(head - hue(tone[::-1])).max(axis=-1) < 0.06 for tone in tones)
        assert (skin | hair).mean() > 0.85  # the rest is eyes, and the border between the two
        assert skin.mean() > shares[0]
        assert hair.mean() > shares[1]
        glassy = replace(bare, identity=replace(bare.identity, glasses="sunglasses"))
        assert np.array_equal(part_labels(glassy, shot), part_labels(bare, shot))


def test_the_parts_are_the_figure():
    """Every pixel has one part, and all parts together are the silhouette, for people of all kinds."""
    for person in sample_people(40, seed=5):
        shot = open_shot(person.pid)
        masks = part_masks(part_labels(person, shot))
        assert sum(masks[name].astype(int) for name in PARTS).min() == 1
        assert sum(masks[name].astype(int) for name in PARTS).max() == 1
        assert np.array_equal(masks["garments"], np.logical_or.reduce([masks[name] for name in GARMENTS]))
        size = masks["head"].shape[::-1]
        silhouette = draw_figure(person, shot).silhouette().astype(np.float32) / 255
        share = cv2.resize(silhouette, size, interpolation=cv2.INTER_AREA)
        assert not masks["background"][share > 0.99].any()
        assert masks["background"][share < 0.01].all()
        clothing = person.clothing
        assert masks["hat"].any() == (clothing.hat_kind != "none")
        assert masks["bag"].any() == (clothing.bag_kind != "none")
        assert masks["lower"].any() == (clothing.lower_kind != "dress")
        for name in ("head", "upper", "shoes", "skin"):
            assert masks[name].any(), name


@pytest.mark.parametrize("colour", ["black", "light blue", "grey", "blue"])
def test_colours_do_not_move_the_masks(person, colour):
    """Masks depend on shapes only, also where two garments have the same colour."""
    shot = open_shot(3)
    jeans = replace(person, clothing=replace(person.clothing, lower_kind="jeans", lower_colour="black"))
    assert colour in DENIM
    other = replace(
        jeans,
        clothing=replace(
            jeans.clothing, upper_colour=colour, lower_colour=colour, shoes_colour=colour, bag_colour=colour
        ),
    )
    assert np.array_equal(part_labels(jeans, shot), part_labels(other, shot))


def test_an_occluder_is_background(person):
    shot = open_shot(1)
    hidden = replace(shot, occlusion="box", occluder=(-10.0, 300.0, 500.0, float(CANVAS_HEIGHT)))
    labels, seen = part_labels(person, shot), part_labels(person, hidden)
    edge = round(298 * shot.crop_height / CANVAS_HEIGHT)
    assert np.array_equal(seen[: edge - 1], labels[: edge - 1])
    assert not seen[edge + 1 :].any()
    assert labels[edge + 1 :].any()


def test_drawn_photos_reproduces_the_files(synthetic):
    folder = synthetic.root / "CUHK-PEDES"
    photos = list(drawn_photos(synthetic.root))
    rows = [row for row in json.loads((folder / "reid_raw.json").read_text()) if row["split"] == "test"]
    assert [row for row, _ in photos] == rows
    truth = json.loads((folder / "attributes.json").read_text())
    checked = 0
    for row, labels in photos:
        pixels = cv2.imread(str(folder / "imgs" / row["file_path"]))
        assert labels.shape == pixels.shape[:2]
        looks = truth["people"][str(row["id"])]["clothing"]
        if looks["upper_colour"] in ("red", "blue", "green", "yellow") and looks["pattern"] == "plain":
            seen = hue(np.median(pixels[inner(part_masks(labels)["upper"])], axis=0))
            assert np.abs(seen - hue(COLOURS[looks["upper_colour"]][::-1])).max() < 0.12
            checked += 1
    assert checked >= 4


def test_drawn_photos_refuses_changed_folders(synthetic, tmp_path):
    with pytest.raises(DataError, match=r"synthetic\.json"):
        next(drawn_photos(tmp_path))
    with pytest.raises(DataError, match="no photos of the split 'elsewhere'"):
        next(drawn_photos(synthetic.root, "elsewhere"))
    shutil.copytree(synthetic.root / "CUHK-PEDES", tmp_path / "CUHK-PEDES")
    rows = json.loads((tmp_path / "CUHK-PEDES" / "reid_raw.json").read_text())
    first, other = [row["file_path"] for row in rows if row["split"] == "test"][:2]
    images = tmp_path / "CUHK-PEDES" / "imgs"
    size = cv2.imread(str(images / first)).shape[1::-1]
    cv2.imwrite(str(images / first), cv2.resize(cv2.imread(str(images / other)), size))
    with pytest.raises(DataError, match="is not the photo"):
        next(drawn_photos(tmp_path))
    made_by = json.loads((tmp_path / "CUHK-PEDES" / "synthetic.json").read_text())
    for changed in ({**made_by, "format": 0}, {name: made_by[name] for name in made_by if name != "format"}):
        (tmp_path / "CUHK-PEDES" / "synthetic.json").write_text(json.dumps(changed))
        with pytest.raises(DataError, match="another version"):
            next(drawn_photos(tmp_path))
