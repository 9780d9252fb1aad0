"""Complete runs on drawn people with encoders so small that everything else dominates the cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from t2ireid_plugin.config import load_cfg, merge
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.synthetic import write_synthetic

_REPOSITORY = Path(__file__).resolve().parent.parent
_LAYERS = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}


def draw_people(root: Path, train_ids: int = 40, test_ids: int = 20) -> None:
    """Draws people under ``root``, with 4 photos each and 2 captions per photo."""
    write_synthetic(root, train_ids=train_ids, val_ids=8, test_ids=test_ids, photos=4, captions=2, progress=False)


def tiny_cfg(root: Path, save_dir: Path, **train: Any) -> CfgNode:
    """Configuration for these people: encoders of one layer and 32 channels, images of 32 x 16 pixels.

    Args:
        root: as for `draw_people`.
        save_dir: the run's folder.
        **train: settings of the section ``train``.
    """
    cfg = load_cfg()
    settings = {
        "model": {
            "vit_config": {**_LAYERS, "image_size": [32, 16], "patch_size": 8},
            "bert_config": {**_LAYERS, "vocab_size": 300},
            "freeze_text": False,
        },
        "data": {"root": str(root), "save_dir": str(save_dir), "height": 32, "width": 16, "workers": 0},
        "sampler": {"train_sampler": "RandomIdentitySampler"},
        "train": train,
        "loss": {"terms": {name: {"weight": 1.0} for name in ("sdm", "cls", "triplet")}},
        "test": {"bootstrap": 0, "pictures": 0},
    }
    merge(cfg, settings, "benchmark")
    return cfg


def watch_steps(engine: Any, watch: Callable[[Callable[[], dict[str, float]]], dict[str, float]]) -> None:
    """Passes each further training step of ``engine`` to ``watch``, which runs it and returns its losses."""
    step = engine.forward_backward
    engine.forward_backward = lambda data: watch(lambda: step(data))


def run_module(module: str, argument: str) -> subprocess.CompletedProcess[str]:
    """Runs ``python -m module argument`` with this checkout on Python's path."""
    path = os.pathsep.join([str(_REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", module, argument]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)


def in_subprocess(module: str, **arguments: Any) -> dict[str, Any]:
    """Runs ``python -m module ARGUMENTS`` and returns its last line of output; both are JSON.

    Raises:
        DataError: when it fails.
    """
    done = run_module(module, json.dumps(arguments))
    if done.returncode:
        raise DataError(f"{module} failed with status {done.returncode}: {done.stderr[-1000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))
