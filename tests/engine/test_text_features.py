"""What a frozen text encoder made of training texts is remembered: by its weights and the text, and never stale."""

import copy
import json
import os
import pickle
import re
import time

import numpy as np
import pytest
import torch
from preloaded import Preloaded
from safetensors import safe_open
from transformers import BertConfig, BertModel

from t2ireid_plugin.cli import main
from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.data.transforms import swap_sides
from t2ireid_plugin.engine import feature_file, text_features
from t2ireid_plugin.engine.build import build_model, build_sources, build_tokenizer
from t2ireid_plugin.engine.checks import check_config
from t2ireid_plugin.engine.feature_file import FeatureFile, make_room
from t2ireid_plugin.engine.text_cache import remember_texts
from t2ireid_plugin.engine.text_features import TextFeatures, default_folder, fingerprint
from t2ireid_plugin.errors import ConfigError, DataError
from t2ireid_plugin.modeling.encoders.token_features import word_features

WIDTH = 16
ROOM = 10**9
TEXTS = [(2, 7, 3), (2, 8, 9, 3), (2, 9, 10, 11, 3), (2, 12, 13, 14, 15, 3)]


def encoder(seed=0, **changes):
    torch.manual_seed(seed)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20, **changes}
    return BertModel(BertConfig(hidden_size=WIDTH, **sizes), add_pooling_layer=False).eval().requires_grad_(False)


@pytest.fixture
def bert():
    return encoder()


@pytest.fixture
def reads(monkeypatch):
    """The texts that the encoder was given, pass after pass."""
    seen = []

    def counted(model, texts, pad):
        seen.append(list(texts))
        return word_features(model, texts, pad)

    monkeypatch.setattr(text_features, "word_features", counted)
    return seen


def rounded(model, texts):
    return word_features(model, texts, 0).half().float()


@pytest.fixture(params=["memory", "disk"])
def features(request, tmp_path, bert):
    """Filled with `TEXTS`."""
    if request.param == "memory":
        made = TextFeatures(ROOM)
        made(bert, TEXTS, 0)
        return made
    made = TextFeatures(ROOM, tmp_path / "cache")
    made.fill(bert, TEXTS, 0, show=False)
    return made


def test_they_are_the_encoders_in_half_precision(features, bert, reads):
    for chosen in (TEXTS, TEXTS[1:3], TEXTS[::-1][:2], [TEXTS[0]] * 3):
        found = features(bert, chosen, 0)
        torch.testing.assert_close(found, torch.cat([rounded(bert, [ids]) for ids in chosen]), rtol=0, atol=2e-3)
        assert found.dtype == torch.float32
        assert torch.equal(found, found.half().float())
    assert reads == []
    assert len(features) == len(TEXTS)


def test_another_text_is_encoded(features, bert, reads):
    new = (2, 16, 17, 3)
    found = features(bert, [TEXTS[0], new], 0)
    assert reads == [[new]]
    torch.testing.assert_close(found[3:], rounded(bert, [new]), rtol=0, atol=2e-3)


def change_one(model):
    with torch.no_grad():
        model.encoder.layer[0].output.dense.weight[3, 2] += 0.5


def load(model):
    model.load_state_dict(encoder(seed=1).state_dict())


def swap(model):
    model.embeddings.word_embeddings.weight = torch.nn.Parameter(torch.randn(20, WIDTH), requires_grad=False)


@pytest.mark.parametrize("change", [change_one, load, swap])
def test_one_changed_weight_and_nothing_of_it_is_used(features, bert, reads, change):
    before = features(bert, TEXTS, 0)
    change(bert)
    after = features(bert, TEXTS, 0)
    assert reads == [TEXTS]
    assert not torch.allclose(before, after, atol=1e-3)
    torch.testing.assert_close(after, rounded(bert, TEXTS), rtol=0, atol=2e-3)


