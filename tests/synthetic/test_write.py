import hashlib
import json
import os
import re
import signal
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
from preloaded import Preloaded
from states import largest_file

from t2ireid_plugin.cli import main
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.synthetic import write as write_module
from t2ireid_plugin.synthetic import write_synthetic
from t2ireid_plugin.synthetic.attributes import COLOURS, sample_people
from t2ireid_plugin.synthetic.cameras import CAMERAS
from t2ireid_plugin.synthetic.drawing import draw_person
from t2ireid_plugin.synthetic.sentences import describe
from t2ireid_plugin.synthetic.shot import CANVAS_HEIGHT, plan_shot, visible_attributes

SMALL = {"train_ids": 4, "val_ids": 2, "test_ids": 2, "photos": 2, "progress": False}

# Independent of the package's own words, so that a mistake there is not repeated here.
COLOUR = r"(light blue|sky blue|black|white|gr[ea]y|red|orange|yellow|green|blue|purple|pink|brown)"
KIND = r"(?:denim |button-up |hooded |long |ankle |sports |woolly |baseball |cross-body |shoulder )?"
MIDDLE = r"(?:(?:horizontally|vertically) striped |checked |plaid |polka dot |two-tone )?"
TOPS = "t-shirt|tee|top|shirt|jacket|coat|overcoat|hoodie|sweatshirt|sweater|pullover|jumper|dress"
GARMENTS = {
    "upper": rf"(?:{TOPS})\b",
    "lower": r"(?:trousers|pants|jeans|shorts|skirt)\b",
    "shoes": r"(?:sneakers|trainers|shoes|boots)\b",
    "bag": r"(?:backpack|rucksack|handbag|purse|bag)\b",
    "hat": r"(?:cap|beanie|hat)\b",
}
IDENTITY_WORDS = re.compile(
    r"\b(man|woman|guy|lady|male|female|he|she|his|her|hair|ponytail|bun|bald|shaved|skin|face|glasses|spectacles"
    r"|sunglasses|young|middle-aged|elderly|old|tall|slim|thin|slender|stocky|heavy-set|stout)\b"
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """80 drawn people, those of test in two outfits: the folder, the annotation rows and the true attributes."""
    root = tmp_path_factory.mktemp("drawn")
    write_synthetic(root, train_ids=60, val_ids=10, test_ids=10, photos=3, seed=3, outfits=2, progress=False)
    folder = root / "CUHK-PEDES"
    rows = json.loads((folder / "reid_raw.json").read_text())
    truth = json.loads((folder / "attributes.json").read_text())
    return root, rows, truth


def captions_of(drawn):
    """(row, true attributes of the photo, attributes of the person, index of the caption) for every caption."""
    _, rows, truth = drawn
    for row in rows:
        person, photo = truth["people"][str(row["id"])], truth["photos"][row["file_path"]]
        looks = {**person["identity"], **person["outfits"][photo["outfit"]]}
        for index in range(len(row["captions"])):
            yield row, photo, looks, index


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_layout_counts_and_splits(drawn):
    root, rows, truth = drawn
    assert len(rows) == 80 * 3
    ids = {split: {row["id"] for row in rows if row["split"] == split} for split in ("train", "val", "test")}
    assert {split: len(numbers) for split, numbers in ids.items()} == {"train": 60, "val": 10, "test": 10}
    assert set.union(*ids.values()) == set(range(1, 81))
    folders = {row["file_path"].split("/")[0] for row in rows}
    assert folders == {"cam_a", "cam_b", "CUHK01", "CUHK03", "Market", "train_query", "test_query"}
    for row in rows:
        assert list(row)[:5] == ["split", "captions", "file_path", "processed_tokens", "id"]
        assert len(row["captions"]) == len(row["id_captions"]) == len(row["cloth_captions"]) == 2
        assert len(row["processed_tokens"]) == 2
        image = cv2.imread(str(root / "CUHK-PEDES" / "imgs" / row["file_path"]))
        assert 150 <= image.shape[0] <= 260
        assert 1.95 <= image.shape[0] / image.shape[1] <= 2.35
    written = {str(path.relative_to(root / "CUHK-PEDES" / "imgs")) for path in root.rglob("*.jpg")}
    assert written == {row["file_path"] for row in rows} == set(truth["photos"])


def test_same_arguments_give_the_same_bytes_and_the_first_people_do_not_depend_on_how_many_follow(tmp_path):
    for name, changes in {"a": {}, "b": {}, "seed": {"seed": 1}, "few": {"val_ids": 0, "test_ids": 0}}.items():
        write_synthetic(tmp_path / name, **{**SMALL, **changes})
    first = digests(tmp_path / "a")
    assert first == digests(tmp_path / "b")
    assert len(first) == 8 * 2 + 3
    assert set(digests(tmp_path / "seed").values()).isdisjoint(first.values())
    few, many = tmp_path / "few" / "CUHK-PEDES", tmp_path / "a" / "CUHK-PEDES"
    assert digests(few / "imgs").items() <= digests(many / "imgs").items()
    few_rows, many_rows = (json.loads((folder / "reid_raw.json").read_text()) for folder in (few, many))
    assert few_rows == many_rows[: len(few_rows)]


def test_captions_mention_only_what_the_photo_shows(drawn):
    for row, photo, looks, index in captions_of(drawn):
        mentioned = set(photo["mentioned"][index])
        assert mentioned <= set(photo["visible"])
        assert not {name for name in mentioned if looks[name] in ("none", "plain", "average")}
        for phrases in photo["phrases"][index].values():
            assert all(phrase in row["captions"][index] for phrase in phrases)
        if photo["viewpoint"] == "back":
            assert not re.search(r"glasses|spectacles|skin|tanned|logo|print|over an? ", row["captions"][index])


@pytest.mark.parametrize("part", GARMENTS)
def test_colours_in_captions_are_true(drawn, part):
    pattern = re.compile(rf"{COLOUR} {MIDDLE}{KIND}{GARMENTS[part]}")
    checked = 0
    for row, photo, looks, index in captions_of(drawn):
        allowed = {looks[f"{part}_colour"]}
        if part == "upper":
            allowed |= {looks[name] for name in ("pattern_colour", "inner_colour") if name in photo["mentioned"][index]}
        for text in (row["captions"][index], row["cloth_captions"][index]):
            for colour in pattern.findall(text):
                assert {"gray": "grey", "sky blue": "light blue"}.get(colour, colour) in allowed, text
                checked += 1
    assert checked > 60


def test_mentioned_attributes_agree_with_the_words_in_both_directions(drawn):
    for row, photo, looks, index in captions_of(drawn):
        mentioned = set(photo["mentioned"][index])
        text = row["captions"][index]
        for part in ("lower", "shoes", "bag", "hat"):
            assert (f"{part}_colour" in mentioned) == bool(re.search(rf"\b{GARMENTS[part]}", text)), text
        assert ("glasses" in mentioned) == bool(re.search("glasses|spectacles", text)), text
        assert ("hair_style" in mentioned) == bool(re.search("hair|ponytail|bald|shaved", text)), text
        assert (looks["sex"] == "woman") == bool(re.search(r"\b(woman|lady|female)\b", text)), text


def test_identity_and_clothing_texts_keep_to_their_side(drawn):
    clothing_words = re.compile("|".join(rf"\b{words}" for words in GARMENTS.values()))
    for row, _, _, index in captions_of(drawn):
        identity, clothing = row["id_captions"][index], row["cloth_captions"][index]
        assert identity
        assert clothing
        assert not clothing_words.search(identity), identity
        assert not IDENTITY_WORDS.search(clothing.lower()), clothing
        assert clothing_words.search(clothing), clothing
        assert IDENTITY_WORDS.search(identity.lower()), identity


def test_grammar(drawn):
    for row, _, looks, index in captions_of(drawn):
        other = r"\b(she|her|hers)\b" if looks["sex"] == "man" else r"\b(he|his|him)\b"
        for text in (row["captions"][index], row["id_captions"][index], row["cloth_captions"][index]):
            assert text[0].isupper()
            assert text.endswith(".")
            assert not re.search(r"\ba [aeio]|\ban [^aeiou]|  | ,|\.\.|\b(\w+) \1\b|none|, \.", text.lower()), text
            assert not re.search(other, text.lower()), text
            assert not ("grey" in text and "gray" in text), text


def test_captions_vary_and_usually_identify_the_person(drawn):
    captions = list(captions_of(drawn))
    texts = [row["captions"][index] for row, _, _, index in captions]
    assert len(set(texts)) > 0.9 * len(texts)
    everybody = {tuple(looks.values()): looks for _, _, looks, _ in captions}.values()
    alone = [
        sum(all(other[name] == looks[name] for name in photo["mentioned"][index]) for other in everybody) == 1
        for _, photo, looks, index in captions
    ]
    assert np.mean(alone) > 0.7


def test_upper_colour_can_be_read_off_the_photo():
    """The chest's median colour, at the size a small model sees, is nearest to the colour in the caption."""
    names = list(COLOURS)
    palette = np.array([COLOURS[name][::-1] for name in names], float)
    right = []
    for person in sample_people(150, seed=5):
        rng = np.random.default_rng(person.pid)
        camera = CAMERAS[person.pid % len(CAMERAS)]
        plain = {"pattern": "plain", "pattern_colour": "none", "inner_colour": "none"}
        bare = replace(person.clothing, **plain, bag_kind="none", bag_colour="none")
        shot = replace(plan_shot(camera.crop_heights, rng), occluder=None, occlusion="none", bent_arm=0)
        image = cv2.resize(draw_person(replace(person, clothing=bare), camera, rng, shot), (56, 112))
        row = int((shot.foot[1] - 0.6 * shot.scale(person) / CANVAS_HEIGHT) * 112)
        column = int(shot.foot[0] * 56)
        chest = image[row - 4 : row + 4, column - 4 : column + 4].reshape(-1, 3)
        nearest = names[int(np.abs(np.median(chest, 0) - palette).sum(1).argmin())]
        right.append(nearest == person.clothing.upper_colour)
    assert np.mean(right) > 0.8


def test_occluded_shoes_and_a_back_view_are_not_visible():
    for person in sample_people(60, seed=1):
        rng = np.random.default_rng(person.pid)
        shot = replace(plan_shot((200, 200), rng), back=True, occlusion="box", occluder=(-50, 330, 400, 448))
        visible = visible_attributes(person, shot)
        assert visible.isdisjoint({"glasses", "skin", "inner_colour", "shoes_kind", "shoes_colour"})
        assert not re.search(GARMENTS["shoes"], describe(person, visible, rng).text)


def test_an_interrupted_run_leaves_no_files(tmp_path, monkeypatch):
    drawings = iter(range(5))

    def fails_on_the_sixth(*args):
        if next(drawings, None) is None:
            raise KeyboardInterrupt
        return draw_person(*args)

    monkeypatch.setattr(write_module, "draw_person", fails_on_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_that_leaves_no_files(tmp_path):
    with largest_file(4000), pytest.raises(DataError, match=r"CUHK-PEDES' cannot be written: .*File too large"):
        write_synthetic(tmp_path, **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_command_leaves_nothing_once_it_is_repeated(tmp_path, capsys, number):
    """SIGTERM leaves nothing at once; and two at once are refused."""
    words = ["prepare", "synthetic", tmp_path, "--train-ids", 10_000, "--photos", 2]
    process = Preloaded(["-m", "t2ireid_plugin", *words])
    deadline = time.monotonic() + 600
    while not any(tmp_path.rglob("*.jpg")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert main(["prepare", "synthetic", str(tmp_path), "--train-ids", "2"]) == 2
    message = f"error: OUT: another run is writing to '{tmp_path}/.CUHK-PEDES.tmp' (process {process.pid} on "
    assert message in capsys.readouterr().err
    os.kill(process.pid, number)
    done = process.finish()
    if number == signal.SIGTERM:
        assert done.returncode == 143
        assert done.stderr.endswith("stopped by SIGTERM\n")
        assert list(tmp_path.iterdir()) == []
    write_synthetic(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["CUHK-PEDES"]
    written = [path.name for path in (tmp_path / "CUHK-PEDES").iterdir()]
    assert sorted(written) == ["attributes.json", "imgs", "reid_raw.json", "synthetic.json"]
    assert len(list(tmp_path.rglob("*.jpg"))) == 16


def test_an_unrelated_folder_is_left_unchanged(tmp_path):
    (tmp_path / "CUHK-PEDES").mkdir()
    (tmp_path / "CUHK-PEDES" / "reid_raw.json").write_text("[]")
    with pytest.raises(DataError, match="CUHK-PEDES' exists"):
        write_synthetic(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.rglob("*")] == ["CUHK-PEDES", "reid_raw.json"]


def test_a_complete_folder_is_not_drawn_again_and_other_arguments_are_refused(tmp_path, monkeypatch):
    write_synthetic(tmp_path, **SMALL)
    monkeypatch.setattr(write_module, "draw_person", lambda *args: pytest.fail("drawn again"))
    write_synthetic(tmp_path, **SMALL)
    with pytest.raises(DataError, match="other arguments"):
        write_synthetic(tmp_path, **{**SMALL, "photos": 3})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train_ids", -1),
        ("photos", 0),
        ("captions", 0),
        ("cameras", 7),
        ("cameras", 0),
        ("seed", -1),
        ("outfits", 0),
        ("outfits", 4),
        ("outfits", 3),  # of the 2 photos
        ("train_outfits", 3),
        ("test_ids", 0),  # with the others 0, too
    ],
)
def test_invalid_arguments_are_refused(tmp_path, name, value):
    others = {"train_ids": 0, "val_ids": 0} if name == "test_ids" else {}
    with pytest.raises(DataError, match=name):
        write_synthetic(tmp_path, **{**SMALL, **others, name: value})
    assert list(tmp_path.iterdir()) == []
