"""Configuration: torchreid's keys with torchreid's meanings and defaults, plus ours.

A YAML file may build on another one with ``_BASE_: other.yaml`` (a path relative to itself). Unknown keys are errors;
only the tables of encoders and losses accept any key, which their builders check.

A configuration describes one of two kinds of training. `T2IReIDModel` trains on images with texts with
``loss.name: terms``, the default. Any other model, and ``loss.name: softmax`` or ``triplet``, is torchreid's own
training on images alone (`image_only`). torchreid's YAML files load unchanged for it, and keys that they leave out have
torchreid's defaults where ours differ (loss, optimizer, datasets). Three defaults stay ours: ``model.name``, which all
of torchreid's files set, ``data.workers``, which follows the machine, and size, mean and standard deviation of images,
which are None for the model's own: 256 x 128 and ImageNet's for torchreid's models, as there, and the encoder's for
ours.
"""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from t2ireid_plugin.errors import ConfigError, check_choice, short_repr
from t2ireid_plugin.modeling.settings import DEFAULT_DISENTANGLE, DEFAULT_FUSION, DEFAULT_SELECTION
from t2ireid_plugin.utils.safe_io import MAX_CONFIG_BYTES, parse_yaml, read_bytes

MODEL_NAME = "t2ireid_vit_mamba"
CONFIGS = Path(__file__).parent / "configs"  # the repository's configs/, part of the package
# Of images and texts, in the order in which they are applied.
TRANSFORMS = (
    *("random_flip", "random_flip_image", "random_crop", "random_patch", "color_jitter", "random_erase", "two_of_six"),
    *("drop_words", "mask_words", "change_words"),
)

