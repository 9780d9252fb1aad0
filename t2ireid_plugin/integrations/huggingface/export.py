"""``t2ireid export``: from a run, or one of its checkpoints, to a folder that `from_pretrained` loads."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase
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
from t2ireid_plugin.synthetic.parts import is_drawn


def run(options: argparse.Namespace, command: str) -> None:
    """Exports and says where."""
    folder = export(options.source, options.out, options.opts)
    print(f"The model is in '{folder}'; AutoModel.from_pretrained loads it, see its README.md")


def export(source: str | Path, folder: str | Path, opts: Sequence[str] = ()) -> Path:
    """Writes weights, configuration, preprocessing, tokenizer and a model card; returns the folder.

    Args:
        source: a run's folder, whose ``best.pth`` is taken, or a checkpoint beside its run's ``config.yaml``.
        folder: where to write; what is there under the same names is replaced.
        opts: settings over the run's, for encoders that have moved: ``["model.vit_pretrained", "DIR"]``. Their
            weights are not read.

    Raises:
        T2IReIDError: for all that a user can mend.
    """
    checkpoint = _find_checkpoint(Path(source))
    cfg = load_cfg(checkpoint.with_name("config.yaml"), opts)
    require_texts(cfg, "t2ireid export")
    content, state = read_checkpoint(checkpoint), read_state_dict(checkpoint)
    model = _build(cfg, content, state, checkpoint)
    report = copy_state_dict(state, model.model)
    if report.missing or report.unexpected or report.mismatched:
        raise CheckpointError(f"'{checkpoint}' is not of the model that config.yaml beside it describes: {report}")
    out = Path(folder)
    try:
        out.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(out)
        card = _card(cfg, out.resolve().name, model.config, content, checkpoint)
        (out / "README.md").write_text(card, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write '{out}': {error.strerror or error}") from error
    return out


def _find_checkpoint(source: Path) -> Path:
    checkpoint = source / "best.pth" if source.is_dir() else source
    if not checkpoint.is_file():
        raise CheckpointError(f"no checkpoint at '{checkpoint}'; export takes a run's folder or one of its .pth files")
    if not checkpoint.with_name("config.yaml").is_file():
        raise ConfigError(
            f"no config.yaml beside '{checkpoint}'; a run leaves it there, and the model is built from it"
        )
    return checkpoint


def _build(
    cfg: CfgNode, content: Mapping[str, Any], state: Mapping[str, Tensor], checkpoint: Path
) -> T2IReIDForRetrieval:
    """The model with random weights."""
    stored, classifier = content.get("preprocess"), state.get("id_classifier.weight")
    if stored is None or classifier is None:
        raise CheckpointError(f"'{checkpoint}' holds no preprocessing or no identity classifier; is it of a run?")
    tokenizer, text_config = _text_side(cfg, content, checkpoint)
    vision_config = encoder_config(cfg.model.vit_pretrained or to_dict(cfg.model.vit_config), IMAGE_KEY)
    for part in (vision_config, text_config):
        part._name_or_path = ""  # a folder of this machine
    config = T2IReIDConfig(
        vision_config,
        text_config,
        disentangle=to_dict(cfg.model.disentangle),
        fusion=to_dict(cfg.model.fusion),
        num_classes=len(classifier),
        max_text_length=cfg.model.max_length,
        freeze_text=cfg.model.freeze_text,
    )
    preprocess = Preprocess(stored["height"], stored["width"], tuple(stored["mean"]), tuple(stored["std"]))
    return T2IReIDForRetrieval(config, tokenizer, preprocess).eval()


def _text_side(
    cfg: CfgNode, content: Mapping[str, Any], checkpoint: Path
) -> tuple[PreTrainedTokenizerBase, PretrainedConfig]:
    """The tokenizer and the text encoder's configuration, as `engine.build` makes them."""
    if cfg.model.bert_base_path:
        config = encoder_config(cfg.model.bert_base_path, TEXT_KEY)
        return build_tokenizer(cfg.model.bert_base_path, config.vocab_size), config
    if "tokenizer" not in content:
        raise CheckpointError(f"'{checkpoint}' holds no vocabulary, though its run learned one")
    tokenizer = tokenizer_from_json(content["tokenizer"])
    return tokenizer, encoder_config({**to_dict(cfg.model.bert_config), "vocab_size": len(tokenizer)}, TEXT_KEY)


def _card(cfg: CfgNode, name: str, config: T2IReIDConfig, content: Mapping[str, Any], checkpoint: Path) -> str:
    """The card, with the run's results when they are of these weights."""
    file = checkpoint.with_name("results.json")
    results: dict[str, Any] | None = None
    remark = ""
    if file.is_file():
        try:
            results = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"'{file}' is not valid JSON: {error}") from error
    # last.pth may be of the middle of an epoch, and where an average is tested it has what was averaged.
    trained_on = content.get("step", 0) > 0 or content.get("ema") is not None
    if results is not None and (trained_on or results.get("chosen", {}).get("epoch") != content.get("epoch")):
        results, remark = None, "The run tested other weights than these."
    if results is not None and any(_drawn(cfg, target) for target in results["metrics"]):
        remark = "The people of these sets are drawn, not photographed; the figures compare with no benchmark's."
    model = {
        "image encoder": describe_encoder(config.vision_config),
        "text encoder": describe_encoder(config.text_config) + (", not trained" if config.freeze_text else ""),
        "disentangling": str(config.disentangle["tokens"]),
        "fusion": "none" if config.fusion is None else str(config.fusion["type"]),
        "training identities": f"{config.num_classes}",
        "input": f"{content['preprocess']['height']} x {content['preprocess']['width']} pixels (height x width), "
        f"{config.max_text_length} tokens",
    }
    if "epoch" in content:
        model["trained for"] = f"{content['epoch']} epochs of {cfg.train.max_epoch}"
    return model_card(name, model, results, remark)


def _drawn(cfg: CfgNode, target: str) -> bool:
    """Whether a target's people are drawn, where its files are still in reach."""
    return target in BENCHMARKS and is_drawn(cfg.data.root, BENCHMARKS[target].folder)
