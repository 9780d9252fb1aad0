import functools
import http.server
import json
import os
import re
import shutil
import socket
import threading
import urllib.request

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from tiny_models import transformers_4

from t2ireid_plugin.errors import ConfigError, EncoderError, check_choice
from t2ireid_plugin.modeling.encoders import loading
from t2ireid_plugin.modeling.encoders.loading import (
    IMAGE_KEY,
    TEXT_KEY,
    build_image_encoder,
    build_text_encoder,
    build_tokenizer,
    check_source,
    encoder_config,
    stored_config,
)
from t2ireid_plugin.modeling.encoders.preprocess import image_preprocess
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel

UNKNOWN_ID = "no-such-owner-7f3a/no-such-model"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


@pytest.fixture(autouse=True)
def fresh_probe():
    """The probe's answer is cached; each test probes again."""
    loading._hub_reachable.cache_clear()
    yield
    loading._hub_reachable.cache_clear()


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr(loading, "_hub_reachable", lambda: False)


def edit_json(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


# --- what loads -------------------------------------------------------------------------------------------------------


def test_encoders_load_from_folders(folders, make):
    pixels = make.images(2)
    ids = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]])
    image = build_image_encoder(str(folders.image)).eval()
    text = build_text_encoder(str(folders.text)).eval()
    with torch.no_grad():
        for built, original, inputs in ((image, folders.vit, pixels), (text, folders.bert, ids)):
            assert torch.equal(built(inputs).last_hidden_state, original(inputs).last_hidden_state)
            assert not any("pooler" in name for name in built.state_dict())


def test_a_folder_written_by_transformers_4(folders, make):
    """Its ViT has other names; `from_pretrained` translates them."""
    file = folders.image / "model.safetensors"
    old = transformers_4(load_file(file))
    assert "encoder.layer.1.attention.attention.key.bias" in old
    save_file(old, file, metadata={"format": "pt"})
    pixels = make.images(2)
    with torch.no_grad():
        actual = build_image_encoder(str(folders.image)).eval()(pixels).last_hidden_state
        assert torch.equal(actual, folders.vit(pixels).last_hidden_state)


def test_the_tokenizer_is_the_folders(folders):
    tokenizer = build_tokenizer(str(folders.text), len(folders.words))
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("A man wears RED coats, zebra")["input_ids"])
    assert tokens == ["[CLS]", "a", "man", "wears", "red", "coat", "##s", ",", "[UNK]", "[SEP]"]
    tokenizer.save_pretrained(folders.text)
    (folders.text / "vocab.txt").unlink(missing_ok=True)  # tokenizer.json suffices
    assert build_tokenizer(str(folders.text), len(folders.words))("red coat")["input_ids"] == [2, 10, 12, 3]


