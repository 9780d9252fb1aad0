"""The record of a run in its checkpoints: settings, model, people and captions.

Testing takes from it what belongs to the weights, and resuming compares all of it, so that a run stays one thing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from t2ireid_plugin.config import get_cfg, get_setting, image_only, merge, pairs, set_setting, settings, to_dict
from t2ireid_plugin.data.dataset import CaptionDataset
from t2ireid_plugin.data.pretraining import is_pretraining
from t2ireid_plugin.engine.training_state import checkpoint_to_test, is_in, read_results
from t2ireid_plugin.errors import CheckpointError, ConfigError, short_repr
from t2ireid_plugin.losses.terms import reading
from t2ireid_plugin.modeling.checkpoint import Checkpoint
from t2ireid_plugin.modeling.encoders.preprocess import Preprocess
from t2ireid_plugin.modeling.stored import pixel_settings, trained_settings

# Settings that belong to the weights: a test uses the trained values, whatever its configuration file says.
_OF_WEIGHTS = (
    *("model.", "loss.name", "data.id_instruction", "data.cloth_instruction"),
    *("data.height", "data.width", "data.norm_", "data.val_share", "data.val_seed"),
    *("test.evaluator", "test.dist_metric", "test.normalize_feature", "test.identity_weight"),
)
# Those of them that an image-only configuration has in common with one for images with texts.
_OF_PIXELS = ("data.height", "data.width", "data.norm_")
_OF_IMAGES = ("model.vit_", "model.disentangle", "model.projection", *_OF_PIXELS)
_NOT_OF_WEIGHTS = ("model.load_weights", "model.resume", "model.pretrained")
# Settings that do not change what a training learns or chooses, but where and how it is computed, saved and reported.
# The weights of pretrained encoders are in the checkpoint, so that their folders may move.
_FREE = (
    *("use_gpu", "data.root", "data.targets", "data.save_dir", "data.workers", "data.keep_images"),
    *("data.text_feature_cache", "data.image_feature_cache", "data.on_bad_image", "data.bad_image_share"),
    "train.nonfinite_patience",
    *("model.load_weights", "model.resume", "model.pretrained", "model.vit_pretrained", "model.bert_base_path"),
    *("train.print_freq", "train.save_", "train.compile", "train.deterministic", "train.encode_at_once"),
    *("train.checkpoint_encoders", "test."),
)
_NOT_FREE = (
    "test.eval_freq",
    "test.start_eval",
    "test.evaluator",
    "test.identity_weight",
    "test.choose_on",
)  # they decide which epoch is chosen
# Schedules whose learning rates do not depend on the last epoch.
_OPEN_ENDED = ("single_step", "multi_step")
_ADVICE = "resume with the same, or train from its weights alone with model.load_weights and another data.save_dir"


def record_settings(cfg: CfgNode, preprocess: Preprocess) -> dict[str, Any]:
    """All settings of a run as plain values, with the image size and normalisation that it really uses."""
    table = to_dict(cfg)
    table["data"] |= pixel_settings(preprocess)
    table["data"]["root"] = os.path.abspath(os.path.expanduser(cfg.data.root))  # a test may start elsewhere
    return table


def record_data(
    datasets: Mapping[str, CaptionDataset], sources: Sequence[str], val_targets: Sequence[str]
) -> dict[str, Any]:
    """The people and captions of a run.

    ``classes`` are the persons that the classifier knows, ``DATASET:PID`` each; ``held_out`` the pids held out for val,
    by dataset; ``data`` digests of the training captions and the val queries, with their people.
    """
    digests = {name: datasets[name].train.digest() for name in sources}
    classified = [name for name in sources if not is_pretraining(name)]
    return {
        "classes": [f"{name}:{pid}" for name in classified for pid in datasets[name].pids("train")],
        "held_out": {name: datasets[name].pids("val") for name in sources if datasets[name].held_out},
        "data": {**digests, **{name: datasets[name].query.digest() for name in val_targets}},
    }


def open_run(
    source: str | Path | None, cfg: CfgNode | None, typed: Sequence[str]
) -> tuple[CfgNode, Checkpoint, dict[str, dict[str, Any]]]:
    """The configuration for testing a run, its checkpoint, and the settings that differ from the training.

    Args:
        source: a run's folder, for its best checkpoint, or a checkpoint; None for the one that ``cfg`` names.
        cfg: from a configuration file and ``typed``; None to take everything else from the run too.
        typed: ``KEY VALUE`` from the command line, which count more than the training's.

    Raises:
        CheckpointError: when there is no checkpoint, it is damaged, or it has no settings and there is no ``cfg``.
        ConfigError: for a wrong key or value.
    """
    own = ("", "") if cfg is None else (cfg.model.load_weights, cfg.data.save_dir)
    path = checkpoint_to_test(source, own[0], Path(own[1]))
    typed_names = [name for pair in pairs(typed) for name, _ in settings(pair)]
    if source and "model.load_weights" in typed_names:
        raise ConfigError(f"model.load_weights: another checkpoint than '{source}' is to be tested; name one of them")
    checkpoint = Checkpoint.read(path)
    if "config" in checkpoint.content:
        trained = get_cfg()
    elif cfg is not None:  # weights that describe some settings, or none
        trained = cfg.clone()
    else:
        raise CheckpointError(f"'{path}' has no settings of a run; name them with --config-file")
    merge(trained, trained_settings(checkpoint), f"'{path}'")
    if cfg is None:
        cfg = trained.clone()
        for pair in pairs(typed):
            merge(cfg, pair, "command line")
    if source and "data.save_dir" not in typed_names:
        set_setting(cfg, "data.save_dir", str(path.parent))
    explicit = tuple(f"{name}." for name in typed_names)
    changed = {}
    of_weights = _OF_WEIGHTS if image_only(cfg) == image_only(trained) else _OF_IMAGES
    for name, _ in settings(trained):
        if not name.startswith(of_weights) or name.startswith(_NOT_OF_WEIGHTS):
            continue
        then, now = get_setting(trained, name), get_setting(cfg, name)
        if then == now:
            continue
        if f"{name}.".startswith(explicit):
            changed[name] = {"trained": then, "tested": now}
        else:
            set_setting(cfg, name, then)
    set_setting(cfg, "model.load_weights", str(path))
    set_setting(cfg, "model.resume", "")
    return cfg, checkpoint, changed


def check_same_training(checkpoint: Checkpoint, record: Mapping[str, Any]) -> None:
    """Checks that a run continues the training of its checkpoint: everything that can change the result is the same.

    Args:
        checkpoint: to resume.
        record: of this run, as its own checkpoints will have it.

    Raises:
        CheckpointError: naming the first setting or dataset that differs, with both values.
    """
    path, content = checkpoint.path, checkpoint.content
    check_same_settings(checkpoint, record["config"])
    for key, label in (("data", "the people and captions of"), ("held_out", "the held-out people of")):
        old, new = content[key], record[key]
        for name in old | new:
            _compare(path, f"{label} {name}", old.get(name), new.get(name))
    for key, label in (("tokenizer", "another vocabulary"), ("words", "other words in the losses")):
        if content.get(key) != record.get(key):
            raise CheckpointError(f"'{path}' was trained with {label}; {_ADVICE}")


def check_same_settings(checkpoint: Checkpoint, table: Mapping[str, Any]) -> None:
    """The part of `check_same_training` that needs neither model nor data; image settings may still be None in it.

    Raises:
        CheckpointError: naming the first setting that differs, with both values.
    """
    content, then, now = checkpoint.content, dict(settings(checkpoint.content["config"])), dict(settings(table))
    defaults = dict(settings(get_cfg()))
    free: tuple[str, ...] = _FREE
    by_share = now["loss.name"] == "terms" and reading(now["loss.terms"], ["progress"])
    if now["train.lr_scheduler"] in _OPEN_ENDED and not by_share and now["train.max_epoch"] >= content["epoch"]:
        free += ("train.max_epoch",)
    if now["loss.name"] != "terms":  # the last epoch is the chosen one
        free += _NOT_FREE
    for name in then | now:
        open_yet = now.get(name) is None and name.startswith(_OF_PIXELS)
        if not open_yet and (not name.startswith(free) or (name in _NOT_FREE and name not in free)):
            # What an older checkpoint does not say was as the default is.
            _compare(checkpoint.path, name, then.get(name, defaults.get(name)), now.get(name))


def results_of_finished(folder: Path, last: Path, cfg: CfgNode) -> dict[str, Any] | None:
    """``results.json`` of a run that has trained all epochs of ``cfg`` and was tested; None if it is not finished.

    Raises:
        CheckpointError: when ``last``, its newest checkpoint, is damaged, or of a training with other settings.
    """
    results = read_results(folder) if is_in(folder, last) else None
    if results is None:
        return None
    checkpoint = Checkpoint.read(last)
    state = checkpoint.content
    chosen = state.get("best", {}).get("weights", state.get("digest"))  # the last weights of an image-only run
    if "config" not in state or results.get("weights") != chosen:
        return None
    if state["epoch"] < cfg.train.max_epoch or not state.get("evaluated", True):
        return None
    check_same_settings(checkpoint, to_dict(cfg))
    return results


def _compare(path: Path, name: str, then: Any, now: Any) -> None:
    if then != now:
        raise CheckpointError(
            f"'{path}' was trained with {name} {short_repr(then)}, now it is {short_repr(now)}; {_ADVICE}"
        )


def check_held_out(checkpoint: Checkpoint, datasets: Mapping[str, CaptionDataset]) -> None:
    """Refuses val people held out of a training set where the checkpoint was trained with others held out.

    Raises:
        ConfigError: naming the dataset.
    """
    stored = checkpoint.content.get("held_out", {})
    for dataset in datasets.values():
        name, pids = dataset.spec.name, dataset.pids("val")
        if dataset.held_out and dataset.eval_split == "val" and stored.get(name, pids) != pids:
            raise ConfigError(
                f"data.targets: '{checkpoint.path}' was trained on people that data.val_seed and data.val_share now "
                f"hold out of {name}; leave both as in training"
            )
