"""Tiny files in the formats of OpenAI's ViT-B-16.pt and IRRA's best.pth."""

import gzip
import warnings

import torch
from parity import irra_weights as tiny
from torch import nn

from t2ireid_plugin.modeling.encoders.openai import VOCABULARY

TOKENS = {"token_embedding.weight": (2 * 256 + len(tiny.MERGES) + 2, tiny.WIDTH)}


class Part(nn.Module):
    """A module of the archive; TorchScript asks for a forward pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def write_archive(file):
    """Writes the archive with its vocabulary beside it, and returns its weights."""
    state = {name: torch.tensor(array).half() for name, array in tiny.weights(tiny.shapes()[0] | TOKENS).items()}
    root = Part()
    for name, tensor in state.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, Part())
            module = module.get_submodule(part)
        module.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
    for name in ("input_resolution", "context_length", "vocab_size"):
        root.register_buffer(name, torch.tensor(7))
    with warnings.catch_warnings():  # TorchScript is deprecated, and what OpenAI's files are
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(root), file)
    file.with_name(VOCABULARY).write_bytes(gzip.compress("\n".join(["#version", *tiny.MERGES, ""]).encode()))
    return {name: tensor.float() for name, tensor in state.items()}


def write_best(file, left_out=()):
    """Writes a checkpoint of several processes with resized positions, and returns its weights without ``module.``.

    HAM's has no heads, GA-DMS's no classifier: ``left_out`` are beginnings of names.
    """
    clip, heads = tiny.shapes((7, 3))
    arrays = tiny.weights({f"base_model.{name}": shape for name, shape in (clip | TOKENS).items()} | heads)
    arrays["mlm_head.fc.weight"] = tiny.random("mlm_head.fc.weight", TOKENS["token_embedding.weight"])
    arrays["mlm_head.fc.bias"] = arrays["mlm_head.fc.weight"][:, 0].copy()
    state = {name: torch.tensor(a).half() for name, a in arrays.items() if not name.startswith(tuple(left_out))}
    content = {"model": {f"module.{name}": tensor for name, tensor in state.items()}, "optimizer": {}, "iteration": 0}
    torch.save({**content, "scheduler": {"last_epoch": 3}, "num_epoch": 60, "epoch": 4}, file)
    return {name: tensor.float() for name, tensor in state.items()}