def test_a_change_that_pytorch_does_not_count_is_seen_when_the_mode_changes(features, bert, reads):
    features(bert, TEXTS, 0)
    bert.encoder.layer[0].output.dense.weight.data[3, 2] += 0.5
    features.recheck()  # the model's `train` and `eval` do
    torch.testing.assert_close(features(bert, TEXTS, 0), rounded(bert, TEXTS), rtol=0, atol=2e-3)
    assert reads == [TEXTS]


def test_fingerprints_tell_what_counts():
    same = {fingerprint(encoder()), fingerprint(copy.deepcopy(encoder()))}
    moved = encoder()
    moved.config._name_or_path = "elsewhere"
    same.add(fingerprint(moved))
    assert len(same) == 1
    changed = encoder()
    change_one(changed)
    others = {fingerprint(m) for m in (changed, encoder(seed=1), encoder(layer_norm_eps=1e-3), encoder().half())}
    assert len(others | same) == 5


def test_copies_share_it_and_pickles_start_anew(features):
    assert copy.deepcopy(features) is features
    again = pickle.loads(pickle.dumps(features))
    assert (again.limit, again.folder, len(again)) == (features.limit, features.folder, 0)


# --- the file ---------------------------------------------------------------------------------------------------------


def files(folder):
    return sorted(file.name for file in folder.iterdir() if file.name != "lock")


def test_a_second_process_reads_what_the_first_wrote(tmp_path, bert, reads):
    for _ in range(2):
        other = TextFeatures(ROOM, tmp_path)
        other.fill(encoder(), TEXTS[::-1] + TEXTS, 0, show=False)  # neither order nor repetition matters
        other(bert, TEXTS, 0)
    assert len(reads) == 1
    assert len(files(tmp_path)) == 1


def test_it_is_a_safetensors_file(tmp_path, bert):
    TextFeatures(ROOM, tmp_path).fill(bert, TEXTS, 0, show=False)
    with safe_open(tmp_path / files(tmp_path)[0], "np") as file:
        assert file.get_tensor("features").shape == (sum(map(len, TEXTS)), WIDTH)
        assert file.get_tensor("features").dtype == np.float16
        assert file.get_tensor("starts").tolist() == [0, 3, 7, 12, 18]


def test_other_texts_and_other_weights_have_other_files(tmp_path, bert):
    for model, texts in ((bert, TEXTS), (bert, TEXTS[1:]), (encoder(seed=1), TEXTS)):
        TextFeatures(ROOM, tmp_path).fill(model, texts, 0, show=False)
    assert len(files(tmp_path)) == 3


def test_it_may_be_deleted_at_any_time(tmp_path, bert, reads):
    features = TextFeatures(ROOM, tmp_path / "cache")
    features.fill(bert, TEXTS, 0, show=False)
    for file in (tmp_path / "cache").iterdir():
        file.unlink()
    (tmp_path / "cache").rmdir()
    torch.testing.assert_close(features(bert, TEXTS, 0), rounded(bert, TEXTS), rtol=0, atol=2e-3)
    assert len(reads) == 1  # what was open stays readable
    TextFeatures(ROOM, tmp_path / "cache").fill(bert, TEXTS, 0, show=False)
    assert len(reads) == 2


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data[:4]])
def test_a_damaged_file_is_written_again(tmp_path, bert, damage):
    TextFeatures(ROOM, tmp_path).fill(bert, TEXTS, 0, show=False)
    file = tmp_path / files(tmp_path)[0]
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    TextFeatures(ROOM, tmp_path).fill(bert, TEXTS, 0, show=False)
    assert file.read_bytes() == whole


def test_one_that_breaks_off_leaves_nothing(tmp_path, bert, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(text_features, "word_features", fail)
    with pytest.raises(KeyboardInterrupt):
        TextFeatures(ROOM, tmp_path).fill(bert, TEXTS, 0, show=False)
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_written(tmp_path, bert):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match=r"text_feature_cache: cannot use.*file"):
        TextFeatures(ROOM, blocked / "cache").fill(bert, TEXTS, 0, show=False)


def test_progress_is_shown(tmp_path, bert, capsys):
    TextFeatures(ROOM, tmp_path).fill(bert, TEXTS, 0)
    assert "text features: 4 of 4" in capsys.readouterr().err


