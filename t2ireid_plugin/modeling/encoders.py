"""Image and text encoders from Hugging Face: a hub id, a folder, or an inline configuration.

An inline configuration (a mapping such as ``{"hidden_size": 128, "num_hidden_layers": 4}``) builds the encoder with
random weights; what it does not name has the library's default, so ``{}`` is ViT-B/16 or BERT-base.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from huggingface_hub import constants, try_to_load_from_cache
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from t2ireid_plugin.errors import ConfigError, EncoderError

Source = str | Mapping[str, Any]
T = TypeVar("T")

IMAGE_KEY, TEXT_KEY = "vit_pretrained", "bert_base_path"
_KIND = {IMAGE_KEY: "image", TEXT_KEY: "text"}
_NEEDS = {IMAGE_KEY: "image_size", TEXT_KEY: "vocab_size"}  # what a configuration of the right kind has


class Preprocess(NamedTuple):
    """How pixels reach the image encoder: ``(value / 255 - mean) / std`` at ``height`` x ``width``."""

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def build_image_encoder(source: Source) -> PreTrainedModel:
    """The image encoder, without a pooler.

    Raises:
        EncoderError: when the files are missing, or weights do not fit; the message says where they belong.
        ConfigError: for an inline configuration with unknown keys.
    """
    return _build(source, "vit", IMAGE_KEY)


def build_text_encoder(source: Source, vocab_size: int | None = None) -> PreTrainedModel:
    """The text encoder, without a pooler; an inline configuration gets ``vocab_size`` embeddings.

    Raises:
        EncoderError: when the files are missing, or weights do not fit; the message says where they belong.
        ConfigError: for an inline configuration with unknown keys.
    """
    if isinstance(source, Mapping) and vocab_size is not None:
        source = {**source, "vocab_size": vocab_size}
    return _build(source, "bert", TEXT_KEY)


def build_tokenizer(source: str, vocab_size: int) -> PreTrainedTokenizerBase:
    """The tokenizer beside a pretrained text encoder, checked against the ``vocab_size`` of its embeddings.

    Raises:
        EncoderError: when it is missing or its vocabulary is not the encoder's. Hugging Face hands out an almost
            empty tokenizer for a folder without a vocabulary; here that is an error.
    """
    tokenizer = _load(AutoTokenizer.from_pretrained, source, TEXT_KEY)
    # Embedding tables are sometimes padded up to a round size, so up to 1 % may be unused.
    if not 0.99 * vocab_size <= len(tokenizer) <= vocab_size:
        raise EncoderError(
            f"{TEXT_KEY}: the tokenizer in '{source}' has {len(tokenizer)} tokens but the text encoder has "
            f"{vocab_size}; put the encoder's own vocab.txt or tokenizer.json into that folder"
        )
    return tokenizer


def image_preprocess(source: Source, config: PretrainedConfig) -> Preprocess:
    """Size from the encoder's configuration, mean and std from its ``preprocessor_config.json``, else ViT's 0.5."""
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    settings: dict[str, Any] = {}
    file = _preprocessor_file(source)
    if file is not None:
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise EncoderError(f"{IMAGE_KEY}: '{file}' is not valid JSON: {error}") from error
    mean = tuple(settings.get("image_mean", (0.5, 0.5, 0.5)))
    std = tuple(settings.get("image_std", (0.5, 0.5, 0.5)))
    return Preprocess(height, width, mean, std)


def check_source(source: Source, key: str) -> None:
    """Says early, without loading anything, whether an encoder can be had.

    Raises:
        EncoderError: when it is neither a folder nor cached and cannot be downloaded.
    """
    if isinstance(source, Mapping) or Path(source).is_dir() or _cached(source, "config.json"):
        return
    if _looks_like_path(source) or not _hub_reachable():
        raise _missing(source, key)


def _build(source: Source, default_type: str, key: str) -> PreTrainedModel:
    if isinstance(source, Mapping):
        config = _inline_config(dict(source), default_type, key)
    else:
        config = _load(AutoConfig.from_pretrained, source, key)
    if type(config) not in MODEL_MAPPING or not hasattr(config, _NEEDS[key]):
        raise EncoderError(f"{key}: '{source}' is a {config.model_type} model, no {_KIND[key]} encoder")
    model_class = MODEL_MAPPING[type(config)]
    options = _without_pooler(model_class)
    if isinstance(source, Mapping):
        return model_class(config, **options)
    load = functools.partial(model_class.from_pretrained, output_loading_info=True, **options)
    model, info = _load(load, source, key)
    if info["missing_keys"]:
        names = ", ".join(sorted(info["missing_keys"])[:5])
        raise EncoderError(
            f"{key}: the weights in '{source}' lack {len(info['missing_keys'])} of the encoder's parameters "
            f"({names}, …); they belong to another architecture than its config.json says"
        )
    return model


def _inline_config(settings: dict[str, Any], default_type: str, key: str) -> PretrainedConfig:
    model_type = settings.pop("model_type", default_type)
    try:
        default = AutoConfig.for_model(model_type)
    except ValueError as error:
        raise ConfigError(f"{key}: unknown model_type '{model_type}'") from error
    valid = set(default.to_dict())
    unknown = sorted(set(settings) - valid)
    if unknown:
        raise ConfigError(
            f"{key}: unknown {', '.join(unknown)}; a {model_type} configuration has {', '.join(sorted(valid))}"
        )
    try:
        return AutoConfig.for_model(model_type, **settings)
    except Exception as error:  # newer versions check the types of values, with an error class of their own
        raise ConfigError(f"{key}: {error}") from error


def _without_pooler(model_class: type) -> dict[str, bool]:
    """The specification reads all tokens, never the pooler; most encoders can leave it out."""
    takes = inspect.signature(model_class).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in takes else {}


def _load(load: Callable[..., T], source: str, key: str) -> T:
    """Loads from a folder or the cache; asks the network only when it answers."""
    local = Path(source).is_dir()
    if not local and _looks_like_path(source):
        raise _missing(source, key)
    try:
        return load(source, local_files_only=True)
    except Exception as error:  # damaged files raise anything: SafetensorError, KeyError, RuntimeError, bare Exception
        if local:
            reason = _reason(error)
            raise EncoderError(f"{key}: the folder '{source}' cannot be loaded: {reason}") from error
        if not _hub_reachable():
            raise _missing(source, key) from error
    try:
        return load(source)
    except Exception as error:
        reason = _reason(error)
        raise EncoderError(f"{key}: '{source}' cannot be had from the Hugging Face hub: {reason}") from error


def _reason(error: Exception) -> str:
    """The first line of a message, or the error's name where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _missing(source: str, key: str) -> EncoderError:
    if _looks_like_path(source):
        return EncoderError(
            f"{key}: no folder '{source}'; it should hold config.json, model.safetensors and, for text, vocab.txt"
        )
    return EncoderError(
        f"{key}: '{source}' is no folder, not in the Hugging Face cache, and the hub is not reachable from here. "
        f"On a machine with a network run `hf download {source} --local-dir DIR`, copy DIR here and set "
        f"model.{key} DIR; a mirror can be named in HF_ENDPOINT"
    )


def _looks_like_path(source: str) -> bool:
    """A hub id is ``name`` or ``owner/name``; all else is meant as a folder."""
    return source.startswith((".", "~", os.sep)) or source.count("/") > 1 or Path(source).is_absolute()


def _cached(source: str, filename: str) -> Path | None:
    if _looks_like_path(source):
        return None
    found = try_to_load_from_cache(source, filename)
    return Path(found) if isinstance(found, str) else None


def _preprocessor_file(source: Source) -> Path | None:
    if isinstance(source, Mapping):
        return None
    if Path(source).is_dir():
        file = Path(source) / "preprocessor_config.json"
        return file if file.is_file() else None
    return _cached(source, "preprocessor_config.json")


@functools.cache
def _hub_reachable(timeout: float = 3.0) -> bool:
    """One short probe in place of the hub client's minutes of retries; never when the user asked for offline."""
    if constants.HF_HUB_OFFLINE:
        return False
    answered: list[bool] = []

    def probe() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=timeout)
        except urllib.error.HTTPError:
            answered.append(True)  # it spoke, if only to refuse
        except OSError:
            answered.append(False)
        else:
            answered.append(True)

    # A thread, because a timeout on the connection does not bound the name lookup before it.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(timeout)
    return bool(answered and answered[0])