def test_a_model_from_folders(folders, make):
    config = {"vit_pretrained": str(folders.image), "bert_base_path": str(folders.text), "num_classes": 3}
    model = T2IReIDModel(config).eval()
    out = model(make.images(2), ["red coat", "blue shirt"], ["a man", "a woman"])
    assert out.fused_embeds.shape == (2, 256)
    assert model.preprocess == (32, 32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_inline_configurations():
    image = build_image_encoder({"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2})
    assert (image.config.model_type, image.config.hidden_size, image.config.intermediate_size) == ("vit", 24, 3072)
    small = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = build_text_encoder(small, vocab_size=50)
    assert text.config.model_type == "bert"
    assert text.get_input_embeddings().weight.shape == (50, 24)
    assert small == {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    other = build_text_encoder({"model_type": "distilbert", "dim": 24, "n_layers": 1, "n_heads": 2}, vocab_size=50)
    assert other.config.model_type == "distilbert"


def test_a_configuration_object_is_used_unchanged(folders):
    """Its vocabulary size too; the folder's weights are not read."""
    (folders.text / "model.safetensors").unlink()
    config = encoder_config(str(folders.text), TEXT_KEY)
    encoder = build_text_encoder(config, vocab_size=7)
    assert encoder.get_input_embeddings().weight.shape == (len(folders.words), 32)
    check_source(config, TEXT_KEY)
    image = encoder_config({"hidden_size": 24, "model_type": "clip"}, IMAGE_KEY)
    assert (image.model_type, image.hidden_size) == ("clip_vision_model", 24)
    with pytest.raises(EncoderError, match="bert_base_path: the configuration is a clip_vision_model model, which"):
        build_text_encoder(image)


def test_a_hub_id_in_the_cache_needs_no_network(folders, tmp_path, monkeypatch, no_hub):
    revision = "0" * 40
    for name, source in (("vit", folders.image), ("bert", folders.text)):
        repository = tmp_path / "hub" / f"models--owner--{name}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(revision)
        shutil.copytree(source, repository / "snapshots" / revision)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    check_source("owner/vit", IMAGE_KEY)
    encoder = build_image_encoder("owner/vit")
    assert torch.equal(encoder.state_dict()["layernorm.bias"], folders.vit.state_dict()["layernorm.bias"])
    assert image_preprocess("owner/vit", encoder.config).mean == (0.1, 0.2, 0.3)
    assert build_text_encoder("owner/bert").config.vocab_size == len(folders.words)
    assert len(build_tokenizer("owner/bert", len(folders.words))) == len(folders.words)


# --- preprocessing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reachable", [True, False])
def test_the_preprocessor_file_is_downloaded_from_the_hub(folders, monkeypatch, reachable):
    """`from_pretrained` downloads only the weights; without the file a DeiT would get ViT's normalisation."""
    monkeypatch.setattr(loading, "_hub_reachable", lambda: reachable)
    hub = {"preprocessor_config.json": folders.image / "preprocessor_config.json"}
    requests = []

    def download(repository, filename):
        requests.append((repository, filename))
        if filename not in hub:
            raise LocalEntryNotFoundError(f"404: {filename}")
        return str(hub[filename])

    monkeypatch.setattr(loading, "hf_hub_download", download)
    mean = image_preprocess(UNKNOWN_ID, folders.vit.config).mean
    assert mean == ((0.1, 0.2, 0.3) if reachable else (0.5, 0.5, 0.5))
    assert requests == ([(UNKNOWN_ID, "preprocessor_config.json")] if reachable else [])
    hub.clear()
    assert image_preprocess(UNKNOWN_ID, folders.vit.config).mean == (0.5, 0.5, 0.5)


def test_a_damaged_preprocessor_file(folders):
    (folders.image / "preprocessor_config.json").write_text("{")
    with pytest.raises(EncoderError, match="preprocessor_config"):
        image_preprocess(str(folders.image), folders.vit.config)


# --- what does not load -----------------------------------------------------------------------------------------------


def test_unknown_keys_and_types_of_a_configuration():
    for build, key in ((build_image_encoder, IMAGE_KEY), (build_text_encoder, TEXT_KEY)):
        with pytest.raises(ConfigError, match=rf"{key}: \w+: unknown hiden_size; .*\bhidden_size\b"):
            build({"hiden_size": 24})
    with pytest.raises(ConfigError, match=r"clip_vision_model: unknown hiden_size; valid: .*hidden_size"):
        build_image_encoder({"model_type": "clip", "hiden_size": 3})
    with pytest.raises(ConfigError, match="no_such_type"):
        build_image_encoder({"model_type": "no_such_type"})


def test_encoders_of_the_wrong_kind(folders):
    """The two keys of the configuration swapped."""
    with pytest.raises(EncoderError, match=r"vit_pretrained: .*bert model, which cannot encode images"):
        build_image_encoder(str(folders.text))
    with pytest.raises(EncoderError, match=r"bert_base_path: .*vit model, which cannot encode texts"):
        build_text_encoder(str(folders.image))


@pytest.mark.parametrize("path", ["{}/nowhere", "./nowhere", "~/nowhere", "some/where/nowhere", "my vit", "vit/", ""])
def test_a_missing_folder_is_named(tmp_path, path, monkeypatch):
    monkeypatch.setattr(loading, "_hub_reachable", lambda: pytest.fail("probed the hub for a path"))
    path = path.format(tmp_path)
    check = functools.partial(check_source, key=IMAGE_KEY)
    for attempt in (check, build_image_encoder, build_text_encoder, lambda p: build_tokenizer(p, 9)):
        with pytest.raises(EncoderError) as error:
            attempt(path)
        assert f"'{path}'" in str(error.value)
        assert "config.json" in str(error.value)


SPOILERS = {
    "truncated weights": lambda f: os.truncate(f / "model.safetensors", (f / "model.safetensors").stat().st_size - 100),
    "a Git LFS pointer": lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
    "empty weights": lambda f: (f / "model.safetensors").write_bytes(b""),
    "no weights": lambda f: (f / "model.safetensors").unlink(),
    "other shapes": lambda f: edit_json(f / "config.json", intermediate_size=40),
    "damaged config": lambda f: (f / "config.json").write_text("{"),
    "no config": lambda f: (f / "config.json").unlink(),
    "nothing": lambda f: [file.unlink() for file in f.iterdir()],
}


@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS)
def test_a_damaged_folder_is_named(folders, spoil):
    for folder, build, key in (
        (folders.image, build_image_encoder, IMAGE_KEY),
        (folders.text, build_text_encoder, TEXT_KEY),
    ):
        spoil(folder)
        with pytest.raises(EncoderError) as error:
            build(str(folder))
        assert str(error.value).startswith(key)
        assert str(folder) in str(error.value)


def test_weights_that_lack_parameters(folders):
    """transformers would fill them with random numbers and say so in a log."""
    edit_json(folders.image / "config.json", num_hidden_layers=3)
    with pytest.raises(EncoderError, match=r"lack 16 .*layers\.2\.") as error:
        build_image_encoder(str(folders.image))
    assert str(folders.image) in str(error.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"intermediate_size": 64}, "have other sizes in 6 .*fc1"), ({"patch_size": 8}, "have other sizes in 2 .*patch")],
)
def test_weights_of_other_sizes_are_named_in_one_line(folders, change, reason, capfd):
    """Without transformers' own report, which takes a screen."""
    edit_json(folders.image / "config.json", **change)
    with pytest.raises(EncoderError, match=reason) as error:
        build_image_encoder(str(folders.image))
    assert "\n" not in str(error.value)
    assert "LOAD REPORT" not in capfd.readouterr().err