FILL = """
import sys, torch
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_text_features import TEXTS, ROOM, encoder
from t2ireid_plugin.engine import text_features
from t2ireid_plugin.engine.text_features import TextFeatures
passes, inner = [], text_features.word_features
text_features.word_features = lambda *a: passes.append(1) or inner(*a)
TextFeatures(ROOM, Path(sys.argv[1])).fill(encoder(), TEXTS, 0, show=False)
print(len(passes))
"""


def test_of_two_processes_at_once_one_writes(tmp_path):
    both = [Preloaded(["-c", FILL, tmp_path, os.path.dirname(__file__)]) for _ in range(2)]
    assert sorted(process.finish().stdout.split()[-1] for process in both) == ["0", "1"]
    assert len(files(tmp_path)) == 1


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_memory_is_bounded(bert, reads):
    features = TextFeatures(2 * WIDTH * (len(TEXTS[0]) + len(TEXTS[1])))
    for _ in range(2):
        found = features(bert, TEXTS, 0)
        torch.testing.assert_close(found, rounded(bert, TEXTS), rtol=0, atol=2e-3)
    assert len(features) == 2
    assert reads == [TEXTS, TEXTS[2:]]


def test_a_file_is_bounded_and_says_so(tmp_path, bert, reads, caplog):
    features = TextFeatures(2 * WIDTH * 7, tmp_path)
    features.fill(bert, TEXTS, 0, show=False)
    assert "2 of 4 texts fit" in caplog.text
    torch.testing.assert_close(features(bert, TEXTS, 0), rounded(bert, TEXTS), rtol=0, atol=2e-3)
    assert reads == [TEXTS[:2], TEXTS[2:]]
    empty = TextFeatures(1, tmp_path)
    empty.fill(bert, TEXTS, 0, show=False)
    assert empty(bert, TEXTS, 0).shape == (18, WIDTH)


def test_the_folder_is_bounded(tmp_path):
    """What was unused longest goes first; a draft of another process is left alone."""
    for i, name in enumerate(("old", "used", "new", ".draft.tmp")):
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(b"x" * 100)
        os.utime(file, (time.time() - 100 + i,) * 2)
    os.utime(tmp_path / "old.safetensors")
    make_room(tmp_path, 250)
    assert {file.stem for file in tmp_path.iterdir()} == {"old", "new", ".draft.tmp"}


def test_opening_a_file_counts_as_use(tmp_path, bert):
    TextFeatures(ROOM, tmp_path).fill(bert, TEXTS, 0, show=False)
    file = tmp_path / files(tmp_path)[0]
    os.utime(file, (1, 1))
    assert FeatureFile.open(file) is not None
    assert file.stat().st_mtime > 1


def test_reading_takes_memory_for_what_is_read_alone(tmp_path, bert):
    features = TextFeatures(ROOM, tmp_path)
    features.fill(bert, TEXTS, 0, show=False)
    assert isinstance(features._file._features, np.memmap)
    assert not features._file._features.flags.writeable
    assert feature_file.FeatureFile.open(tmp_path / "none.safetensors") is None


def test_the_folder_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "t2ireid_plugin" / "text_features"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "t2ireid_plugin" / "text_features"


# --- in the model and in a run ----------------------------------------------------------------------------------------


def configured(tiny_settings, tmp_path, **changes):
    words = tiny_settings(tmp_path / "log", **changes)
    return load_cfg(words[1], words[2:])


@pytest.fixture
def cfg(tiny_settings, tmp_path):
    return configured(
        tiny_settings, tmp_path, data__text_feature_cache="disk", data__text_feature_cache_dir=tmp_path / "cache"
    )


def build(cfg):
    torch.manual_seed(0)
    return build_model(cfg, build_tokenizer(cfg), 24)


