"""Configuration files that run code, grow without end, or hold what no run can work with."""

import pytest
import yaml

from t2ireid_plugin.config import dump, load_cfg, to_dict
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.utils.safe_io import parse_yaml

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"b{i}: &b{i} [*{f'b{i - 1}' if i else 'a'}, *{f'b{i - 1}' if i else 'a'}]\n" for i in range(40)
)
TABLES = LAUGHS.replace("[", "{p: ").replace(", ", ", q: ").replace("]", "}")
MERGES = "a: &a {x: 1}\n" + "".join(
    f"b{i}: &b{i}\n  <<: [*{f'b{i - 1}' if i else 'a'}, *{f'b{i - 1}' if i else 'a'}]\n" for i in range(40)
)


def refusal(content, tmp_path):
    file = tmp_path / "x.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as error:
        load_cfg(file)
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 2500
    assert "x.yaml" in text or "_BASE_" in str(content)  # then it names the other file
    return text


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.mkdir [MARK]",
        "!!python/object/new:os.mkdir [MARK]",
        "!!python/object/apply:subprocess.check_call [[touch, MARK]]",
        "!!python/name:os.mkdir ''",
        "!!python/module:os ''",
        "!strange x",
    ],
)
def test_tags_run_no_code(tmp_path, refused, tag):
    mark = tmp_path / "made"
    written = tag.replace("MARK", str(mark))
    text = refusal(f"model: {{vit_config: {{a: {written}}}}}", tmp_path)
    assert "could not determine a constructor for the tag" in text
    assert refused("train", "--config-file", tmp_path / "x.yaml") == text
    with pytest.raises(ConfigError):
        load_cfg(None, ["model.vit_config", f"{{a: {written}}}"])
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (LAUGHS, "more than 100,000 values"),
        (f"model:\n  bert_config:\n{'    '.join(['', *TABLES.splitlines(True)])}", "more than 100,000 values"),
        (MERGES, "more than 100,000 values"),
        ("model:\n  vit_config: &a\n    x: *a\n", "line 3, column 8: an alias of what it is itself a part of"),
        ("data: {sources: &a [*a]}", "an alias of what it is itself a part of"),
        ("a: " + "[" * 100_000, "more than 50 levels of nesting"),
        ("a: " + "[" * 5000 + "]" * 5000, "more than 50 levels of nesting"),
        ("".join(" " * i + "a:\n" for i in range(900)), "more than 50 levels of nesting"),
        ("train: {lr: '" + "[" * 5000 + "'}", "more than 50 levels of nesting"),
        ("train: {lr: 0.1, lr: 0.2}", "the key 'lr' is twice in one table"),
        ("train: {lr: 0.1}\ntrain: {seed: 1}", "line 2, column 1: the key 'train' is twice in one table"),
        ("train: {lr: .nan}", "'train.lr': nan is no number to compute with"),
        ("train: {lr: '-1e999'}", "'train.lr': -inf is no number to compute with"),
        ("loss: {terms: {sdm: {weight: .inf}}}", "inf is no number to compute with"),
        ("train: {seed: " + "9" * 100 + "}", "does not fit into 64 bits"),
        ("train: {seed: " + "9" * 5000 + "}", "4300 digits"),
        ("train: {lr: 1" + "0" * 400 + "}", "'train.lr': 1"),
        ("train: {stepsize: [1" + "0" * 400 + "]}", "does not fit into 64 bits"),
        ("train: {seed: 1" + ":1" * 3000 + "}", "a number of 17,"),
        ('data: {root: "a\\0b"}', "'data.root': 'a\\x00b' holds a zero byte"),
        ('data: {root: "\\ud800"}', "half a character"),
        ('data: {sources: ["a\\0"]}', "holds a zero byte"),
        ("train: \0", "special characters are not allowed"),
        (b"train: {lr: \xff}", "can't decode byte 0xff"),
        ("model: {vit_config: {1: 2}}", "the key 1 is no text"),
        ("model: {vit_config: {a: 2001-01-01}}", "is no number, text, list or table"),
        ("model: {vit_config: {a: !!set {b}}}", "is no number, text, list or table"),
        ("model: {vit_config: {? [1] : 2}}", "unhashable key"),
        ('_BASE_: "a\\0b"', "no file can have this name"),
        ("_BASE_: /dev/zero", "not a file but a pipe, socket or device"),
        ("_BASE_: " + "a" * 5000, "File name too long"),
        ("x" * (2**20 + 1), "its 1,048,577 bytes are more than the 1,048,576 taken"),
        ("a: 1\n---\nb: 2", "found another document"),
    ],
)
def test_what_no_configuration_is(tmp_path, content, reason):
    assert reason in refusal(content, tmp_path)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["model.vit_config." + "a." * 500 + "b", "1"], "nested more than 20 deep"),
        (["model.vit_config", "{a: &a [*a]}"], "an alias of what it is itself a part of"),
        (["model.vit_config", repr({"a": [[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]})], "nested more than 20 deep"),
        (["train.seed", "9" * 5000], "must be int"),
        (["train.seed", "0x" + "f" * 5000], "a number of 20,000 bits does not fit into 64 bits"),
        (["train.lr", "nan"], "must be float"),
        (["train.lr", "1e999"], "inf is no number to compute with"),
        (["data.root", "\udcff"], "half a character"),
        (["data.root", "x" * 100_000], "has 100,000 characters, more than the 10,000 taken"),
        (["loss.terms", "{1: 2}"], "the key 1 is no text"),
        (["train.lr", "-" * 100_000 + "1"], "must be float"),
    ],
)
def test_what_no_setting_is(refused, words, reason):
    assert reason in refused("train", *(word.replace("-", "~-", 1) if word[0] == "-" else word for word in words))


def test_anchors_and_merges_still_work(tmp_path):
    text = "a: &a {lr: 0.5, seed: 3}\ntrain:\n  <<: *a\n  seed: 4\nlist: [*a, *a]\n"
    assert parse_yaml(text) == yaml.safe_load(text)
    (tmp_path / "x.yaml").write_text("train: &t {lr: 0.5}\nsgd: {momentum: 0.5}\n")
    cfg = load_cfg(tmp_path / "x.yaml")
    assert cfg.train.lr == 0.5
    (tmp_path / "again.yaml").write_text(dump(cfg))
    assert to_dict(load_cfg(tmp_path / "again.yaml")) == to_dict(cfg)
