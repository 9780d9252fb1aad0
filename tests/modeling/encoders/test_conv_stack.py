"""The convolutional image encoder and text encoders without layers: against formulas, and through a whole run."""

import json

import pytest
import torch
import torch.nn.functional as F
import yaml
from transformers import AutoModel

from t2ireid_plugin.cli import main
from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.engine.build import build_run
from t2ireid_plugin.engine.optim import _layer_shares
from t2ireid_plugin.errors import ConfigError, InputError
from t2ireid_plugin.modeling.encoders.backbones import image_tokens, num_prefix_tokens
from t2ireid_plugin.modeling.encoders.families import layer_numbers
from t2ireid_plugin.modeling.encoders.loading import build_image_encoder, build_text_encoder
from t2ireid_plugin.modeling.encoders.preprocess import image_preprocess
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel
from t2ireid_plugin.visualization.attention import attention_maps

CONV = {"model_type": "conv_stack", "channels": [4, 6, 8, 12], "hidden_size": 16, "image_size": [32, 16]}
WORDS = {"num_hidden_layers": 0, "hidden_size": 16, "num_attention_heads": 2, "hidden_dropout_prob": 0.0}


@pytest.mark.parametrize("size", [(32, 16), (16, 48)])
def test_tokens_are_those_of_the_layers_in_a_plain_layout(make, size):
    encoder = make.stir(build_image_encoder(CONV)).eval()
    state, pixels = encoder.state_dict(), make.images(3, *size)
    maps = pixels
    for i in range(4):
        maps = F.conv2d(maps, state[f"blocks.{i}.0.weight"], stride=2, padding=1)
        norm = [state[f"blocks.{i}.1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        maps = F.relu(F.batch_norm(maps, *norm))
    maps = F.conv2d(maps, state["projection.weight"][:, :, None, None], state["projection.bias"])
    tokens = image_tokens(encoder, pixels).tokens
    assert tokens.shape == (3, size[0] * size[1] // 256, 16)
    for row in range(size[0] // 16):
        for column in range(size[1] // 16):
            expected = F.layer_norm(maps[:, :, row, column], (16,), state["norm.weight"], state["norm.bias"])
            torch.testing.assert_close(tokens[:, row * (size[1] // 16) + column], expected, rtol=0, atol=1e-5)


def test_what_the_rest_of_the_package_reads(make, tmp_path):
    encoder = build_image_encoder(CONV).eval()
    assert num_prefix_tokens(encoder) == 0
    assert image_preprocess(CONV, encoder.config) == (32, 16, (0.5,) * 3, (0.5,) * 3)
    assert set(layer_numbers(encoder).values()) == {1, 2, 3, 4, 5}
    assert set(layer_numbers(build_text_encoder(WORDS, 50)).values()) == {0}
    with pytest.raises(InputError, match="16 x 16 patches of conv_stack"):
        image_tokens(encoder, make.images(2, 40, 16))
    with pytest.raises(ConfigError, match="patch_size 16 must be 4"):
        build_image_encoder({**CONV, "channels": [4, 6]})
    with pytest.raises(ConfigError, match=r"channels \[4, 0, 8, 8\] must be"):
        build_image_encoder({**CONV, "channels": [4, 0, 8, 8]})
    encoder.save_pretrained(tmp_path)
    for other in (build_image_encoder(str(tmp_path)).eval(), AutoModel.from_pretrained(tmp_path).eval()):
        assert torch.equal(image_tokens(other, make.images(2)).tokens, image_tokens(encoder, make.images(2)).tokens)


def test_words_without_layers_are_embeddings(make):
    model = make.model(bert_base_path={**WORDS, "hidden_size": 32}, freeze_text=False)
    table = model.text_encoder.state_dict()
    ids = model.text_cache.ids(["A red coat.", "A tall boy wearing a striped shirt and white shoes."])
    features, batch = model._encode_tokens(ids)
    words = [
        table["embeddings.word_embeddings.weight"][token]
        + table["embeddings.position_embeddings.weight"][place]
        + table["embeddings.token_type_embeddings.weight"][0]
        for text in ids
        for place, token in enumerate(text)
    ]
    norm = (table["embeddings.LayerNorm.weight"], table["embeddings.LayerNorm.bias"])
    expected = F.layer_norm(torch.stack(words), (32,), *norm, eps=model.text_encoder.config.layer_norm_eps)
    in_order = batch.to_tokens(batch.to_rows(features))
    torch.testing.assert_close(in_order, expected, rtol=0, atol=1e-6)


def test_compiled_training_is_the_same(make):
    sources = {"vit_pretrained": CONV, "bert_base_path": WORDS, "freeze_text": False, "fusion": {"num_layers": 1}}
    plain, model = make.model(**sources), make.model(**sources)
    model.compile_parts(backend="eager")
    inputs = make.images(3), ["A coat."] * 3, ["A boy.", "A man.", "A woman with a bag."]
    torch.testing.assert_close(tuple(model(*inputs)), tuple(plain(*inputs)), rtol=0, atol=1e-5)
    torch._dynamo.reset()


@pytest.fixture
def recipe(synthetic, tmp_path):
    """`recipe(save_dir, KEY=value)`: command line words for a tiny run with both encoders."""
    file = tmp_path / "small.yaml"
    data = {"root": str(synthetic.root), "workers": 0, "id_instruction": "identity", "keep_images": True}
    settings = {
        "use_gpu": False,
        "model": {
            "vit_config": CONV,
            "bert_config": {**WORDS, "vocab_size": 300},
            "freeze_text": False,
            "projection_dropout": 0.1,
        },
        "data": data,
        "sampler": {"train_sampler": "RandomIdentitySampler", "num_instances": 2},
        "train": {"batch_size": 16, "max_epoch": 1, "lr_scheduler": "warmup_cosine", "layer_decay": 0.5},
        "loss": {"terms": {"info_nce": {"weight": 1.0}, "cloth_match": {"weight": 1.0}}},
        "test": {"bootstrap": 0, "pictures": 0},
    }
    file.write_text(yaml.safe_dump(settings))
    return lambda save_dir, **others: [
        *("--config-file", str(file), "data.save_dir", str(save_dir)),
        *(f"{name.replace('__', '.')}={value}" for name, value in others.items()),
    ]


def test_a_run_with_both_is_trained_tested_and_exported(recipe, make, tmp_path):
    run, folder = tmp_path / "run", tmp_path / "finder"
    assert main(["train", *recipe(run)]) == 0
    assert main(["export", str(run), str(folder)]) == 0
    assert json.loads((folder / "config.json").read_text())["vision_config"]["model_type"] == "conv_stack"
    model, pixels = T2IReIDModel.from_checkpoint(run / "best.pth"), make.images(2, 32, 16)
    exported = AutoModel.from_pretrained(folder).eval()
    for encode, value in (("encode_image", pixels), ("encode_text", ["A man in a red coat.", "A woman."])):
        assert torch.equal(getattr(exported, encode)(value), getattr(model, encode)(value))
    assert model.image_mlp[2].p == exported.model.text_mlp[6].p == 0.1
    assert T2IReIDModel.from_checkpoint(folder / "model.safetensors").image_mlp[6].p == 0.1
    maps = attention_maps(model, pixels)
    assert maps.identity.shape == (2, 2, 1)
    torch.testing.assert_close(maps.clothing.sum(dim=(1, 2)), torch.ones(2))


def test_settings_of_the_encoders_in_training(recipe, tmp_path):
    def build(**settings):
        _, file, *words = recipe(tmp_path, **settings)
        return build_run(load_cfg(file, words))

    for name, value in (("encode_at_once", 4), ("checkpoint_encoders", True)):
        with pytest.raises(ConfigError, match=f"train.{name}: {value} excludes the image encoder conv_stack"):
            build(**{f"train__{name}": value})
    shares = _layer_shares(build().model, 0.5)
    assert {shares[f"visual_encoder.blocks.{i}.0.weight"] for i in range(4)} == {2.0 ** (i - 4) for i in range(4)}