# Image size, mean and standard deviation are None, the model's own: torchreid's defaults (256 x 128, ImageNet's mean)
# would reach a ViT that was trained with others, and nobody would notice.
_DEFAULTS: dict[str, Any] = {
    "use_gpu": True,  # if there is one
    "model": {
        "name": MODEL_NAME,
        "pretrained": True,  # of torchreid's models: start from ImageNet's weights
        "load_weights": "",  # weights to start from, or to evaluate
        "resume": "",  # checkpoint to continue from, where it is not in data.save_dir
        # Encoders: a folder or a hub id, for images also torchreid:NAME or timm:NAME; with "" the encoder is built with
        # random weights from its *_config.
        "vit_pretrained": "",
        "vit_config": {},  # as in the encoder's config.json
        "bert_base_path": "",
        "bert_config": {},  # vocab_size: size of the vocabulary that is learned from the training captions
        "freeze_text": True,  # the text encoder keeps its weights
        "freeze_image": False,  # the image encoder keeps its weights
        "text_dropout": None,  # of the attention weights of CLIP's text encoder; None: the encoder's own, 0 for CLIP
        "max_length": 64,  # tokens read of a text
        "ignored_marks": "",  # characters of texts that are read as spaces
        # mlp: to 256 dimensions; none: embeddings as wide as the tokens; encoder: CLIP's own projections, and its end
        # of text in place of the attention over the tokens. The last two need fusion.type none.
        "projection": "mlp",
        "projection_dropout": 0.2,  # of the MLPs that end in the embeddings
        # bilinear or bicubic: CLIP's positions are resized once, to data.height x data.width; "": in each pass, bicubic
        "positions": "",
        "stride": 0,  # pixels from each patch to the next, with model.positions; 0: the patch size
        # type: attention, or none for the encoder's own pooled token; dim: width of its tokens, 0 for the default;
        # tokens: all, cls, mean, max or window; pool: mean, stripes or attention; cross: other, own or none
        "disentangle": DEFAULT_DISENTANGLE,
        # type: enhanced_mamba, gated_mamba, sequence_mamba, residual or none; the others are of these
        "fusion": DEFAULT_FUSION,
        # RDE's second embedding, of the tokens that CLIP attends to most. ratio: share of the tokens, 0 for none; dim:
        # its width; batch_norm: False keeps its batch normalisation's statistics, as training in eval mode does
        "token_selection": DEFAULT_SELECTION,
    },
    "data": {
        "type": "image",
        "root": "reid-data",  # folder that contains the datasets' folders
        "sources": ["cuhkpedes"],  # datasets to train on
        "targets": ["cuhkpedes"],  # datasets to test on
        "val": None,  # datasets to choose the checkpoint on; None: val split of each source; []: keep the last epoch
        "val_share": 0.05,  # share of training identities held out for validation if a dataset has no val split
        "val_seed": 0,  # selects those identities
        "workers": None,  # processes that load images; None: one per core, at most 8
        "split_id": 0,
        "height": None,  # of images, in pixels; None: the encoder's own
        "width": None,
        "combineall": False,
        # random_flip, random_flip_image (texts keep their left and right), random_crop, random_patch, color_jitter,
        # random_erase, two_of_six (TBPS-CLIP's); of texts drop_words, mask_words, change_words (RDE's)
        "transforms": ["random_flip"],
        "word_share": 0.1,  # share of the words that drop_words, mask_words and change_words change
        "crop_fill": None,  # red, green and blue (0 to 1) around a random_crop; None: the mean
        "erase_fill": None,  # red, green and blue of a random_erase; None: the mean
        "k_tfm": 1,
        "norm_mean": None,  # of image channels; None: the encoder's own
        "norm_std": None,
        "save_dir": "log",  # folder of the run
        "on_bad_image": "error",  # a training image that cannot be decoded: error, or skip and take another one
        "bad_image_share": 0.01,  # with skip: largest share of bad training images before training stops
        "keep_images": False,  # keep decoded images in memory; for small datasets with workers 0
        "load_train_targets": False,
        "noisy_rate": 0.0,  # share of the training pairs that get captions of others, to study noise
        "noisy_file": "",  # or an index file of RDE's authors that says which
        "id_instruction": "identity",  # text of the identity branch: identity, or caption; images are ranked by it
        "cloth_instruction": "clothing",  # text of the clothing branch: clothing, or caption
        "min_word_count": 100,  # occurrences in the training texts of the words that the terms words and leak read
        "text_feature_cache": "off",  # features of training texts from a frozen text encoder: off, memory or disk
        "text_feature_cache_gb": 8.0,  # size limit of each file; nothing limits the folder
        "text_feature_cache_dir": "",  # for disk; empty: a folder in the user's cache directory
        "image_feature_cache": "off",  # likewise of training and val images: off, memory or disk
        "image_feature_cache_gb": 8.0,  # size limit of each file, or in memory
        "image_feature_cache_dir": "",  # as text_feature_cache_dir
    },
    "market1501": {"use_500k_distractors": False},
    "cuhk03": {"labeled_images": False, "classic_split": False, "use_metric_cuhk03": False},
    "sampler": {
        "train_sampler": "RandomSampler",  # or RandomIdentitySampler, with num_instances images per identity
        "train_sampler_t": "RandomSampler",
        "num_instances": 4,
        "num_cams": 1,
        "num_datasets": 1,
    },
    "video": {"seq_len": 15, "sample_method": "evenly", "pooling_method": "avg"},
    "train": {
        "optim": "adamw",  # adamw, adam, amsgrad, radam, sgd or rmsprop
        "lr": 0.0003,  # learning rate
        "weight_decay": 5e-4,
        "max_epoch": 60,
        "start_epoch": 0,
        "batch_size": 32,  # images with a text each, over all processes
        "fixbase_epoch": 0,  # epochs in which only open_layers are trained
        "open_layers": None,  # layers that train.fixbase_epoch trains; None: everything but the encoders
        "staged_lr": False,  # True: all layers but new_layers learn at base_lr_mult times lr
        "new_layers": ["classifier"],  # torchreid's default; in T2IReIDModel, everything but the encoders
        "base_lr_mult": 0.1,
        "bias_lr_mult": 1.0,  # factor on the learning rate of biases
        "lr_factors": {},  # by parts of parameters' names, factors on lr in place of all others; the last match counts
        "decay_vectors": False,  # True: weight decay on all but biases; else on matrices alone
        "layer_decay": 1.0,  # factor on the encoders' learning rate per block, counted from the last; 1 is off
        "ema_decay": 0.0,  # moving average of the weights, used for evaluation and checkpoint choice; 0 is off
        "lr_scheduler": "single_step",  # single_step, multi_step, cosine, poly, linear or warmup_cosine
        "warmup_epochs": 0.0,  # linear; may be fractional for warmup_cosine
        "warmup_start": 0.1,  # first learning rate of the warm-up as a share of lr
        "final_lr_mult": 0.0,  # last learning rate of warmup_cosine and linear as a share of lr
        "power": 0.9,  # of poly
        "clip_grad": 0.0,  # maximum norm of all gradients together; 0 is off
        "nonfinite_patience": 1,  # consecutive steps without finite loss and gradients before training stops
        "stepsize": [20],  # epochs after which single_step and multi_step multiply the learning rate by gamma
        "gamma": 0.1,
        "print_freq": 20,  # steps between lines with losses, within an epoch
        "seed": 1,  # of all randomness
        "precision": "fp32",  # fp32, bf16 or fp16 for the forward pass; weights and losses stay in fp32
        "encode_at_once": 0,  # images (or texts, if their encoder is trained) per encoder call; 0: whole batch
        "checkpoint_encoders": False,  # gradient checkpointing: less memory, slower
        "compile": False,  # torch.compile for the encoders and the rest of the training step
        "deterministic": False,  # deterministic kernels; slower, see docs/reliability.md
        "save_minutes": 15.0,  # minutes between writes of last.pth within an epoch; 0: only after each epoch
        "save_steps": 0,  # steps between writes of last.pth; 0 is off
    },
    "sgd": {"momentum": 0.9, "dampening": 0.0, "nesterov": False},
    "rmsprop": {"alpha": 0.99},
    "adam": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8},  # also of adamw, amsgrad and radam
    "loss": {
        "name": "terms",  # weighted sum of loss.terms
        "softmax": {"label_smooth": True},
        "triplet": {"margin": 0.3, "weight_t": 1.0, "weight_x": 0.0},
        "terms": {},
        "ccd": {
            "enabled": False,  # RDE's consensus division: before each epoch, tal and tal_selected choose its pairs
            "max_iter": 10,  # this and the next two of scikit-learn's GaussianMixture
            "tol": 0.01,
            "reg_covar": 0.0005,
        },
    },
    "test": {
        "batch_size": 100,
        "dist_metric": "euclidean",
        "normalize_feature": False,
        "ranks": [1, 5, 10, 20],  # the k of R@k
        "evaluate": False,
        "eval_freq": -1,  # epochs between evaluations on val; -1: after the last epoch alone
        "start_eval": 0,  # first epoch that is evaluated
        "rerank": False,  # also report the final test after k-reciprocal re-ranking
        "visrank": False,
        "visrank_topk": 10,
        "evaluator": "exact",  # exact (ours) or torchreid
        "protocols": ["t2i"],  # for the final test, names in evaluation/protocols.py
        "identity_weight": None,  # share of the identity branch where both branches score; None: the best on val
        "choose_on": "val",  # data that chooses the epoch: val, or test as some authors do, which every table then says
        "answer_file": "",  # to write for a test set without public labels: the best photos of each query
        "bootstrap": 2000,  # resamples for the 95 % intervals of the final test; 0 is off
        "pictures": 6,  # number of ranked lists drawn after the final test
        "picture_format": "png",  # of the plots of --visualize: png, svg or pdf; pictures with photos are always png
    },
}
# Replaces defaults in an image-only configuration.
_IMAGE_ONLY_DEFAULTS: dict[str, Any] = {
    "data": {"sources": ["market1501"], "targets": ["market1501"]},
    "train": {"optim": "adam", "open_layers": ["classifier"]},
    "loss": {"name": "softmax"},
}
# Keys that may be None, with another value of the right type.
_OPTIONAL = {
    "model.text_dropout": 0.0,
    "data.val": [""],
    "data.workers": 0,
    "data.height": 0,
    "data.width": 0,
    "test.identity_weight": 0.0,
    "data.norm_mean": [0.0],
    "data.norm_std": [0.0],
    "data.crop_fill": [0.0],
    "data.erase_fill": [0.0],
    "train.open_layers": [""],
}
# Tables that accept any key: Hugging Face's configurations, the arguments of losses, and parts of names.
_OPEN_TABLES = ("model.vit_config", "model.bert_config", "loss.terms", "train.lr_factors")


