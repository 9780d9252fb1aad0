"""Cached token features: equal to the encoder's, bounded, and never of other weights or texts."""

import copy
import json
import os
import re

import numpy as np
import pytest
import torch
from preloaded import Preloaded
from states import largest_file
from transformers import BertConfig, BertModel

from t2ireid_plugin.cli import main
from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.data.transforms import swap_sides
from t2ireid_plugin.engine import feature_cache
from t2ireid_plugin.engine.build import build_run, build_text_features
from t2ireid_plugin.engine.checks import check_config
from t2ireid_plugin.engine.feature_cache import TextFeatureCache, encoder_digest
from t2ireid_plugin.errors import ConfigError, DataError
from t2ireid_plugin.modeling.encoders.token_features import encode_texts
from t2ireid_plugin.modeling.training_passes import forward_masked

WIDTH = 16
ROOM = 10**9
TEXTS = [(2, 7, 3), (2, 8, 9, 3), (2, 9, 10, 11, 3), (2, 12, 13, 14, 15, 3)]


def make_encoder(seed=0, **changes):
    torch.manual_seed(seed)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20, **changes}
    return BertModel(BertConfig(hidden_size=WIDTH, **sizes), add_pooling_layer=False).eval().requires_grad_(False)


def on_disk(folder, encoder=None, texts=TEXTS, max_bytes=ROOM):
    return TextFeatureCache.on_disk(folder, max_bytes, encoder or make_encoder(), texts, 0)


@pytest.fixture
def encoder():
    return make_encoder()


@pytest.fixture
def passes(monkeypatch):
    """The texts of each pass through the encoder."""
    seen = []

    def counted(model, texts, pad):
        seen.append(list(texts))
        return encode_texts(model, texts, pad)

    monkeypatch.setattr(feature_cache, "encode_texts", counted)
    return seen


def assert_features(features, encoder, texts):
    expected = torch.cat([encode_texts(encoder, [ids], 0) for ids in texts])
    torch.testing.assert_close(features, expected.half().float(), rtol=0, atol=2e-3)


@pytest.fixture(params=["memory", "disk"])
def filled(request, tmp_path, encoder):
    """A cache with the features of `TEXTS`."""
    if request.param == "disk":
        return on_disk(tmp_path, encoder)
    cache = TextFeatureCache(ROOM)
    cache(encoder, TEXTS, 0)
    return cache


def test_features_are_the_encoders_in_half_precision(filled, encoder, passes):
    for texts in (TEXTS, TEXTS[1:3], TEXTS[::-1][:2], [TEXTS[0]] * 3):
        features = filled(encoder, texts, 0)
        assert_features(features, encoder, texts)
        assert features.dtype == torch.float32
        assert torch.equal(features, features.half().float())
    assert passes == []
    texts = [TEXTS[0], (2, 16, 17, 3)]
    assert_features(filled(encoder, texts, 0), encoder, texts)
    assert passes == [texts[1:]]  # the unknown one


def change_one_weight(model):
    with torch.no_grad():
        model.encoder.layer[0].output.dense.weight[3, 2] += 0.5


def load_weights(model):
    model.load_state_dict(make_encoder(seed=1).state_dict())


def replace_parameter(model):
    model.embeddings.word_embeddings.weight = torch.nn.Parameter(torch.randn(20, WIDTH), requires_grad=False)


@pytest.mark.parametrize("change", [change_one_weight, load_weights, replace_parameter])
def test_changed_weights_invalidate_everything(filled, encoder, passes, change):
    before = filled(encoder, TEXTS, 0)
    change(encoder)
    after = filled(encoder, TEXTS, 0)
    assert passes == [TEXTS]
    assert not torch.allclose(before, after, atol=1e-3)
    assert_features(after, encoder, TEXTS)


def test_the_digest_depends_on_weights_and_architecture_alone():
    moved, changed = make_encoder(), make_encoder()
    moved.config._name_or_path = "elsewhere"
    change_one_weight(changed)
    same = {encoder_digest(model) for model in (make_encoder(), copy.deepcopy(make_encoder()), moved)}
    assert len(same) == 1
    variants = (changed, make_encoder(seed=1), make_encoder(layer_norm_eps=1e-3), make_encoder().half())
    assert len({encoder_digest(model) for model in variants} | same) == 5


