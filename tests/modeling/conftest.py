"""Tiny models, encoder folders written by Hugging Face itself, and oracles that use none of the package's code."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import CAPTIONS, folders, make

from t2ireid_plugin.modeling.encoders.tokenizer import learn_wordpiece
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel

__all__ = ["folders", "make"]


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


@pytest.fixture(scope="session")
def naive():
    """The oracles."""
    return SimpleNamespace(mamba=naive_mamba, fusion=naive_fusion)


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


def naive_fusion(state, image, text, gated=False):
    """The specification's fusion over a state_dict. Attention over one token is its value, projected twice."""

    def linear(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name, x):
        centred = x - x.mean(dim=-1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def align(name, x):
        return norm(f"{name}.2", linear(f"{name}.0", x).clamp(min=0))

    hidden = torch.cat([align("image_align", image), align("text_align", text)], dim=1)
    d = hidden.shape[1]
    for i in range(sum(name.startswith("mamba_norms") for name in state) // 2):
        prefix = f"mamba_layers.{i}."
        layer = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        mixed = torch.from_numpy(naive_mamba(layer, hidden.unsqueeze(1)))[:, 0].to(hidden.dtype)
        hidden = norm(f"mamba_norms.{i}", mixed + hidden)
    value = hidden @ state["gate_attn.in_proj_weight"][2 * d :].T + state["gate_attn.in_proj_bias"][2 * d :]
    hidden_gate = linear("gate.0", linear("gate_attn.out_proj", value)).clamp(min=0)
    logits = linear("gate.3", hidden_gate)
    weights = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    if gated:
        halves = [2 * weights[:, i : i + 1] * half for i, half in enumerate(hidden.split(d // 2, dim=1))]
        hidden = torch.cat(halves, dim=1)
    return norm("norm_final", linear("fc", hidden)), weights
