"""Everything that a checkpoint or an exported folder says about its model besides the weights.

A run's checkpoint has the entries ``preprocess``, ``tokenizer``, ``net_config``, ``classes`` and ``ranking``. An
exported folder has the same in ``preprocessor_config.json``, ``tokenizer.json`` and ``config.json`` beside
``model.safetensors``.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from t2ireid_plugin.errors import CheckpointError, T2IReIDError, short_repr
from t2ireid_plugin.modeling.checkpoint import Checkpoint, weights_digest
from t2ireid_plugin.modeling.encoders.loading import IMAGE_KEY, TEXT_KEY, config_from_dict
from t2ireid_plugin.modeling.encoders.preprocess import Preprocess, checked_preprocess
from t2ireid_plugin.modeling.encoders.tokenizer import ROLES, tokenizer_from_json, tokenizer_to_json
from t2ireid_plugin.modeling.ranking import Ranking
from t2ireid_plugin.modeling.settings import DEFAULT_DISENTANGLE, DEFAULT_SELECTION
from t2ireid_plugin.utils.safe_io import MAX_DATA_BYTES, parse_json, read_bytes

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

T = TypeVar("T")

# Arguments of `T2IReIDModel` that have the same name in an exported config.json.
_STRUCTURE = (
    *("num_classes", "disentangle", "fusion", "freeze_text", "freeze_image", "projection", "projection_dropout"),
    "token_selection",
)
# What a file means that was written before a part of the model could be configured.
_BEFORE: dict[str, Any] = {
    "projection": "mlp",
    "projection_dropout": 0.2,
    "freeze_image": False,
    "token_selection": DEFAULT_SELECTION,
}


class Stored(NamedTuple):
    """Description of a model; what a file does not say is None, or empty."""

    preprocess: Preprocess | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    net_config: Mapping[str, Any] = {}  # for `T2IReIDModel`; encoders as configuration objects
    classes: Sequence[str] = ()  # person of each class, ``DATASET:PID``
    texts: Mapping[str, str] = {}  # of an export: ``id_instruction`` and ``cloth_instruction``
    ranking: Ranking | None = None


def describe_model(
    preprocess: Preprocess,
    tokenizer: PreTrainedTokenizerBase,
    encoders: Mapping[str, PretrainedConfig],
    structure: Mapping[str, Any],
    classes: Sequence[str],
) -> dict[str, Any]:
    """The entries of a checkpoint from which `read_stored` restores a model: plain values that the safe loader reads.

    Args:
        preprocess: of the images.
        tokenizer: one that has no JSON form is left out, and is read from the text encoder's folder.
        encoders: configurations by `IMAGE_KEY` and `TEXT_KEY`.
        structure: the other arguments of `T2IReIDModel`.
        classes: person of each class.
    """
    entries: dict[str, Any] = {
        "preprocess": preprocess_entry(preprocess),
        "net_config": json.dumps(
            {
                "vision_config": encoders[IMAGE_KEY].to_dict(),
                "text_config": encoders[TEXT_KEY].to_dict(),
                "max_text_length": structure["max_length"],
                **{name: structure[name] for name in _STRUCTURE},
            },
            default=str,
        ),
        "classes": list(classes),
    }
    if getattr(tokenizer, "backend_tokenizer", None) is not None:
        entries["tokenizer"] = tokenizer_to_json(tokenizer)
    return entries


def trained_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """The settings of the training, by table and key: all of a run's, and of other files those that they describe."""
    if "config" in checkpoint.content:
        return dict(checkpoint.content["config"])
    stored = read_stored(checkpoint)
    model = {key: value for key, value in stored.net_config.items() if isinstance(value, (dict, bool, int, float))}
    model.pop("num_classes", None)
    data: dict[str, Any] = dict(stored.texts)
    if stored.preprocess:
        data |= pixel_settings(stored.preprocess)
    return {"model": model, "data": data}


def pixel_settings(preprocess: Preprocess) -> dict[str, Any]:
    """``preprocess`` as the settings of the table ``data``."""
    height, width, mean, std = preprocess
    return {"height": height, "width": width, "norm_mean": list(mean), "norm_std": list(std)}


