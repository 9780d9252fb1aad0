"""Tiny models, encoder folders written by Hugging Face itself, and oracles that use none of the package's code."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from t2ireid_plugin.modeling.encoders.tokenizer import learn_wordpiece
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel

torch.set_num_threads(1)

CAPTIONS = [
    f"A {person} wearing a {colour} {garment}, {colour} shoes and a {bag}."
    for person in ("young man", "woman with long hair", "tall boy")
    for colour in ("red", "dark blue", "white")
    for garment in ("coat", "striped shirt", "dress")
    for bag in ("backpack", "black handbag")
]
WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
IMAGE = {**WIDTH, "image_size": 32, "patch_size": 16}  # 4 patches and [CLS]
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "man",
    "woman",
    "wears",
    "in",
    "red",
    "blue",
    "coat",
    "shirt",
]
WORDS += ["shoes", "and", "with", "##s", ",", "."]


@pytest.fixture(scope="session")
def captions():
    return CAPTIONS


@pytest.fixture(scope="session")
def checkpoint_keys():
    """Name to shape of everything outside the two encoders, at full size."""
    return json.loads((Path(__file__).parent / "checkpoint_keys.json").read_text())


@pytest.fixture(scope="session")
def full_model():
    """ViT-B/16 and BERT-base with random weights, in eval mode."""
    torch.manual_seed(0)
    config = {"vit_pretrained": {}, "bert_base_path": {}, "tokenizer": learn_wordpiece(CAPTIONS)}
    return T2IReIDModel(config).eval()


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


@pytest.fixture(scope="session")
def make():
    """`make.model(**net_config)`, tiny and in eval mode; `make.config(...)`; `make.stir(module)`; `make.images(n)`."""

    def images(n, height=32, width=32, seed=0):
        return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(seed))

    return SimpleNamespace(model=tiny_model, config=tiny_config, stir=stir, images=images)


@pytest.fixture(scope="session")
def naive():
    """The oracles."""
    return SimpleNamespace(mamba=naive_mamba)


def naive_mamba(state, hidden):
    """The recurrence in float64, one sample, one step, one channel, one state at a time: ``[B, L, D] -> [B, L, D]``.

    ``state`` maps mamba-ssm's parameter names to arrays.
    """
    w = {name: np.asarray(value, dtype=np.float64) for name, value in state.items()}
    inner, states = w["A_log"].shape
    rank, taps = w["dt_proj.weight"].shape[1], w["conv1d.weight"].shape[2]
    output = np.zeros(hidden.shape)
    for b, sample in enumerate(np.asarray(hidden, dtype=np.float64)):
        h = np.zeros((inner, states))
        xs = []
        for t, token in enumerate(sample):
            projected = w["in_proj.weight"] @ token
            xs.append(projected[:inner])
            convolved = w["conv1d.bias"].copy()
            for k in range(taps):
                past = t - (taps - 1) + k
                if past >= 0:
                    convolved += w["conv1d.weight"][:, 0, k] * xs[past]
            u = [silu(value) for value in convolved]
            parameters = w["x_proj.weight"] @ np.array(u)
            B, C = parameters[rank : rank + states], parameters[rank + states :]
            steps = w["dt_proj.weight"] @ parameters[:rank] + w["dt_proj.bias"]
            y = np.zeros(inner)
            for e in range(inner):
                dt = math.log1p(math.exp(steps[e]))
                y[e] = w["D"][e] * u[e]
                for n in range(states):
                    decay = math.exp(-dt * math.exp(w["A_log"][e, n]))
                    h[e, n] = decay * h[e, n] + dt * B[n] * u[e]
                    y[e] += C[n] * h[e, n]
                y[e] *= silu(projected[inner + e])
            output[b, t] = w["out_proj.weight"] @ y
    return output


def silu(x):
    return x / (1 + math.exp(-x))


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