def test_weights_with_more_blocks_are_loaded_with_a_warning(folders, caplog, capfd):
    edit_json(folders.image / "config.json", num_hidden_layers=1)
    assert build_image_encoder(str(folders.image)).config.num_hidden_layers == 1
    (record,) = caplog.records
    assert re.search(r"vit_pretrained: the weights in .* have more blocks than config\.json", record.getMessage())
    assert "LOAD REPORT" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("key", "file", "content", "reason"),
    [
        (IMAGE_KEY, "model.safetensors", POINTER, "is a git-lfs pointer"),
        (IMAGE_KEY, "config.json", "<!DOCTYPE html><html></html>", "is a web page"),
        (TEXT_KEY, "vocab.txt", POINTER, "is a git-lfs pointer"),
        (TEXT_KEY, "model.safetensors", "<html>not found</html>", "is a web page"),
        (IMAGE_KEY, "model.safetensors", None, "model.safetensors' cannot be read (No such file or directory)"),
        (TEXT_KEY, "config.json", None, "config.json' cannot be read (No such file or directory)"),
    ],
)
def test_a_file_that_a_download_left_there_is_named(folders, key, file, content, reason):
    folder = folders.image if key == IMAGE_KEY else folders.text
    (folder / file).unlink()
    if content:
        (folder / file).write_text(content)
    build = build_image_encoder if key == IMAGE_KEY else build_text_encoder
    for attempt in (build, lambda source: check_source(source, key)):
        with pytest.raises(EncoderError, match=re.escape(reason)) as error:
            attempt(str(folder))
        assert str(error.value).startswith(f"{key}: ")
        assert str(folder) in str(error.value)


def test_a_pointer_beside_the_weights_that_are_loaded_is_ignored(folders):
    (folders.image / "pytorch_model.bin").write_text(POINTER)
    (folders.image / "vocab.txt").write_text(POINTER)
    build_image_encoder(str(folders.image))


@pytest.mark.parametrize(
    ("key", "setting", "value"),
    [
        (IMAGE_KEY, "patch_size", 0),
        (IMAGE_KEY, "patch_size", [8, 0]),
        (IMAGE_KEY, "image_size", -1),
        (IMAGE_KEY, "num_attention_heads", 0),
        (IMAGE_KEY, "num_hidden_layers", -1),
        (IMAGE_KEY, "num_hidden_layers", 1212),
        (IMAGE_KEY, "intermediate_size", -3),
        (IMAGE_KEY, "num_channels", 1),
        (TEXT_KEY, "num_attention_heads", -2),
        (TEXT_KEY, "vocab_size", -5),
        (TEXT_KEY, "hidden_size", 0),
    ],
)
def test_impossible_numbers_of_a_configuration(folders, key, setting, value):
    """In a mapping and in the file of a folder, with and without transformers."""
    folder = folders.image if key == IMAGE_KEY else folders.text
    edit_json(folder / "config.json", **{setting: value})
    build = build_image_encoder if key == IMAGE_KEY else build_text_encoder
    for attempt in (build, lambda source: stored_config(source, key)):
        with pytest.raises(ConfigError, match=re.escape(f"{key}: {setting} {value!r} must be")):
            attempt({setting: value})
    with pytest.raises(ConfigError, match=re.escape(f"{key}: {setting} {value!r} must be")):
        stored_config(str(folder), key)


def test_messages_show_the_beginning_of_large_values():
    """Aliases in YAML can make a value of a billion parts from a few lines."""
    shown = []

    class Part:
        def __repr__(self):
            shown.append(self)
            return "part"

    with pytest.raises(ConfigError, match=r"hidden_size \[part, part, .*\.\.\.\] must be"):
        stored_config({"hidden_size": [Part()] * 100}, IMAGE_KEY)
    with pytest.raises(ConfigError, match=r"name: unknown \[part, part, .*\.\.\.\]; valid: a, b"):
        check_choice("name", [Part()] * 100, ("a", "b"))
    assert len(shown) < 20


