"""The engine of a real training on drawn people, step by step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from transformers import BertConfig, ViTConfig
from yacs.config import CfgNode

from benchmarks.gpu_parts.common import Setup
from benchmarks.tiny import watch_steps
from benchmarks.training import _shape
from benchmarks.workloads import SIZES
from t2ireid_plugin.config import load_cfg, merge
from t2ireid_plugin.engine.memory import Precision
from t2ireid_plugin.engine.text_image import TextImageEngine

RECIPE, DEMO = "t2i_vit_mamba", "t2i_synthetic_cpu"


class Enough(Exception):
    """Ends an epoch."""


def settings(setup: Setup, config: str = RECIPE, changes: Mapping[str, Any] | None = None) -> CfgNode:
    """A packaged configuration on the drawn people, with encoders of random weights in their full size."""
    cfg = load_cfg(config)
    folder = setup.folder / config
    folder.mkdir(exist_ok=True)
    merge(cfg, {"use_gpu": setup.cuda, "test": {"bootstrap": 0}}, "benchmark")
    merge(cfg, {"data": {"root": str(setup.folder), "save_dir": str(folder)}}, "benchmark")
    if config == RECIPE:
        size = SIZES["tiny" if setup.quick else "base"]
        vit, bert = ViTConfig(**size["image"]), BertConfig(**size["text"])
        side = vit.image_size
        model = {
            "vit_pretrained": "",
            "vit_config": {**_shape(vit), "image_size": [side, side], "patch_size": vit.patch_size},
            "bert_base_path": "",
            "bert_config": {**_shape(bert), "vocab_size": bert.vocab_size},
        }
        merge(cfg, {"model": model, "data": {"height": side, "width": side}}, "benchmark")
    if setup.quick:
        merge(cfg, {"train": {"batch_size": 8}, "data": {"workers": 0}}, "benchmark")
    merge(cfg, changes or {}, "benchmark")
    return cfg


def set_precision(engine: TextImageEngine, name: str, setup: Setup) -> None:
    """Changes what ``train.precision`` had set."""
    chosen: Any = Precision(name, setup.device)
    engine.precision = engine.training_step.precision = chosen


def few_steps(engine: Any, steps: int, watch: Callable[[Callable[[], Any]], Any]) -> None:
    """Trains at most ``steps`` steps of the first epoch of a `TextImageEngine`, each passed to ``watch``."""
    original, left = engine.forward_backward, iter(range(steps))

    def limited(run: Callable[[], Any]) -> Any:
        if next(left, None) is None:
            raise Enough
        return watch(run)

    watch_steps(engine, limited)
    try:
        one_epoch(engine)
    finally:
        engine.forward_backward = original


def one_epoch(engine: Any) -> None:
    """Trains the first epoch until its end or `Enough`."""
    engine.epoch, engine.max_epoch, engine.position = 0, 1, (0, 0)
    with contextlib.suppress(Enough):
        engine.train(print_freq=10**9)
