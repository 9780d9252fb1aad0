"""Fixtures with tiny models and encoders; a conftest.py imports those that its folder needs."""

import json
import re
from types import SimpleNamespace

import pytest
import torch
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from t2ireid_plugin.modeling.encoders.tokenizer import learn_wordpiece
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel

CAPTIONS = [
    f"A {person} wearing a {colour} {garment}, {colour} shoes and a {bag}."
    for person in ("young man", "woman with long hair", "tall boy")
    for colour in ("red", "dark blue", "white")
    for garment in ("coat", "striped shirt", "dress")
    for bag in ("backpack", "black handbag")
]
WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
IMAGE = {**WIDTH, "image_size": 32, "patch_size": 16}  # 4 patches and [CLS]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS += ["a", "man", "woman", "wears", "in", "red", "blue", "coat", "shirt", "shoes", "and", "with", "##s", ",", "."]
VIT_NAMES = {  # in transformers 5 and in transformers 4
    "layers.": "encoder.layer.",
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def tiny_config(**changes):
    return {
        "vit_pretrained": IMAGE,
        "bert_base_path": WIDTH,
        "tokenizer": learn_wordpiece(CAPTIONS),
        "num_classes": 7,
        **changes,
    }


def stir(module, seed=0):
    """Moves every parameter and statistic off its initial value, where a norm or a bias could go unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.is_floating_point():
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return module


def tiny_model(seed=0, **changes):
    torch.manual_seed(seed)
    return stir(T2IReIDModel(tiny_config(**changes)), seed).eval()


def images(n, height=32, width=32, seed=0):
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


def transformers_4(state):
    """``state`` with its ViT under the names of transformers 4."""
    renamed = {}
    for name, tensor in state.items():
        if re.match(r"(visual_encoder\.)?layers\.", name):
            for new, old in VIT_NAMES.items():
                name = name.replace(new, old)
        renamed[name] = tensor
    return renamed


@pytest.fixture(scope="session")
def make():
    """`make.model(**net_config)`, tiny and in eval mode; `make.config(...)`; `make.stir(module)`; `make.images(n)`."""
    return SimpleNamespace(model=tiny_model, config=tiny_config, stir=stir, images=images)


@pytest.fixture
def folders(tmp_path):
    """A tiny ViT in `folders.image`, a tiny BERT with a vocabulary in `folders.text`, as `hf download` leaves them."""
    torch.manual_seed(0)
    image, text = tmp_path / "vit", tmp_path / "bert"
    vit, bert = ViTModel(ViTConfig(**IMAGE)), BertModel(BertConfig(**WIDTH, vocab_size=len(WORDS)))
    vit.save_pretrained(image)
    bert.save_pretrained(text)
    settings = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": {"height": 32, "width": 32}}
    (image / "preprocessor_config.json").write_text(json.dumps(settings))
    (text / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (text / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "model_max_length": 512}))
    return SimpleNamespace(image=image, text=text, vit=vit.eval(), bert=bert.eval(), words=WORDS)
