"""Configuration: torchreid's keys with torchreid's meanings and defaults, plus ours.

A YAML file may start from another one with ``_BASE_: other.yaml`` (relative to itself). Every key must exist; only
the tables of encoders and losses take names of their own, which their builders check.

One configuration describes one of two jobs. Our text-image model trains with ``loss.name: terms``, the default. Any
other model, and ``loss.name: softmax`` or ``triplet``, is torchreid's own training on images alone (`image_only`).
Its YAML files load unchanged for that, and what they leave out is as in torchreid: where our defaults are others
(loss, optimizer, datasets), `load_cfg` starts an image-only configuration from torchreid's. Two stay ours:
``model.name``, which all of torchreid's files set, and size, mean and standard deviation of images, which are None
for the model's own: 256 x 128 and ImageNet's for torchreid's models, as there, and the encoder's for ours.
"""

from __future__ import annotations

import ast
import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from t2ireid_plugin.errors import ConfigError, short_repr
from t2ireid_plugin.utils.safe_io import MAX_CONFIG_BYTES, parse_yaml, read_bytes, text_problem

MODEL_NAME = "t2ireid_vit_mamba"

# What torchreid sets to ImageNet's mean and its own size is None here: the model's own. The defaults of torchreid
# would otherwise reach a ViT that was trained with others, unnoticed.
_DEFAULTS: dict[str, Any] = {
    "use_gpu": True,  # where there is one
    "model": {
        "name": MODEL_NAME,
        "pretrained": True,
        "load_weights": "",  # weights to start from, or to test
        "resume": "",
        # Encoders: a folder or a hub id; with "" the encoder is built with random weights from its *_config.
        "vit_pretrained": "",
        "vit_config": {},
        "bert_base_path": "",
        "bert_config": {},  # vocab_size is the size of the vocabulary learned from the training captions
        "freeze_text": True,
        "max_length": 64,
        "disentangle": {"tokens": "all", "window": 5},  # all, cls, mean, max, window; the specification's is all
        "fusion": {
            "type": "enhanced_mamba",
            "dim": 256,
            "d_state": 16,
            "d_conv": 4,
            "num_layers": 2,
            "output_dim": 256,
            "dropout": 0.1,
        },
    },
    "data": {
        "type": "image",
        "root": "reid-data",
        "sources": ["cuhkpedes"],
        "targets": ["cuhkpedes"],
        "val": None,  # what the checkpoint is chosen on; empty is the val split of each source, [] the last epoch
        "val_share": 0.05,  # of the training identities, held out where a set has no val split
        "val_seed": 0,  # draws them
        "workers": 4,
        "split_id": 0,
        "height": None,
        "width": None,
        "combineall": False,
        "transforms": ["random_flip"],
        "k_tfm": 1,
        "norm_mean": None,
        "norm_std": None,
        "save_dir": "log",
        "on_bad_image": "error",  # a training image that cannot be decoded: error, or skip, which takes another one
        "bad_image_share": 0.01,  # of the training images; with skip, more than this share is an error
        "keep_images": False,  # in memory once read; for small sets with workers 0
        "load_train_targets": False,
        "id_instruction": "caption",  # what the model reads as identity description: caption or identity
        "cloth_instruction": "clothing",  # and as clothing description: clothing or caption
        "text_feature_cache": "off",  # what a frozen text encoder makes of training texts: off, memory or disk
        "text_feature_cache_gb": 8.0,  # at most
        "text_feature_cache_dir": "",  # of disk; empty is a folder in the user's cache
    },
    "market1501": {"use_500k_distractors": False},
    "cuhk03": {"labeled_images": False, "classic_split": False, "use_metric_cuhk03": False},
    "sampler": {
        "train_sampler": "RandomSampler",
        "train_sampler_t": "RandomSampler",
        "num_instances": 4,
        "num_cams": 1,
        "num_datasets": 1,
    },
    "video": {"seq_len": 15, "sample_method": "evenly", "pooling_method": "avg"},
    "train": {
        "optim": "adamw",
        "lr": 0.0003,
        "weight_decay": 5e-4,
        "max_epoch": 60,
        "start_epoch": 0,
        "batch_size": 32,
        "fixbase_epoch": 0,
        "open_layers": ["classifier"],
        "staged_lr": False,  # with it the encoders learn at base_lr_mult times lr
        "new_layers": ["classifier"],
        "base_lr_mult": 0.1,
        "bias_lr_mult": 1.0,  # factor on the rate of every bias
        "layer_decay": 1.0,  # factor on the encoders' rate from each block to the one before it; 1 is off
        "ema_decay": 0.0,  # moving average of the weights, which is then tested and chosen; 0 is off
        "lr_scheduler": "single_step",
        "warmup_epochs": 0.0,  # of warmup_cosine; fractions are fine
        "final_lr_mult": 0.0,  # where warmup_cosine ends, as a share of lr
        "clip_grad": 0.0,  # largest norm of all gradients together; 0 leaves them
        "nonfinite_patience": 1,  # so many steps in a row without a finite loss and gradients end the run
        "stepsize": [20],
        "gamma": 0.1,
        "print_freq": 20,
        "seed": 1,
        "precision": "fp32",  # or bf16, fp16: of the forward pass; weights and losses stay in fp32
        "encode_at_once": 0,  # images, or rows of texts if their encoder learns; 0 is the whole batch
        "checkpoint_encoders": False,  # keep what goes into each block of the encoders, compute the rest twice
        "compile": False,  # torch.compile of both encoders and of what training computes from them
        "deterministic": False,  # kernels that give the same bits each time; slower, see docs/reliability.md
        "save_minutes": 15.0,  # last.pth is written after each epoch, and this often within one; 0 is never
        "save_steps": 0,  # and after every so many steps; 0 is never
    },
    "sgd": {"momentum": 0.9, "dampening": 0.0, "nesterov": False},
    "rmsprop": {"alpha": 0.99},
    "adam": {"beta1": 0.9, "beta2": 0.999},
    "loss": {
        "name": "terms",  # the weighted sum of loss.terms
        "softmax": {"label_smooth": True},
        "triplet": {"margin": 0.3, "weight_t": 1.0, "weight_x": 0.0},
        "terms": {},
    },
    "test": {
        "batch_size": 100,
        "dist_metric": "euclidean",
        "normalize_feature": False,
        "ranks": [1, 5, 10, 20],
        "evaluate": False,
        "eval_freq": -1,
        "start_eval": 0,
        "rerank": False,
        "visrank": False,
        "visrank_topk": 10,
        "evaluator": "exact",  # what computes R@k and mAP: our exact evaluator or torchreid's
        "protocols": ["t2i"],  # of the final test: t2i, i2t, i2i, ti2i, identity, clothing, both
        "identity_weight": 0.5,  # share of the identity text in both, the rest is the clothing text's
        "bootstrap": 2000,  # samples for the 95 % intervals of the final test; 0 for none
        "pictures": 6,  # ranked lists drawn after the final test
    },
}
# What an image-only configuration starts from instead.
_IMAGE_ONLY_DEFAULTS: dict[str, Any] = {
    "data": {"sources": ["market1501"], "targets": ["market1501"]},
    "train": {"optim": "adam"},
    "loss": {"name": "softmax"},
}
# What may be set to a value of the type, or left empty.
_OPTIONAL: dict[str, type] = {
    "data.val": list,
    "data.height": int,
    "data.width": int,
    "data.norm_mean": list,
    "data.norm_std": list,
}
# Tables whose keys belong to somebody else: Hugging Face's configurations, the losses' arguments.
_OPEN_TABLES = ("model.vit_config", "model.bert_config", "loss.terms")
_MOST_DEPTH = 20  # of tables and lists in each other


