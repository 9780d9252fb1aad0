"""Time of `DisentangleHead` in proportion to the ResNet-50 in front of it, for its width and its branches.

torchreid's ResNet-50 reads images of 256 x 128 pixels with the last stride 1, as most re-identification baselines do,
so that the head reads 16 x 8 places of 2048 channels. Parts take turns, see `timing`.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchreid import models

from benchmarks.timing import in_turns, ratio
from t2ireid_plugin import DisentangleHead
from t2ireid_plugin.utils.text import text_table

CLASSES = 751  # of Market-1501
HEADS: dict[str, dict[str, Any]] = {
    "identity": {},
    "fused": {"branch": "fused"},
    "fused, dim 256": {"branch": "fused", "disentangle": {"dim": 256}},
    "fused, dim 2048": {"branch": "fused", "disentangle": {"dim": 2048}},
}
BACKBONE = "ResNet-50"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``tools/benchmark.py head``."""
    parser.add_argument("--rounds", type=int, default=7, help="repetitions (7)")
    parser.add_argument("--batch", type=int, default=16, help="images (16)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (1)")


def resnet50() -> nn.Module:
    """torchreid's model with random weights and the last stride 1."""
    network: nn.Module = models.build_model("resnet50", CLASSES, pretrained=False, use_gpu=False)
    first: Any = network.get_submodule("layer4.0")
    first.conv2.stride = first.downsample[0].stride = (1, 1)
    return network


def calls(images: Tensor, train: bool) -> dict[str, Callable[[], Any]]:
    """The backbone and each head on its feature map, forward, and backward to the inputs in training."""
    network: Any = resnet50().train(train)
    with torch.no_grad():
        feature_map = network.featuremaps(images)
    heads = {name: DisentangleHead(2048, CLASSES, **options).train(train) for name, options in HEADS.items()}
    gradient = torch.randn_like(feature_map)

    def run_backbone() -> None:
        with torch.set_grad_enabled(train):
            output = network.featuremaps(images)
        if train:
            output.backward(gradient)

    def run_head(head: DisentangleHead) -> None:
        inputs = feature_map.clone().requires_grad_(train)
        with torch.set_grad_enabled(train):
            logits = head(inputs).logits
        if train and logits is not None:
            logits.square().mean().backward()

    return {BACKBONE: run_backbone, **{name: functools.partial(run_head, head) for name, head in heads.items()}}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Prints the table and returns its figures."""
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    images = torch.randn(options.batch, 3, 256, 128)
    figures: dict[str, Any] = {}
    rows = []
    for kind, train in (("evaluation", False), ("training", True)):
        seconds = in_turns(calls(images, train), options.rounds)
        for name in HEADS:
            share = ratio(seconds[name].cpu, seconds[BACKBONE].cpu)
            figures.setdefault(kind, {})[name] = share._asdict()
            rows.append([kind, name, str(share)])
    print(text_table(["", "head", f"time / {BACKBONE}'s"], rows, 2))
    return figures
