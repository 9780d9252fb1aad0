"""``t2ireid export``: writes a run or one of its checkpoints as a folder for `from_pretrained`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from yacs.config import CfgNode

from t2ireid_plugin.config import require_texts
from t2ireid_plugin.data.benchmarks import BENCHMARKS
from t2ireid_plugin.engine.build import build_ranking
from t2ireid_plugin.engine.record import open_run
from t2ireid_plugin.engine.training_state import read_results
from t2ireid_plugin.errors import CheckpointError, ConfigError, DataError, printable
from t2ireid_plugin.integrations.huggingface.model import T2IReIDConfig, T2IReIDForRetrieval
from t2ireid_plugin.integrations.huggingface.model_card import describe_encoder, model_card
from t2ireid_plugin.modeling.checkpoint import Checkpoint, copy_state_dict, weights_digest
from t2ireid_plugin.modeling.encoders.loading import build_tokenizer, quiet_loading
from t2ireid_plugin.modeling.ranking import Ranking
from t2ireid_plugin.modeling.stored import read_stored
from t2ireid_plugin.synthetic.folder import is_drawn
from t2ireid_plugin.utils.atomic_io import atomic_folder
from t2ireid_plugin.utils.text import first_line


def run(options: argparse.Namespace, command: str) -> None:
    """Runs ``t2ireid export``."""
    folder = export(options.source, options.out, options.opts)
    print(f"Exported to '{folder}'; AutoModel.from_pretrained loads it, see its README.md")


def export(source: str | Path, folder: str | Path, opts: Sequence[str] = ()) -> Path:
    """Writes weights, configuration, preprocessing, tokenizer and a model card; returns the folder.

    The folder is complete or not there; an older export is replaced as a whole.

    Args:
        source: a run's folder, for its ``best.pth``, or a checkpoint of a run.
        folder: where to write.
        opts: ``["model.bert_base_path", "DIR"]`` where a tokenizer that has no JSON form has moved.

    Raises:
        T2IReIDError: for any problem that the user can fix.
    """
    cfg, checkpoint, changed = open_run(source, None, opts)
    require_texts(cfg, "t2ireid export")
    if fixed := sorted(set(changed) - {"model.vit_pretrained", "model.bert_base_path"}):
        raise ConfigError(f"{fixed[0]}: export writes the model as it was trained; leave this setting out")
    model = _build(cfg, checkpoint)
    copy_state_dict(checkpoint.state, model.model, checkpoint.path).require_complete(checkpoint.path)
    out = Path(os.path.realpath(folder))
    try:
        with atomic_folder(out, "OUT") as draft:
            with quiet_loading():  # transformers' progress bar
                model.save_pretrained(draft)
            card = draft / "README.md"
            card.write_text(_card(cfg, out.resolve().name, model.config, checkpoint), encoding="utf-8")
            for file in draft.iterdir():  # safetensors makes files that only their owner can read
                file.chmod(card.stat().st_mode)
            _check_replaceable(out, draft)
    except SafetensorError as error:
        raise DataError(f"'{out}' cannot be written: {first_line(error)}") from error
    return out


def _check_replaceable(out: Path, draft: Path) -> None:
    """Refuses to replace anything but an empty folder and an older export.

    Raises:
        ConfigError: naming a file that is not part of an export.
    """
    older = {path.name for path in out.iterdir()} if out.exists() else set()
    others = older - {path.name for path in draft.iterdir()}
    config = out / "config.json"
    if older and not (config.is_file() and T2IReIDConfig.model_type in config.read_text(encoding="utf-8")):
        others = older
    if others:
        name = printable(min(others))
        raise ConfigError(f"'{out}' holds '{name}', which is not part of an export; choose another folder")


def _build(cfg: CfgNode, checkpoint: Checkpoint) -> T2IReIDForRetrieval:
    """The model with random weights."""
    stored = read_stored(checkpoint)
    if not stored.net_config:
        raise CheckpointError(f"'{checkpoint.path}' does not describe its model; use a checkpoint of a run")
    texts = {"id_instruction": cfg.data.id_instruction, "cloth_instruction": cfg.data.cloth_instruction}
    ranking = build_ranking(cfg, stored)._asdict()
    config = T2IReIDConfig(**json.loads(checkpoint.content["net_config"]), ranking=ranking, **texts)
    for encoder in (config.vision_config, config.text_config):
        encoder._name_or_path = ""  # a folder on this machine
    tokenizer = stored.tokenizer or build_tokenizer(cfg.model.bert_base_path, config.text_config.vocab_size)
    if stored.classes:
        config.id2label = dict(enumerate(stored.classes))
        config.label2id = {name: number for number, name in config.id2label.items()}
    return T2IReIDForRetrieval(config, tokenizer, stored.preprocess).eval()


def _card(cfg: CfgNode, name: str, config: T2IReIDConfig, checkpoint: Checkpoint) -> str:
    """The model card, with the run's results if they are those of these weights."""
    content = checkpoint.content
    results, remark = _results(cfg, checkpoint)
    size = content["preprocess"]
    parts = {
        "image encoder": describe_encoder(config.vision_config) + (", frozen" if config.freeze_image else ""),
        "text encoder": describe_encoder(config.text_config) + (", frozen" if config.freeze_text else ""),
        "disentangling": _disentangling(config.disentangle),
        "fusion": "none" if config.fusion is None else str(config.fusion["type"]),
        "ranking": str(Ranking(**config.ranking)),
        "training identities": str(config.num_classes),
        "input": f"{size['height']} x {size['width']} pixels (height x width), {config.max_text_length} tokens",
    }
    if "epoch" in content:
        parts["training"] = f"{content['epoch']} of {cfg.train.max_epoch} epochs"
    return model_card(name, parts, results, remark)


def _disentangling(config: Mapping[str, Any]) -> str:
    return "none" if config.get("type") == "none" else str(config["tokens"])


def _results(cfg: CfgNode, checkpoint: Checkpoint) -> tuple[dict[str, Any] | None, str]:
    """The content of the run's ``results.json``, or None, and a remark on it."""
    results = read_results(checkpoint.path.parent)
    if results is None:
        return None, ""
    if results.get("weights") != weights_digest(checkpoint.state):
        return None, "The run's `results.json` belongs to other weights than these."
    if any(name in BENCHMARKS and is_drawn(cfg.data.root, BENCHMARKS[name].folder) for name in results["metrics"]):
        return results, "These datasets are synthetic drawings, not photographs: do not compare with published results."
    return results, ""