def get_cfg() -> CfgNode:
    """A fresh configuration with every default."""
    return _node(_DEFAULTS, "")


def load_cfg(config_file: str | Path | None = None, opts: Sequence[str] = ()) -> CfgNode:
    """The defaults, then a YAML file with its bases, then pairs: ``["train.lr", "1e-4"]`` or ``["train.lr=1e-4"]``.

    Raises:
        ConfigError: for a missing or broken file, an unknown key (the message names the nearest one), a value of
            the wrong type, or a key without a value.
    """
    settings = [(_read_yaml(Path(config_file), ()), str(config_file))] if config_file else []
    settings += [(_nest(key, value), "command line") for key, value in _pairs(opts)]
    cfg = _merged(settings)
    return _merged([(_IMAGE_ONLY_DEFAULTS, "defaults"), *settings]) if image_only(cfg) else cfg


def image_only(cfg: CfgNode) -> bool:
    """Whether ``cfg`` describes torchreid's training on images alone: another model, or a loss that is torchreid's."""
    return cfg.model.name != MODEL_NAME or cfg.loss.name != "terms"


def require_texts(cfg: CfgNode, what: str) -> None:
    """Refuses an image-only configuration for ``what`` reads texts.

    Raises:
        ConfigError: naming what makes it one.
    """
    if image_only(cfg):
        raise ConfigError(
            f"{what} is for {MODEL_NAME} with texts, loss.name terms; this configuration is of {cfg.model.name} with "
            f"loss.name {cfg.loss.name}, on images alone"
        )


