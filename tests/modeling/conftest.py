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
