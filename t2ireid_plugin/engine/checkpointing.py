"""Writes what a run must not lose, and reads it back."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t2ireid_plugin.errors import CheckpointError
from t2ireid_plugin.files import write_whole
from t2ireid_plugin.modeling.checkpoint import read_checkpoint


def save_checkpoint(state: dict[str, Any], path: str | Path) -> None:
    """Writes ``state`` so that ``path`` is always whole: the old file or the new one, never half of one.

    ``state`` may hold tensors and plain values only, or the safe loader will refuse it.
    """
    write_whole(Path(path), lambda draft: torch.save(state, draft), CheckpointError)


def save_json(content: Any, path: str | Path) -> None:
    """Writes ``content`` as JSON, never half of it."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_whole(Path(path), lambda draft: draft.write_text(text, encoding="utf-8"), CheckpointError)


def load_training_state(path: str | Path) -> dict[str, Any]:
    """A checkpoint that training can go on from.

    Raises:
        CheckpointError: when it is missing or damaged, or holds weights only.
    """
    state = read_checkpoint(path)
    missing = [key for key in ("state_dict", "losses", "optimizer", "scheduler", "epoch", "rng") if key not in state]
    if missing:
        raise CheckpointError(
            f"'{path}' has no {', '.join(missing)}, so training cannot be resumed from it; to start from its weights "
            "set model.load_weights instead"
        )
    return state


def rng_state() -> dict[str, Any]:
    """The states of all random generators, as plain values and tensors."""
    version, keys, gauss = random.getstate()
    name, numpy_keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(keys), gauss],
        "numpy": [
            name,
            torch.from_numpy(np.asarray(numpy_keys).astype(np.int64)),
            position,
            has_gauss,
            cached,
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Puts all random generators where `rng_state` found them."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    name, numpy_keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, numpy_keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