def changed_keys(cfg: CfgNode) -> dict[str, Any]:
    """The settings that are not the defaults of `get_cfg`, by their full names; of open tables the table."""
    return _changed(cfg, _DEFAULTS, "")


def _changed(cfg: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in cfg.items():
        name, default = f"{prefix}{key}", defaults[key]
        if isinstance(default, Mapping) and name not in _OPEN_TABLES:
            found.update(_changed(value, default, f"{name}."))
        elif value != default:
            found[name] = value
    return found


def _merged(settings: Sequence[tuple[Mapping[str, Any], str]]) -> CfgNode:
    """The defaults, and each of ``settings`` over those before it; with each goes who asked."""
    cfg = get_cfg()
    for updates, where in settings:
        merge(cfg, updates, where)
    return cfg


def merge(cfg: CfgNode, updates: Mapping[str, Any], where: str, prefix: str = "") -> None:
    """Sets the nested ``updates`` in ``cfg``; ``where`` says in errors who asked.

    Raises:
        ConfigError: for an unknown key or a value of the wrong type.
    """
    for key, value in updates.items():
        name = f"{prefix}{key}"
        if key not in cfg and not cfg.is_new_allowed():
            raise ConfigError(f"{where}: unknown key '{name}'{_nearest(name)}; valid here: {', '.join(cfg)}")
        old = cfg.get(key)
        if isinstance(old, CfgNode):
            value = _parse_text(value, f"{where}: '{name}'")
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}: '{name}' is a table of settings, not {short_repr(value)}")
            merge(old, value, where, f"{name}.")
        elif cfg.is_new_allowed():  # checked by whoever builds from this table
            value = _parse_text(value, f"{where}: '{name}'")
            value = _node(value, name, new_allowed=True) if isinstance(value, Mapping) else value
            check_value({key: value}, f"{where}: '{name}'")
            cfg[key] = value
        else:
            value = _coerce(value, name, f"{where}: '{name}'")
            check_value(value, f"{where}: '{name}'")
            cfg[key] = value


def merge_words(cfg: CfgNode, opts: Sequence[str]) -> None:
    """Sets pairs as they follow on the command line, see `load_cfg`.

    Raises:
        ConfigError: as there.
    """
    for key, value in _pairs(opts):
        merge(cfg, _nest(key, value), "command line")