def test_a_value_of_another_type_is_one_line():
    with pytest.raises(ConfigError, match=r"vit_pretrained: .*patch_size") as error:
        build_image_encoder({"patch_size": "8"})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        (IMAGE_KEY, {"hidden_act": "foo"}),
        (IMAGE_KEY, {"hidden_dropout_prob": 2}),
        (TEXT_KEY, {"hidden_size": 32, "num_attention_heads": 7}),
    ],
)
def test_what_the_library_cannot_build_is_one_line(key, settings):
    with pytest.raises(ConfigError, match=rf"{key}: no \w+ can be built with these settings \(\w+: ") as error:
        (build_image_encoder if key == IMAGE_KEY else build_text_encoder)(settings)
    assert "\n" not in str(error.value)


def test_sizes_without_transformers_are_those_of_transformers(folders):
    """So that sizes can be checked before it is imported."""
    for source in ({}, {"patch_size": 8}, str(folders.image), {"model_type": "conv_stack"}):
        quick, whole = stored_config(source, IMAGE_KEY), encoder_config(source, IMAGE_KEY)
        assert (quick.patch_size, quick.image_size) == (whole.patch_size, whole.image_size)
    two_towers = {"model_type": "clip", "vision_config": {"model_type": "clip_vision_model", "patch_size": 14}}
    assert stored_config(two_towers, IMAGE_KEY).patch_size == 14
    assert not hasattr(stored_config({"model_type": "dinov2"}, IMAGE_KEY), "patch_size")


def test_a_folder_without_a_vocabulary(folders):
    """transformers would hand out a tokenizer that knows its special tokens and nothing else."""
    (folders.text / "vocab.txt").unlink()
    with pytest.raises(EncoderError, match=r"vocab\.txt"):
        build_tokenizer(str(folders.text), len(folders.words))
    with pytest.raises(EncoderError, match=r"vocab\.txt"):
        T2IReIDModel({"vit_pretrained": str(folders.image), "bert_base_path": str(folders.text)})


@pytest.mark.parametrize("change", [-3, 1])
def test_a_vocabulary_of_another_size(folders, change):
    words = folders.words[:change] if change < 0 else [*folders.words, "more"]
    (folders.text / "vocab.txt").write_text("\n".join(words) + "\n")
    with pytest.raises(EncoderError, match=rf"{len(words)} tokens .* {len(folders.words)}"):
        build_tokenizer(str(folders.text), len(folders.words))


def test_a_damaged_tokenizer(folders):
    for content in ("{", "{}", "[]", '{"added_tokens": []}'):
        (folders.text / "tokenizer.json").write_text(content)
        with pytest.raises(EncoderError) as error:
            build_tokenizer(str(folders.text), len(folders.words))
        assert str(folders.text) in str(error.value)


# --- the hub ----------------------------------------------------------------------------------------------------------


def test_a_hub_id_without_the_hub(no_hub):
    for name in (UNKNOWN_ID, "no-such-model-7f3a"):
        for attempt in (build_image_encoder, build_text_encoder, lambda name: build_tokenizer(name, 30522)):
            with pytest.raises(EncoderError) as error:
                attempt(name)
            for part in (f"'{name}'", "not reachable", f"hf download {name} --local-dir", "HF_ENDPOINT"):
                assert part in str(error.value)


def test_offline_mode_sends_no_request(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = []
    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: asked.append(a))
    with pytest.raises(EncoderError, match="hf download"):
        build_image_encoder(UNKNOWN_ID)
    assert asked == []


@pytest.mark.parametrize("listens", [False, True])
def test_the_probe_of_a_port_that_refuses_or_does_not_answer(monkeypatch, listens):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # refuses connections until it listens
        if listens:
            taken.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert loading._hub_reachable(0.3) is False


@pytest.mark.parametrize("status", [200, 403])
def test_the_probe_of_a_server_that_answers(monkeypatch, status):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert loading._hub_reachable() is True
        thread.join()


def test_check_source(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "_hub_reachable", lambda: False)
    check_source({}, IMAGE_KEY)
    check_source(str(folders.image), IMAGE_KEY)
    with pytest.raises(EncoderError, match=r"vit_pretrained: .*hf download some/model"):
        check_source("some/model", IMAGE_KEY)
    with pytest.raises(EncoderError, match="bert_base_path: no folder"):
        check_source(str(tmp_path / "nowhere"), TEXT_KEY)
    monkeypatch.setattr(loading, "_hub_reachable", lambda: True)
    check_source("some/model", IMAGE_KEY)  # the download may succeed
