import ast
import json
import re
from collections import Counter
from pathlib import Path

import pytest

import t2ireid_plugin
from t2ireid_plugin.engine.loop import describe_epoch
from t2ireid_plugin.evaluation.metrics import format_table
from t2ireid_plugin.utils import language as module
from t2ireid_plugin.utils.language import language, language_of, say, use_language
from t2ireid_plugin.utils.text import text_table

CHINESE = json.loads(Path(module.__file__).with_name("chinese.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("chosen", "texts", "expected"),
    [
        (None, [], "en"),
        (None, ["a man", "一名男子", "一名女子"], "zh"),
        (None, ["a man", "a woman", "一名男子"], "en"),
        ("", ["一名男子"], "zh"),
        ("zh", ["a man"], "zh"),
        ("zh_CN.UTF-8", ["a man"], "zh"),
        ("en", ["一名男子"], "en"),
    ],
)
def test_the_environment_decides_and_else_the_texts(monkeypatch, chosen, texts, expected):
    monkeypatch.delenv("T2IREID_LANG", raising=False)
    if chosen is not None:
        monkeypatch.setenv("T2IREID_LANG", chosen)
    assert language_of(texts) == expected
    with use_language(language_of(texts)):
        assert language() == expected
    assert language() == language_of([])


def test_each_phrase_has_a_translation_with_the_same_places():
    """Phrases are the literal arguments of `say`; others come from tables, and must be strings of the package."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in Path(t2ireid_plugin.__file__).parent.rglob("*.py")]
    strings = {node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    said = {
        node.args[0].value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "say"
        and isinstance(node.args[0], ast.Constant)
    }
    assert len(said) > 30
    assert said <= CHINESE.keys()
    assert not [phrase for phrase in CHINESE if not {phrase, phrase.replace(" ", "_")} & strings]
    for phrase, chinese in CHINESE.items():
        assert Counter(re.findall(r"{.*?}", phrase)) == Counter(re.findall(r"{.*?}", chinese))


def test_phrases_without_a_translation_stay_english():
    with use_language("zh"):
        assert say("R@1") == "R@1"
        assert say("{number} of a kind", number=3) == "3 of a kind"


def test_the_console_in_chinese(monkeypatch):
    monkeypatch.setenv("T2IREID_LANG", "zh")
    line = describe_epoch(12, 20, {"loss": [5.0, 5.2]}, 30, 0.75, 12)
    assert line == "轮次 12/20  损失 5.1  验证集 R@1 75.0（最佳）  剩余 0:00:30"
    metrics = {"R@1": 0.5, "mAP": 0.25, "mINP": 0.125, "queries": 3, "gallery": 4, "skipped_queries": 0}
    metrics |= {"interval95": {"R@1": [0.25, 0.75]}, "weight": 0.4, "weight_chosen": True}
    header, row, note = format_table({"set": {"t2i": metrics}}).splitlines()
    assert header.split() == ["测试集", "协议", "R@1", "mAP", "mINP", "查询", "检索库", "R@1", "95", "%"]
    assert row.split() == ["set", "t2i", "50.00", "25.00", "12.50", "3", "4", "25.0", "至", "75.0"]
    assert note == "set t2i: 身份分支的权重为 0.4，由验证集选出"


def test_columns_with_chinese_are_aligned_on_a_terminal():
    lines = text_table(["name", "数", "end"], [["图片", "1234", "x"], ["a", "5", "yy"]]).splitlines()
    assert lines == ["name    数  end", "图片  1234    x", "a        5   yy"]