def check_value(value: Any, where: str, depth: int = 0) -> None:
    """Refuses what would break a run hours later: NaN, endless numbers, texts that no file can hold, depth, dates.

    Raises:
        ConfigError: which begins with ``where``.
    """
    if depth > _MOST_DEPTH:
        raise ConfigError(f"{where} is nested more than {_MOST_DEPTH} deep")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ConfigError(f"{where}: the key {short_repr(key)} is no text")
            check_value(inner, where, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            check_value(inner, where, depth + 1)
    elif isinstance(value, str):
        if problem := text_problem(value):
            raise ConfigError(f"{where}: {short_repr(value)} {problem}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: {value} is no number to compute with")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigError(f"{where}: {short_repr(value)} does not fit into 64 bits")
    elif not isinstance(value, int | float | None):
        raise ConfigError(f"{where}: {short_repr(value)} is no number, text, list or table")


def to_dict(cfg: CfgNode) -> dict[str, Any]:
    """The configuration as plain nested dictionaries."""
    return {key: to_dict(value) if isinstance(value, CfgNode) else value for key, value in cfg.items()}


def dump(cfg: CfgNode) -> str:
    """The configuration as YAML that `load_cfg` reads back."""
    text = yaml.safe_dump(to_dict(cfg), sort_keys=False, allow_unicode=True)
    if any(mark in text for mark in "\x85\u2028\u2029"):  # line breaks to YAML, which would come back as spaces
        text = yaml.safe_dump(to_dict(cfg), sort_keys=False)
    return text


def _node(values: Mapping[str, Any], name: str, new_allowed: bool = False) -> CfgNode:
    node = CfgNode(new_allowed=new_allowed or name in _OPEN_TABLES)
    for key, value in values.items():
        full = f"{name}.{key}" if name else str(key)
        if isinstance(value, Mapping):
            node[key] = _node(value, full, node.is_new_allowed())
        elif node.is_new_allowed():
            node[key] = _parse_text(value, full)
        else:
            node[key] = list(value) if isinstance(value, list) else value
    return node


def _read_yaml(file: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """A YAML file over its ``_BASE_``."""
    try:
        content = parse_yaml(read_bytes(file, MAX_CONFIG_BYTES))
    except OSError as error:
        raise ConfigError(f"no configuration file '{file}' ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"'{file}' is not valid YAML: {error}") from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(f"'{file}' must hold settings such as 'train: {{lr: 0.001}}', not {short_repr(content)}")
    if file.resolve() in seen:
        raise ConfigError(f"'{file}' is its own _BASE_")
    base = content.pop("_BASE_", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise ConfigError(f"'{file}': _BASE_ must be the name of a file, not {short_repr(base)}")
    return _overlay(_read_yaml(file.parent / base, (*seen, file.resolve())), content)


def _overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _overlay(merged[key], value) if both else value
    return merged


def _pairs(opts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """``KEY VALUE`` and ``KEY=VALUE``, in any mixture."""
    words = iter(opts)
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            following = next(words, None)
            if following is None:
                raise ConfigError(f"'{key}' has no value; settings are pairs, such as: train.lr 1e-4")
            value = following
        if key.count(".") > _MOST_DEPTH:
            raise ConfigError(f"command line: the key {short_repr(key)} is nested more than {_MOST_DEPTH} deep")
        yield key, value


def _nest(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _parse_text(value: Any, where: str) -> Any:
    """What a text from the command line means, or from YAML, which takes numbers such as 1e-4 for texts.

    A Python literal, a YAML list, mapping or truth value, else the text itself.
    """
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass  # not a literal, and not meant to be: most values are names and paths
    if value.startswith(("[", "{")) or value in ("true", "false", "null"):
        try:
            return parse_yaml(value)
        except ValueError as error:
            raise ConfigError(f"{where}: cannot read the value {short_repr(value)}: {error}") from error
    return value


def _coerce(value: Any, name: str, where: str) -> Any:
    """``value`` in the type of the default of ``name``; texts stay as they are where a text is wanted."""
    default = _default(name)
    wanted = _OPTIONAL.get(name, type(default))
    if wanted is not str:
        value = _parse_text(value, where)
    if isinstance(value, tuple):
        value = list(value)
    if value is None and name in _OPTIONAL:
        return None
    if wanted is list:
        values = value if isinstance(value, list) else [value]  # torchreid too takes one name for a list of names
        kind = type(default[0]) if default else str if name == "data.val" else float
        return [_typed(item, kind, f"{where}: each value") for item in values]
    return _typed(value, wanted, where)


def _typed(value: Any, wanted: type, where: str) -> Any:
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        check_value(value, where)  # for one with more than 308 digits is no float
        value = float(value)
    if type(value) is not wanted:
        found = "empty" if value is None else f"{type(value).__name__} ({short_repr(value)})"
        raise ConfigError(f"{where} must be {wanted.__name__}, not {found}")
    return value


def _default(name: str) -> Any:
    value: Any = _DEFAULTS
    for part in name.split("."):
        value = value[part]
    return value


def _nearest(name: str) -> str:
    found = difflib.get_close_matches(name, _key_names(_DEFAULTS), n=1, cutoff=0.6)
    return f", did you mean '{found[0]}'" if found else ""


def _key_names(table: Mapping[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key, value in table.items():
        names.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            names += _key_names(value, f"{prefix}{key}.")
    return names
