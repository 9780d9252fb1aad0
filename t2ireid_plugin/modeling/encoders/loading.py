"""Image and text encoders from Hugging Face: a hub id, a folder, or an inline configuration.

Of a two-tower model (CLIP, SigLIP) the tower that is asked for is built. An inline configuration (a mapping such as
``{"hidden_size": 128, "num_hidden_layers": 4}``) builds the encoder with random weights; what it does not name has
the library's default, so ``{}`` is ViT-B/16 or BERT-base, and ``{"model_type": "clip"}`` a tower of CLIP. So does a
configuration object of the library, which is taken as it is.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.utils import HFValidationError, validate_repo_id

from t2ireid_plugin.errors import ConfigError, EncoderError
from t2ireid_plugin.modeling.encoders.families import drop_head, tower_class, tower_config, without_pooler
from t2ireid_plugin.utils.text import first_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Source: TypeAlias = "str | Mapping[str, Any] | PretrainedConfig"
T = TypeVar("T")

IMAGE_KEY, TEXT_KEY = "vit_pretrained", "bert_base_path"
# Without this the library asks on the console whether it may run the Python files of a folder.
_OWN_CODE = {"trust_remote_code": False}
_KIND = {IMAGE_KEY: "image", TEXT_KEY: "text"}
_DEFAULT_TYPE = {IMAGE_KEY: "vit", TEXT_KEY: "bert"}
_NEEDS = {IMAGE_KEY: "patch_size", TEXT_KEY: "vocab_size"}  # what a configuration of the right kind has


def build_image_encoder(source: Source) -> PreTrainedModel:
    """The image encoder, without a pooler; read its tokens with `towers.image_tokens`.

    Raises:
        EncoderError: when the files are missing, or weights do not fit; the message says where they belong.
        ConfigError: for an inline configuration with unknown keys.
    """
    return _build(source, IMAGE_KEY)


def build_text_encoder(source: Source, vocab_size: int | None = None) -> PreTrainedModel:
    """The text encoder, without a pooler; an inline configuration gets ``vocab_size`` embeddings.

    Raises:
        EncoderError: when the files are missing, or weights do not fit; the message says where they belong.
        ConfigError: for an inline configuration with unknown keys.
    """
    if isinstance(source, Mapping) and vocab_size is not None:
        source = {**source, "vocab_size": vocab_size}
    return _build(source, TEXT_KEY)


def build_tokenizer(source: str, vocab_size: int) -> PreTrainedTokenizerBase:
    """The tokenizer beside a pretrained text encoder, checked against the ``vocab_size`` of its embeddings.

    Raises:
        EncoderError: when it is missing or its vocabulary is not the encoder's. Hugging Face hands out an almost
            empty tokenizer for a folder without a vocabulary; here that is an error.
    """
    from transformers import AutoTokenizer

    tokenizer = _load(functools.partial(AutoTokenizer.from_pretrained, **_OWN_CODE), source, TEXT_KEY)
    # Embedding tables are sometimes padded up to a round size, so up to 1 % may be unused.
    if not 0.99 * vocab_size <= len(tokenizer) <= vocab_size:
        raise EncoderError(
            f"{TEXT_KEY}: the tokenizer in '{source}' has {len(tokenizer)} tokens but the text encoder has "
            f"{vocab_size}; put the encoder's own vocab.txt or tokenizer.json into that folder"
        )
    return tokenizer


def check_source(source: Source, key: str) -> None:
    """Says early, without loading anything, whether an encoder can be had.

    Raises:
        EncoderError: when it is neither a folder nor cached and cannot be downloaded.
    """
    if not isinstance(source, str) or find_folder(source) or find_cached(source, "config.json"):
        return
    if _looks_like_path(source) or not _hub_reachable():
        raise _missing(source, key)


def encoder_config(source: Source, key: str) -> PretrainedConfig:
    """The configuration of the encoder that ``source`` names, of a two-tower model its tower's; weights are not read.

    Args:
        source: as for `build_image_encoder`.
        key: ``IMAGE_KEY`` or ``TEXT_KEY``, for which kind of tower and for messages.

    Raises:
        EncoderError: when the files are missing.
        ConfigError: for an inline configuration with unknown keys.
    """
    return tower_config(_found_config(source, key), _KIND[key])


def _found_config(source: Source, key: str) -> PretrainedConfig:
    """As `encoder_config`, but of a two-tower model in a folder the whole."""
    from transformers import AutoConfig, PretrainedConfig

    if isinstance(source, PretrainedConfig):
        return source
    if isinstance(source, Mapping):
        return _inline_config(dict(source), _DEFAULT_TYPE[key], key)
    return _load(functools.partial(AutoConfig.from_pretrained, **_OWN_CODE), source, key)


def _build(source: Source, key: str) -> PreTrainedModel:
    found = _found_config(source, key)
    config = tower_config(found, _KIND[key])
    model_class = tower_class(config)
    if model_class is None or not hasattr(config, _NEEDS[key]):
        named = f"'{source}'" if isinstance(source, str) else "the configuration"
        raise EncoderError(f"{key}: {named} is a {config.model_type} model, no {_KIND[key]} encoder")
    options = without_pooler(model_class, config)
    if not isinstance(source, str):
        return drop_head(model_class(config, **options))
    load = functools.partial(model_class.from_pretrained, config=config, output_loading_info=True, **options)
    with _without_load_report(config is not found):
        model, info = _load(load, source, key)
    if info["missing_keys"]:
        names = ", ".join(sorted(info["missing_keys"])[:5])
        raise EncoderError(
            f"{key}: the weights in '{source}' lack {len(info['missing_keys'])} of the encoder's parameters "
            f"({names}, …); they belong to another architecture than its config.json says"
        )
    if config is not found:
        logger.info("%s: the %s tower of '%s', a %s model", key, _KIND[key], source, found.model_type)
    return drop_head(model.float())  # some weights are stored in half precision; training wants float32


def _inline_config(settings: dict[str, Any], default_type: str, key: str) -> PretrainedConfig:
    from transformers import AutoConfig

    model_type = settings.pop("model_type", default_type)
    try:
        default = tower_config(AutoConfig.for_model(model_type), _KIND[key])
    except ValueError as error:
        raise ConfigError(f"{key}: unknown model_type '{model_type}'") from error
    valid = set(default.to_dict())
    unknown = sorted(set(settings) - valid)
    if unknown:
        raise ConfigError(
            f"{key}: unknown {', '.join(unknown)}; a {default.model_type} configuration has {', '.join(sorted(valid))}"
        )
    try:
        return type(default)(**settings)
    except Exception as error:  # newer versions check the types of values, with an error class of their own
        raise ConfigError(f"{key}: {error}") from error


@contextlib.contextmanager
def _without_load_report(quiet: bool) -> Iterator[None]:
    """The library warns of each tensor that is left over; of two towers the other one always is."""
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    if quiet:
        transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _load(load: Callable[..., T], source: str, key: str) -> T:
    """Loads from a folder or the cache; asks the network only when it answers."""
    local = find_folder(source)
    if not local and _looks_like_path(source):
        raise _missing(source, key)
    try:
        return load(str(local or source), local_files_only=True)
    except Exception as error:  # damaged files raise anything: SafetensorError, KeyError, RuntimeError, bare Exception
        if local:
            reason = first_line(error)
            raise EncoderError(f"{key}: the folder '{source}' cannot be loaded: {reason}") from error
        if not _hub_reachable():
            raise _missing(source, key) from error
    try:
        return load(source)
    except Exception as error:
        reason = first_line(error)
        raise EncoderError(f"{key}: '{source}' cannot be had from the Hugging Face hub: {reason}") from error


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
    """A hub id is ``name`` or ``owner/name`` of the letters that the hub allows; all else is meant as a folder."""
    try:
        validate_repo_id(source)
    except HFValidationError:
        return True
    return False


def find_folder(source: str) -> Path | None:
    """The folder that ``source`` names, ``~`` understood; None when there is none."""
    folder = Path(os.path.expanduser(source))  # unlike Path.expanduser, it leaves unknown users alone
    return folder if source and folder.is_dir() else None


def find_cached(source: str, filename: str) -> Path | None:
    """The file of a hub id in the Hugging Face cache; None when it is not there."""
    if _looks_like_path(source):
        return None
    found = try_to_load_from_cache(source, filename)
    return Path(found) if isinstance(found, str) else None


def find_on_hub(source: str, filename: str) -> Path | None:
    """The file of a hub id, from the cache or downloaded; None where there is none, or no network."""
    cached = find_cached(source, filename)
    if cached is not None or not _hub_reachable():
        return cached
    try:
        return Path(hf_hub_download(source, filename))
    except (OSError, ValueError):  # it does not exist, or the network broke off; what needs it has a default
        return None


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
