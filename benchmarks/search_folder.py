"""``t2ireid search SENTENCE DIR``: CPU time and memory of the whole command, first, again, and after changes.

Without ``--model`` it is the demo's model with random weights, as ONNX files, which takes a minute to export.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from t2ireid_plugin.cli import main
from t2ireid_plugin.utils.text import text_table

_SENTENCE = "a woman in a red jacket with a black bag"
_TARGETS = {"index": (1.0, 200), "again": (3.0, 200)}  # CPU seconds and MB


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``tools/benchmark.py search-folder``."""
    parser.add_argument("--photos", type=int, default=13_200, metavar="N", help="photos of noise (13,200)")
    parser.add_argument("--model", metavar="FOLDER", help="ONNX files of a model")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures each step in a process of its own, prints the table and returns the figures."""
    from benchmarks.tiny import in_subprocess  # loads PyTorch, which the command does not

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes below
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        photos.mkdir()
        _write_photos(photos, options.photos)
        model = options.model or _export_demo(Path(folder) / "model")
        steps = {
            "first": [str(photos), "--model", str(model)],
            "again": [str(photos)],
            "index": ["--index", str(photos / ".t2ireid")],
            "changed": [str(photos)],
        }
        for step, words in steps.items():
            if step == "changed":
                _change(photos)
            figures[step] = in_subprocess("benchmarks.search_folder", words=["search", _SENTENCE, *words])
    rows = []
    for step, values in figures.items():
        target = "≤ {} s, ≤ {} MB".format(*_TARGETS[step]) if step in _TARGETS else ""
        torch = "yes" if values["torch"] else "no"
        rows.append([step, f"{values['cpu_seconds']:.2f}", f"{values['mb']:.0f}", torch, target, values["report"]])
    print(text_table(["", "CPU seconds", "MB", "PyTorch", "target", "files"], rows))
    return figures


def _write_photos(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, (12, 6, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number:06}.jpg"), cv2.resize(coarse, (64, 128)))


def _change(folder: Path) -> None:
    """Touches, replaces, renames and removes one photo each."""
    first, second, third, fourth = sorted(folder.glob("*.jpg"))[:4]
    os.utime(first, (0, 0))
    second.write_bytes(fourth.read_bytes())
    third.rename(folder / "renamed.jpg")
    fourth.unlink()


def _export_demo(folder: Path) -> Path:
    import torch

    from t2ireid_plugin.config import load_cfg
    from t2ireid_plugin.modeling.encoders.tokenizer import learn_wordpiece
    from t2ireid_plugin.modeling.onnx_export import write_onnx
    from t2ireid_plugin.modeling.ranking import Ranking
    from t2ireid_plugin.modeling.t2ireid import T2IReIDModel

    cfg = load_cfg(str(Path(__file__).parent.parent / "configs" / "t2i_synthetic_cpu.yaml"), []).model
    parts = {"vit_pretrained": cfg.vit_config, "bert_base_path": cfg.bert_config, "fusion": cfg.fusion}
    config = {name: dict(value) for name, value in {**parts, "disentangle": cfg.disentangle}.items()}
    model = T2IReIDModel({**config, "tokenizer": learn_wordpiece([_SENTENCE] * 2)}).eval()
    model.ranking = Ranking("both")
    folder.mkdir()
    with torch.no_grad():
        write_onnx(model, folder)
    return folder


def _measure(words: list[str]) -> dict[str, Any]:
    """Runs the command in this process."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        status = main(words)
    if status:
        raise SystemExit(errors.getvalue())
    usage = resource.getrusage(resource.RUSAGE_SELF)
    # Not `ru_maxrss`, which a child inherits; not `machine.memory_peak`, whose module loads PyTorch. Linux only.
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    reports = [line.partition(": ")[2] for line in errors.getvalue().splitlines() if line.startswith("index: ")]
    return {
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "mb": int(kilobytes) / 1024,
        "torch": "torch" in sys.modules,
        "report": reports[0] if reports else "",
    }


if __name__ == "__main__":
    print(json.dumps(_measure(**json.loads(sys.argv[1]))))