# The file


def files(folder):
    return sorted(file.name for file in folder.iterdir() if file.name != "lock")


def test_a_second_process_reads_the_file_of_the_first(tmp_path, encoder, passes):
    for _ in range(2):
        cache = on_disk(tmp_path, texts=TEXTS[::-1] + TEXTS)  # neither order nor repetition matters
        cache(encoder, TEXTS, 0)
    assert len(passes) == 1
    (name,) = files(tmp_path)
    array = np.load(tmp_path / name)
    assert (array.shape, array.dtype) == ((sum(map(len, TEXTS)), WIDTH), np.float16)


def test_other_texts_and_other_weights_get_other_files(tmp_path, encoder, capsys):
    for model, texts in ((encoder, TEXTS), (encoder, TEXTS[1:]), (make_encoder(seed=1), TEXTS)):
        on_disk(tmp_path, model, texts)
    assert len(files(tmp_path)) == 3
    assert "text features: 4 of 4" in capsys.readouterr().err


def test_an_existing_file_needs_no_lock(tmp_path, encoder, passes, monkeypatch):
    """It may be in a folder of somebody else."""
    on_disk(tmp_path, encoder)
    monkeypatch.setattr("t2ireid_plugin.engine.feature_cache.FileLock", None)
    on_disk(tmp_path, encoder)


def test_the_file_may_be_deleted_while_it_is_used(tmp_path, encoder, passes):
    cache = on_disk(tmp_path, encoder)
    for file in tmp_path.iterdir():
        file.unlink()
    assert_features(cache(encoder, TEXTS, 0), encoder, TEXTS)
    assert len(passes) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data[:4],
        lambda data: data[:-1],
        lambda data: data[:200] + bytes([data[200] ^ 16]) + data[201:],
    ],
)
def test_a_damaged_file_is_written_again(tmp_path, damage):
    """Also where one bit of a feature is wrong; other files in the folder stay."""
    (tmp_path / "mine.npy").write_text("")
    (tmp_path / "model.safetensors").write_text("")
    on_disk(tmp_path)
    (file,) = (file for file in tmp_path.glob("*.npy") if file.stat().st_size)
    intact = file.read_bytes()
    file.write_bytes(damage(intact))
    on_disk(tmp_path)
    assert file.read_bytes() == intact
    assert {file.name for file in tmp_path.iterdir()} == {file.name, "mine.npy", "model.safetensors", "lock"}


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"text_feature_cache: cannot use.*file"):
        on_disk(tmp_path / "file" / "cache")


def test_a_full_disk_is_an_error(tmp_path, encoder):
    with largest_file(300), pytest.raises(DataError, match=r"cannot write '.*npy': File too large"):
        on_disk(tmp_path, encoder)
    assert files(tmp_path) == []