def get_cfg() -> CfgNode:
    """A new configuration with all defaults."""
    cfg = CfgNode(_DEFAULTS)
    for name in _OPEN_TABLES:
        table, key = name.split(".")
        cfg[table][key].set_new_allowed(True)
    return cfg


def load_cfg(config_file: str | Path | None = None, opts: Sequence[str] = ()) -> CfgNode:
    """The defaults, overridden by a YAML file, which may have bases, and by pairs from the command line.

    Args:
        config_file: the YAML file, or the name of one of the package's, see `config_path`.
        opts: ``["train.lr", "1e-4"]`` or ``["train.lr=1e-4"]``.

    Raises:
        ConfigError: for a missing or broken file, an unknown key (the message suggests the nearest one), a value of
            the wrong type, or a key without a value.
    """
    updates = _read_yaml(config_path(config_file), ()) if config_file else []
    updates += [(pair, "command line") for pair in pairs(opts)]
    cfg = _merged(updates)
    return _merged([(_IMAGE_ONLY_DEFAULTS, "defaults"), *updates]) if image_only(cfg) else cfg


def config_path(name: str | Path) -> Path:
    """The file ``name``, or else that of the package: ``t2i_vit_mamba`` or ``ablation/drawn``, with suffix or without.

    Raises:
        ConfigError: for neither.
    """
    file, packaged = Path(name), CONFIGS / name
    for path in (file, packaged, Path(f"{packaged}.yaml"), Path(f"{packaged}.yml")):
        if path.exists() and not path.is_dir():  # perhaps a pipe
            return path
    names = config_names()
    if file.parent == Path("recipes"):  # of --recipe
        check_choice("recipe", file.name, [own.removeprefix("recipes/") for own in names if own.startswith("recipes/")])
    nearest = difflib.get_close_matches(file.stem, names, n=1) or [n for n in names if n.endswith(f"/{file.stem}")]
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    raise ConfigError(f"no configuration file '{name}'; {hint}`t2ireid configs` lists those that have a name")


