"""``t2ireid export``: writes a run or one of its checkpoints as a folder for `from_pretrained`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from t2ireid_plugin.config import load_cfg, require_texts, to_dict
from t2ireid_plugin.data.benchmarks import BENCHMARKS
from t2ireid_plugin.errors import CheckpointError, ConfigError
from t2ireid_plugin.integrations.huggingface.model import T2IReIDConfig, T2IReIDForRetrieval
from t2ireid_plugin.integrations.huggingface.model_card import describe_encoder, model_card
from t2ireid_plugin.modeling.checkpoint import copy_state_dict, read_checkpoint, read_state_dict
from t2ireid_plugin.modeling.encoders.loading import IMAGE_KEY, TEXT_KEY, build_tokenizer, encoder_config
from t2ireid_plugin.modeling.encoders.preprocess import Preprocess
from t2ireid_plugin.modeling.encoders.tokenizer import tokenizer_from_json
from t2ireid_plugin.synthetic.folder import is_drawn


def run(options: argparse.Namespace, command: str) -> None:
    """Runs ``t2ireid export``."""
    folder = export(options.source, options.out, options.opts)
    print(f"Exported to '{folder}'; AutoModel.from_pretrained loads it, see its README.md")


def export(source: str | Path, folder: str | Path, opts: Sequence[str] = ()) -> Path:
    """Writes weights, configuration, preprocessing, tokenizer and a model card; returns the folder.

    Args:
        source: a run's folder, for its ``best.pth``, or a checkpoint beside its run's ``config.yaml``.
        folder: where to write; existing files of the same names are replaced.
        opts: override settings of the run, for encoders that have moved: ``["model.vit_pretrained", "DIR"]``. Only
            their configurations and tokenizer are read.

    Raises:
        T2IReIDError: for any problem that the user can fix.
    """
    checkpoint = Path(source) / "best.pth" if Path(source).is_dir() else Path(source)
    if not checkpoint.is_file():
        raise CheckpointError(f"no checkpoint at '{checkpoint}'; export takes a run's folder or one of its .pth files")
    if not checkpoint.with_name("config.yaml").is_file():
        raise ConfigError(f"no config.yaml beside '{checkpoint}'; copy it there from the run's folder")
    cfg = load_cfg(checkpoint.with_name("config.yaml"), opts)
    require_texts(cfg, "t2ireid export")
    content, state = read_checkpoint(checkpoint), read_state_dict(checkpoint)
    if "preprocess" not in content or "id_classifier.weight" not in state:
        raise CheckpointError(
            f"'{checkpoint}' has no preprocessing or no identity classifier; use a checkpoint of a run"
        )
    model = _build(cfg, content, len(state["id_classifier.weight"]), checkpoint)
    report = copy_state_dict(state, model.model, checkpoint)
    if report.missing or report.unexpected or report.mismatched:
        raise CheckpointError(f"'{checkpoint}' does not match the model in config.yaml beside it: {report}")
    out = Path(folder)
    try:
        out.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(out)
        card = _card(cfg, out.resolve().name, model.config, content, checkpoint)
        (out / "README.md").write_text(card, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write '{out}': {error.strerror or error}") from error
    return out


def _build(cfg: CfgNode, content: Mapping[str, Any], num_classes: int, checkpoint: Path) -> T2IReIDForRetrieval:
    """The model with random weights."""
    if cfg.model.bert_base_path:
        text_config = encoder_config(cfg.model.bert_base_path, TEXT_KEY)
        tokenizer = build_tokenizer(cfg.model.bert_base_path, text_config.vocab_size)
    elif "tokenizer" in content:
        tokenizer = tokenizer_from_json(content["tokenizer"])
        text_config = encoder_config({**to_dict(cfg.model.bert_config), "vocab_size": len(tokenizer)}, TEXT_KEY)
    else:
        raise CheckpointError(f"'{checkpoint}' does not contain the vocabulary that its run learned")
    vision_config = encoder_config(cfg.model.vit_pretrained or to_dict(cfg.model.vit_config), IMAGE_KEY)
    for encoder in (vision_config, text_config):
        encoder._name_or_path = ""  # a folder on this machine
    config = T2IReIDConfig(
        vision_config,
        text_config,
        disentangle=to_dict(cfg.model.disentangle),
        fusion=to_dict(cfg.model.fusion),
        num_classes=num_classes,
        max_text_length=cfg.model.max_length,
        freeze_text=cfg.model.freeze_text,
    )
    stored = content["preprocess"]
    preprocess = Preprocess(stored["height"], stored["width"], tuple(stored["mean"]), tuple(stored["std"]))
    return T2IReIDForRetrieval(config, tokenizer, preprocess).eval()


def _card(cfg: CfgNode, name: str, config: T2IReIDConfig, content: Mapping[str, Any], checkpoint: Path) -> str:
    """The model card, with the run's results if they are those of these weights."""
    results, remark = _results(cfg, content, checkpoint.with_name("results.json"))
    size = content["preprocess"]
    parts = {
        "image encoder": describe_encoder(config.vision_config),
        "text encoder": describe_encoder(config.text_config) + (", frozen" if config.freeze_text else ""),
        "disentangling": str(config.disentangle["tokens"]),
        "fusion": "none" if config.fusion is None else str(config.fusion["type"]),
        "training identities": str(config.num_classes),
        "input": f"{size['height']} x {size['width']} pixels (height x width), {config.max_text_length} tokens",
    }
    if "epoch" in content:
        parts["training"] = f"{content['epoch']} of {cfg.train.max_epoch} epochs"
    return model_card(name, parts, results, remark)


def _results(cfg: CfgNode, content: Mapping[str, Any], file: Path) -> tuple[dict[str, Any] | None, str]:
    """The content of ``results.json``, or None, and a remark on it."""
    if not file.is_file():
        return None, ""
    results = json.loads(file.read_text(encoding="utf-8"))
    # last.pth may be from within an epoch, and it holds the trained weights where their moving average was evaluated.
    other_weights = content.get("step", 0) > 0 or content.get("ema") is not None
    if other_weights or results.get("chosen", {}).get("epoch") != content.get("epoch"):
        return None, "The run's `results.json` belongs to other weights than these."
    if any(name in BENCHMARKS and is_drawn(cfg.data.root, BENCHMARKS[name].folder) for name in results["metrics"]):
        return results, "These datasets are synthetic drawings, not photographs: do not compare with published results."
    return results, ""