def test_in_training_the_encoder_reads_nothing_that_is_on_disk(cfg, reads):
    model, train = build(cfg), build_sources(cfg)["cuhkpedes"].train
    remember_texts(cfg, model, train, show=False)
    filled = len(reads)
    items = [train[i] for i in (0, 5, 50)]
    captions, clothes = [item[4] for item in items], [item[6] for item in items]
    model.train()
    seen = []
    model.text_encoder.register_forward_hook(lambda *_: seen.append(1))
    out = model(cloth_instruction=clothes, id_instruction=captions)
    model(cloth_instruction=clothes, id_instruction=[swap_sides(text) for text in captions])
    assert seen == []
    assert len(reads) == filled > 0
    out.id_text_embeds.sum().backward()
    assert model.text_attn.in_proj_weight.grad is not None


def test_in_evaluation_it_is_not_used(cfg):
    model, train = build(cfg), build_sources(cfg)["cuhkpedes"].train
    text = train[0][4]
    with torch.no_grad():
        expected = model.eval().encode_text(text)
        remember_texts(cfg, model, train, show=False)
        assert torch.equal(model.encode_text(text), expected)


def test_hidden_words_are_not_remembered(cfg):
    cfg.data.text_feature_cache = "memory"
    model = build(cfg).train()
    remember_texts(cfg, model, (), show=False)
    images, texts = torch.randn(2, 3, 32, 16), ["a man in a red coat", "a woman in a blue dress"]
    for _ in range(3):
        model.forward_masked(images, None, texts, share=0.5)
    assert len(model.text_features) == 2


def test_the_models_mode_rechecks(cfg):
    cfg.data.text_feature_cache = "memory"
    model = build(cfg).train()
    remember_texts(cfg, model, (), show=False)
    ids = model.text_cache.ids(["a man"])
    before = model._encode_tokens(ids)[0]
    weight = next(model.text_encoder.parameters())
    weight.data.add_(torch.randn_like(weight))
    model.eval()
    model.train()
    after = model._encode_tokens(ids)[0]
    model.text_features = None
    torch.testing.assert_close(after, model._encode_tokens(ids)[0], rtol=0, atol=5e-3)
    assert not torch.allclose(before, after, atol=1e-2)


def test_it_is_off_by_default(tiny_settings, tmp_path):
    cfg = configured(tiny_settings, tmp_path)
    model = build(cfg)
    remember_texts(cfg, model, ())
    assert model.text_features is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data__text_feature_cache": "ram"}, "unknown 'ram'; valid: off, memory, disk"),
        ({"data__text_feature_cache": "disk", "model__freeze_text": False}, "needs model.freeze_text True"),
        ({"data__text_feature_cache": "disk", "data__transforms": "[drop_words]"}, "texts that drop_words"),
        ({"data__text_feature_cache": "memory", "data__text_feature_cache_gb": 0}, r"text_feature_cache_gb: 0.0 must"),
    ],
)
def test_settings_that_cannot_work(tiny_settings, tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words):
        check_config(configured(tiny_settings, tmp_path, **changes))


def test_the_pages_run_learns_what_one_without_it_learns(tiny_settings, tmp_path, repository):
    """The first loss, to the rounding of half precision; by the command of docs/performance.md, on a tiny model."""
    page = (repository / "docs" / "performance.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^ *python tools/train_net.py (.+)", page, flags=re.MULTILINE)
    config, file, *words = command.split()
    assert (config, words) == ("--config-file", ["data.text_feature_cache", "disk"])
    each_step = {"train__max_epoch": 1, "train__print_freq": 1}
    tiny = tiny_settings(tmp_path / "log", data__text_feature_cache_dir=tmp_path / "cache", **each_step)
    assert main(["train", *tiny_settings(tmp_path / "plain", **each_step)]) == 0
    assert tiny[1].endswith(file)
    assert main(["train", *tiny, *words]) == 0
    written = files(tmp_path / "cache")
    assert len(written) == 1

    def losses(folder):
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [row["loss"] for row in rows if "loss" in row]

    found, expected = losses(tmp_path / "log"), losses(tmp_path / "plain")
    assert found[0] == pytest.approx(expected[0], rel=2e-3)
    assert found != expected  # it was used