def config_names() -> list[str]:
    """Names of the package's configurations; those in folders last."""
    files = [path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.y*ml")]
    return [path.with_suffix("").as_posix() for path in sorted(files, key=lambda path: (len(path.parts), path))]


def _merged(updates: Sequence[tuple[Mapping[str, Any], str]]) -> CfgNode:
    cfg = get_cfg()
    for values, source in updates:
        merge(cfg, values, source)
    return cfg


def image_only(cfg: CfgNode) -> bool:
    """True for torchreid's training on images alone: another model than ours, or a loss of torchreid's."""
    return cfg.model.name != MODEL_NAME or cfg.loss.name != "terms"


def require_texts(cfg: CfgNode, command: str) -> None:
    """Checks that a configuration is one for images with texts, which ``command`` needs.

    Raises:
        ConfigError: for an image-only one.
    """
    if image_only(cfg):
        raise ConfigError(
            f"{command}: model.name {cfg.model.name} with loss.name {cfg.loss.name} works on images alone; use "
            f"model.name {MODEL_NAME} with loss.name terms"
        )


def changed_keys(cfg: CfgNode) -> dict[str, Any]:
    """The settings that differ from the defaults of `get_cfg`, by full name; an open table counts as one setting."""
    return {name: value for name, value in settings(cfg) if value != _DEFAULT_SETTINGS[name]}


def merge(cfg: CfgNode, updates: Mapping[str, Any], source: str, prefix: str = "") -> None:
    """Sets the nested ``updates`` in ``cfg``.

    yacs' own merge accepts None and list items of any type, reads ``data.root 2024`` as a number, and in open tables
    rejects an integer where there was a float.

    Args:
        cfg: modified in place.
        updates: nested tables of new values.
        source: origin of the updates for error messages: a file, or "command line".
        prefix: full name of the table ``cfg`` with a final dot.

    Raises:
        ConfigError: for an unknown key or a value of the wrong type.
    """
    for key, value in updates.items():
        name = f"{prefix}{key}"
        where, old, is_open = f"{source}: '{name}'", cfg.get(key), cfg.is_new_allowed()
        if key not in cfg and not is_open:
            raise ConfigError(f"{source}: unknown key '{name}'{_nearest(name)}; valid here: {', '.join(cfg)}")
        if is_open or not isinstance(_DEFAULT_SETTINGS.get(name), str):
            value = _parse(value, where)
        if isinstance(old, CfgNode) and not isinstance(value, Mapping):
            raise ConfigError(f"{where} is a table of settings, not {short_repr(value)}")
        if isinstance(value, Mapping) and (is_open or isinstance(old, CfgNode)):
            if not isinstance(old, CfgNode):
                old = cfg[key] = CfgNode(new_allowed=True)
            merge(old, value, source, f"{name}.")
        else:
            cfg[key] = value if is_open else _typed(value, name, where)


def to_dict(cfg: CfgNode) -> dict[str, Any]:
    """The configuration as nested dictionaries."""
    return {key: to_dict(value) if isinstance(value, CfgNode) else value for key, value in cfg.items()}


def dump(cfg: CfgNode) -> str:
    """The configuration as YAML that `load_cfg` reads back."""
    return yaml.safe_dump(to_dict(cfg), sort_keys=False, allow_unicode=True)


def get_setting(cfg: CfgNode, name: str) -> Any:
    """The value of a setting by its full name, such as ``train.lr``; an open table as a dictionary."""
    value = functools.reduce(CfgNode.__getitem__, name.split("."), cfg)
    return to_dict(value) if isinstance(value, CfgNode) else value


def set_setting(cfg: CfgNode, name: str, value: Any) -> None:
    """Sets a setting by its full name; an open table is replaced as a whole."""
    *tables, key = name.split(".")
    table = functools.reduce(CfgNode.__getitem__, tables, cfg)
    table[key] = CfgNode(value, new_allowed=True) if isinstance(value, Mapping) else value


def _read_yaml(file: Path, children: tuple[Path, ...]) -> list[tuple[dict[str, Any], str]]:
    """The settings of a YAML file after those of its bases, each with its file's name.

    ``children`` are the files that lead to it as a base.
    """
    try:
        content = parse_yaml(read_bytes(file, MAX_CONFIG_BYTES))
    except OSError as error:
        raise ConfigError(f"no configuration file '{file}' ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"'{file}' is not valid YAML: {error}") from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigError(f"'{file}' must hold settings such as 'train: {{lr: 0.001}}', not {short_repr(content)}")
    if file.resolve() in children:
        raise ConfigError(f"'{file}' is its own _BASE_")
    base = content.pop("_BASE_", None)
    if base is None:
        return [(content, str(file))]
    if not isinstance(base, str):
        raise ConfigError(f"'{file}': _BASE_ must be the name of a file, not {short_repr(base)}")
    return [*_read_yaml(file.parent / base, (*children, file.resolve())), (content, str(file))]


def pairs(opts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Splits ``KEY VALUE`` and ``KEY=VALUE``, in any mixture; yields each as nested tables."""
    words = iter(opts)
    for word in words:
        key, equals, text = word.partition("=")
        value: Any = text if equals else next(words, None)
        if value is None:
            raise ConfigError(f"'{key}' has no value; settings are pairs, such as: train.lr 1e-4")
        for part in reversed(key.split(".")):
            value = {part: value}
        yield value


def _parse(value: Any, where: str) -> Any:
    """Parses a text as a Python literal or as YAML's ``[a, b]``, ``{a: 1}``, ``true`` or ``null``, else keeps it.

    Values from the command line are texts, and so are numbers such as 1e-4 from PyYAML.
    """
    if not isinstance(value, str):
        return value
    try:
        parsed = CfgNode._decode_cfg_value(value)
        if parsed == value and (value.startswith(("[", "{")) or value in ("true", "false", "null")):
            parsed = parse_yaml(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: cannot read the value {short_repr(value)}: {error}") from error
    return parsed


def _typed(value: Any, name: str, where: str) -> Any:
    """Converts ``value`` to the type of the setting ``name``: an integer to a float, a single value to a list."""
    example = _OPTIONAL.get(name, _DEFAULT_SETTINGS[name])
    if value is None and name in _OPTIONAL:
        return None
    if isinstance(example, list):
        value = [item.strip() for item in value.split(",")] if isinstance(value, str) else value
        items = value if isinstance(value, (list, tuple)) else [value]
        return [_check_type(item, type(example[0]), f"{where}: each value") for item in items]
    return _check_type(value, type(example), where)


def _check_type(value: Any, kind: type, where: str) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        actual = "empty" if value is None else f"{type(value).__name__} ({short_repr(value)})"
        raise ConfigError(f"{where} must be {kind.__name__}, not {actual}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} must be a finite number, not {value}")
    return value


def settings(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting by its full name, such as ``train.lr``; an open table counts as one setting."""
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in _OPEN_TABLES:
            yield from settings(value, f"{name}.")
        else:
            yield name, value


_DEFAULT_SETTINGS = dict(settings(_DEFAULTS))


def _nearest(name: str) -> str:
    tables = [setting.rpartition(".")[0] for setting in _DEFAULT_SETTINGS]
    matches = difflib.get_close_matches(name, [*filter(None, tables), *_DEFAULT_SETTINGS], n=1, cutoff=0.6)
    return f", did you mean '{matches[0]}'" if matches else ""