def preprocess_entry(preprocess: Preprocess) -> dict[str, Any]:
    """The entry ``preprocess`` of a checkpoint."""
    height, width, mean, std = preprocess
    return {"height": height, "width": width, "mean": list(mean), "std": list(std)}


def read_stored(checkpoint: Checkpoint) -> Stored:
    """Reads what a checkpoint, or the folder of an exported ``model.safetensors``, says about its model.

    Raises:
        CheckpointError: for an entry that cannot be read; it names the entry.
    """
    content = _exported(checkpoint) if checkpoint.path.suffix == ".safetensors" else checkpoint.content
    read = functools.partial(_read, checkpoint, content)
    return Stored(
        preprocess=read("preprocess", _preprocess),
        tokenizer=read("tokenizer", tokenizer_from_json),
        net_config=read("net_config", _net_config) or {},
        classes=read("classes", list) or (),
        texts=read("texts", dict) or {},
        ranking=read("ranking", Ranking.read) or _ranking_of_texts(content),
    )


def _ranking_of_texts(content: Mapping[str, Any]) -> Ranking | None:
    """The ranking of an older file, from the texts that its model was trained with."""
    config = content.get("config", {})
    texts = content.get("texts") or config.get("data", {})
    if "id_instruction" not in texts or config.get("loss", {}).get("name", "terms") != "terms":  # images alone
        return None
    return Ranking.of_training(texts["id_instruction"], texts.get("cloth_instruction", "clothing"))


def _read(checkpoint: Checkpoint, content: Mapping[str, Any], key: str, parse: Callable[[Any], T]) -> T | None:
    if key not in content:
        return None
    try:
        return parse(content[key])
    except T2IReIDError as error:
        raise CheckpointError(f"'{checkpoint.path}': {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"'{checkpoint.path}': the entry '{key}' is not as a run writes it: {short_repr(content[key])}"
        ) from error


def _preprocess(entry: Any) -> Preprocess:
    return checked_preprocess(entry["height"], entry["width"], entry["mean"], entry["std"], "preprocess")


def _net_config(entry: Any) -> dict[str, Any]:
    """Arguments of `T2IReIDModel` from the content of an exported config.json."""
    config = _BEFORE | parse_json(entry)
    return {
        IMAGE_KEY: config_from_dict(config["vision_config"], IMAGE_KEY),
        TEXT_KEY: config_from_dict(config["text_config"], TEXT_KEY),
        "max_length": config["max_text_length"],
        **{name: config[name] for name in _STRUCTURE},
        "disentangle": {**DEFAULT_DISENTANGLE, **config["disentangle"]},  # an older file lacks keys
    }


def _exported(checkpoint: Checkpoint) -> dict[str, Any]:
    """The entries of a checkpoint, from the files of an exported folder; without those that are missing."""
    files = {}
    for name in ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        file = checkpoint.path.with_name(name)
        try:
            files[name] = parse_json(read_bytes(file, MAX_DATA_BYTES)) if file.exists() else {}
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read '{file}' ({getattr(error, 'strerror', None) or error})") from error
    config, images, tokenizer, settings = files.values()
    if config.get("weights_digest") not in (None, weights_digest(checkpoint.state)):
        raise CheckpointError(
            f"'{checkpoint.path}' is damaged, or of another model: not the weights of its config.json"
        )
    content: dict[str, Any] = {}
    if "size" in images:
        size = images["size"]
        mean, std = images["image_mean"], images["image_std"]
        content["preprocess"] = {"height": size["height"], "width": size["width"], "mean": mean, "std": std}
    if tokenizer:
        roles = {role: token for role, token in settings.items() if role.endswith("_token") and isinstance(token, str)}
        content["tokenizer"] = json.dumps({**tokenizer, ROLES: roles} if roles else tokenizer)
    if config.get("model_type") == "t2ireid":
        content["net_config"] = json.dumps(config)
        if "ranking" in config:
            content["ranking"] = config["ranking"]
        content["texts"] = {name: config[name] for name in ("id_instruction", "cloth_instruction") if name in config}
    return content