FILL = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_feature_cache import on_disk
from t2ireid_plugin.engine import feature_cache
passes, inner = [], feature_cache.encode_texts
feature_cache.encode_texts = lambda *a: passes.append(1) or inner(*a)
on_disk(Path(sys.argv[1]))
print(len(passes))
"""


@pytest.mark.slow
def test_of_two_processes_at_once_one_writes(tmp_path):
    both = [Preloaded(["-c", FILL, tmp_path, os.path.dirname(__file__)]) for _ in range(2)]
    assert sorted(process.finish().stdout.split()[-1] for process in both) == ["0", "1"]
    assert len(files(tmp_path)) == 1


def test_memory_is_bounded(encoder, passes):
    cache = TextFeatureCache(2 * WIDTH * (len(TEXTS[0]) + len(TEXTS[1])))
    for _ in range(2):
        assert_features(cache(encoder, TEXTS, 0), encoder, TEXTS)
    assert passes == [TEXTS, TEXTS[2:]]


def test_a_file_is_bounded_with_a_warning(tmp_path, encoder, passes, caplog):
    cache = on_disk(tmp_path, encoder, max_bytes=2 * WIDTH * 7)
    assert "2 of 4 texts fit" in caplog.text
    assert_features(cache(encoder, TEXTS, 0), encoder, TEXTS)
    assert passes == [TEXTS[:2], TEXTS[2:]]
    assert on_disk(tmp_path, encoder, max_bytes=1)(encoder, TEXTS, 0).shape == (18, WIDTH)


# In the model and in a run


@pytest.fixture
def configure(tiny_settings, tmp_path):
    def make(cache, **changes):
        words = tiny_settings(
            tmp_path / "log",
            data__text_feature_cache=cache,
            data__text_feature_cache_dir=tmp_path / "cache",
            **changes,
        )
        return load_cfg(words[1], words[2:])

    return make


def with_cache(cfg):
    """A model in training with its cache, and the training items."""
    engine = build_run(cfg, None)
    model, train = engine.model, engine.train_loader.dataset.train
    model.text_features = build_text_features(cfg, model, train)
    return model.train(), train


def test_in_training_the_encoder_reads_no_text_that_is_on_disk(configure, passes):
    model, train = with_cache(configure("disk"))
    filled = len(passes)
    captions, clothes = [train[i][5] for i in (0, 5, 50)], [train[i][6] for i in (0, 5, 50)]
    output = model(cloth_instruction=clothes, id_instruction=captions)
    model(cloth_instruction=clothes, id_instruction=[swap_sides(text) for text in captions])
    assert len(passes) == filled > 0
    output.id_text_embeds.sum().backward()
    assert model.text_attn.in_proj_weight.grad is not None


def test_evaluation_does_not_use_the_cache(configure):
    model, train = with_cache(configure("disk"))
    cache, model.text_features = model.text_features, None
    with torch.no_grad():
        expected = model.eval().encode_text(train[0][4])
        model.text_features = cache
        assert torch.equal(model.encode_text(train[0][4]), expected)


def test_masked_texts_are_not_cached(configure):
    model, _ = with_cache(configure("memory"))
    texts = ["a man in a red coat", "a woman in a blue dress"]
    for _ in range(3):
        forward_masked(model, torch.randn(2, 3, 32, 16), None, texts, share=0.5)
    assert len(model.text_features._rows) == 2


@pytest.mark.parametrize(
    ("cache", "changes", "message"),
    [
        ("ram", {}, "unknown 'ram'; valid: off, memory, disk"),
        ("disk", {"model__freeze_text": False}, "needs model.freeze_text True"),
        ("disk", {"data__transforms": "[drop_words]"}, "texts that drop_words"),
        ("memory", {"data__text_feature_cache_gb": 0}, r"text_feature_cache_gb: 0.0 must"),
    ],
)
def test_settings_that_cannot_work_are_refused(configure, cache, changes, message):
    with pytest.raises(ConfigError, match=message):
        check_config(configure(cache, **changes))


@pytest.mark.slow
def test_the_pages_command_learns_the_same_with_and_without_the_cache(tiny_settings, tmp_path, repository):
    """The first loss agrees to the rounding of half precision; docs/performance.md's command, on a tiny model."""
    page = (repository / "docs" / "performance.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^ *t2ireid train (.+)", page, flags=re.MULTILINE)
    config, file, *words = command.split()
    assert (config, words) == ("--config-file", ["data.text_feature_cache", "disk"])
    each_step = {"train__max_epoch": 1, "train__print_freq": 1}
    tiny = tiny_settings(tmp_path / "cached", data__text_feature_cache_dir=tmp_path / "cache", **each_step)
    assert main(["train", *tiny_settings(tmp_path / "plain", **each_step)]) == 0
    assert tiny[1].endswith(f"{file}.yaml")
    assert main(["train", *tiny, *words]) == 0
    assert len(files(tmp_path / "cache")) == 1

    def losses(folder):
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [row["loss"] for row in rows if "loss" in row]

    cached, plain = losses(tmp_path / "cached"), losses(tmp_path / "plain")
    assert cached[0] == pytest.approx(plain[0], rel=2e-3)
    assert cached != plain  # the cache was used
