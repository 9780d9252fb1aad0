"""Chinese captions of drawn people."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from t2ireid_plugin.cli import main
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.modeling.instructions import split_phrases
from t2ireid_plugin.synthetic import write_synthetic
from t2ireid_plugin.synthetic.attributes import sample_people
from t2ireid_plugin.synthetic.chinese import describe
from t2ireid_plugin.synthetic.parts import drawn_photos
from t2ireid_plugin.synthetic.shot import plan_shot, visible_attributes

# Independent of the package's own words, so that a mistake there is not repeated here.
COLOURS = {
    "black": "黑", "white": "白", "grey": "灰", "red": "红", "orange": "[橙橘]", "yellow": "黄", "green": "绿",
    "blue": "蓝", "light blue": "(浅|天|淡)蓝", "purple": "紫", "pink": "粉红?", "brown": "(棕|褐|咖啡)",
}  # fmt: skip
GARMENTS = {
    "upper": "(T恤|T恤衫|衬衫|衬衣|夹克|夹克衫|大衣|长外套|卫衣|连帽衫|毛衣|针织衫|套头衫|连衣裙)",
    "lower": "(长裤|裤子|牛仔裤|短裤|半身裙|裙子)",
    "shoes": "(鞋|靴)",
    "bag": "(双肩包|背包|手提包|提包|单肩包|斜挎包|挎包)",
    "hat": "帽(?!衫|卫衣)",
}
WORN = re.compile("|".join([*GARMENTS.values(), "[穿背挎拎]", "头戴"]))
PERSON = re.compile(
    "男|女|发|马尾|光头|丸子头|镜|皮肤|肤色|身材|体型|身形|个[子头]|年轻|[青中老]年|[留扎梳剃]着|[走站]"
)


@pytest.fixture(scope="module")
def captions():
    """800 of (attributes, names of the visible ones, caption)."""
    found = []
    for person in sample_people(200, seed=4):
        rng = np.random.default_rng(person.pid)
        for _ in range(4):
            visible = visible_attributes(person, plan_shot((200, 240), rng))
            found.append((person.attributes(), visible, describe(person, visible, rng)))
    return found


def test_the_splitter_assigns_every_phrase_to_its_side(captions):
    for _, _, caption in captions:
        identity, clothing = split_phrases(caption.text)
        assert all(phrase in identity for phrase in caption.identity_phrases), caption.text
        assert all(phrase in clothing for phrase in caption.clothing_phrases), caption.text
        assert not WORN.search(identity), (caption.text, identity)
        assert not PERSON.search(clothing), (caption.text, clothing)


def test_identity_and_clothing_texts_keep_to_their_side(captions):
    for _, _, caption in captions:
        assert PERSON.search(caption.identity)
        assert not WORN.search(caption.identity), caption.identity
        assert WORN.search(caption.clothing)
        assert not PERSON.search(caption.clothing), caption.clothing


def test_captions_mention_what_the_photo_shows_and_vary(captions):
    for looks, visible, caption in captions:
        mentioned = set(caption.mentioned)
        assert mentioned <= visible
        assert not {name for name in mentioned if looks[name] in ("none", "plain", "average")}
        for part, words in GARMENTS.items():
            assert (f"{part}_colour" in mentioned) == bool(re.search(words, caption.text)), caption.text
        assert ("glasses" in mentioned) == ("镜" in caption.text), caption.text
        assert ("hair_style" in mentioned) == bool(re.search("发|马尾|光头|丸子头", caption.text)), caption.text
        assert (looks["sex"] == "woman") == ("女" in caption.text) != ("男" in caption.text), caption.text
        assert ("他" if looks["sex"] == "woman" else "她") not in caption.text
    assert len({caption.text for _, _, caption in captions}) > 0.98 * len(captions)


@pytest.mark.parametrize("part", GARMENTS)
def test_colours_in_captions_are_true(captions, part):
    for looks, _, caption in captions:
        if f"{part}_colour" not in caption.mentioned or (part == "upper" and "pattern" in caption.mentioned):
            continue
        pattern = rf"{COLOURS[looks[f'{part}_colour']]}色的?[^色，、和]*{GARMENTS[part]}"
        assert re.search(pattern, caption.text), (pattern, caption.text)


def test_sentences_are_whole(captions):
    for _, _, caption in captions:
        for text in (caption.text, caption.identity, caption.clothing):
            assert text.endswith("。")
            assert not re.search("，。|。。|，，|、，|的的|色色|none|[{}a-zA-SU-Z ]", text), text


def test_the_command_writes_them_and_the_parts_are_known(tmp_path):
    words = ["--language", "zh", "--train-ids", "2", "--val-ids", "0", "--test-ids", "1", "--photos", "2"]
    assert main(["prepare", "synthetic", str(tmp_path), *words]) == 0
    rows = json.loads((tmp_path / "CUHK-PEDES" / "reid_raw.json").read_text(encoding="utf-8"))
    assert all(re.search("[男女]", text) for row in rows for text in row["captions"] + row["id_captions"])
    assert rows[0]["processed_tokens"][0] == [c for c in rows[0]["captions"][0].lower() if c not in "，。、"]
    assert [row["id"] for row, _ in drawn_photos(tmp_path)] == [3, 3]
    with pytest.raises(DataError, match="other arguments"):
        write_synthetic(tmp_path, train_ids=2, val_ids=0, test_ids=1, photos=2)
    with pytest.raises(DataError, match="language: 'fr' must be one of en, zh"):
        write_synthetic(tmp_path / "other", language="fr")


@pytest.mark.slow
def test_the_chinese_demo_of_the_page_runs(tmp_path, monkeypatch, repository, capsys):
    """Its vocabulary is learned from the captions: no word is unknown, no text is cut off."""
    monkeypatch.chdir(tmp_path)
    page = (repository / "docs" / "demo.md").read_text(encoding="utf-8")
    draw, train, search = re.findall("^t2ireid (.*)", page.split("```bash")[1], flags=re.MULTILINE)
    few = "--train-ids 8 --val-ids 2 --test-ids 3 --photos 2"
    quick = "train.max_epoch 1 train.batch_size 8 use_gpu False test.pictures 2 test.eval_freq -1"
    assert main(shlex.split(f"{draw} {few}")) == 0
    assert main(shlex.split(f"{train} {quick}")) == 0
    printed = "".join(capsys.readouterr())
    assert "R@1" in printed
    assert not re.search("the tokenizer|raise model.max_length", printed)
    results = json.loads(Path("log/demo_zh/results.json").read_text(encoding="utf-8"))
    assert results["metrics"]["cuhkpedes"]["t2i"]["queries"] == 3 * 2 * 2
    assert Path("log/demo_zh/ranked_cuhkpedes.png").is_file()
    assert main(shlex.split(search)) == 0
    assert "红色夹克" in Path("result.html").read_text(encoding="utf-8")
