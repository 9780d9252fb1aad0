"""Image and text encoders from Hugging Face: a hub id, a folder, or an inline configuration; `libraries` has others.

Of a two-tower model (CLIP, SigLIP) only the requested tower is built. An inline configuration (a mapping such as
``{"hidden_size": 128, "num_hidden_layers": 4}``) builds the encoder with random weights and the library's defaults for
the rest: ``{}`` is ViT-B/16 or BERT-base, ``{"model_type": "clip"}`` a tower of CLIP. A configuration object of the
library is used unchanged, also with random weights.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from huggingface_hub import constants, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.utils import HFValidationError, enable_progress_bars, validate_repo_id

from t2ireid_plugin.errors import CheckpointError, ConfigError, EncoderError, T2IReIDError, check_keys, short_repr
from t2ireid_plugin.modeling.encoders.backbones import token_reader
from t2ireid_plugin.modeling.encoders.families import check_shape, drop_head, tower_class, without_pooler
from t2ireid_plugin.modeling.encoders.openai import archive_config, archive_path, archive_tokenizer, read_archive
from t2ireid_plugin.modeling.encoders.sources import TORCHREID_MODELS, check_library_model, library_model
from t2ireid_plugin.utils.safe_io import MAX_CONFIG_BYTES, parse_json, read_bytes, wrong_content
from t2ireid_plugin.utils.text import first_line

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Source: TypeAlias = "str | Mapping[str, Any] | PretrainedConfig"
T = TypeVar("T")

IMAGE_KEY, TEXT_KEY = "vit_pretrained", "bert_base_path"
_KIND = {IMAGE_KEY: "image", TEXT_KEY: "text"}
_DEFAULT_TYPE = {IMAGE_KEY: "vit", TEXT_KEY: "bert"}
# Sizes where a configuration has none; a test compares them with those of the configuration classes.
_SIZES: dict[str, dict[str, Any]] = {
    "vit": {"model_type": "vit", "image_size": 224, "patch_size": 16},
    "conv_stack": {"image_size": (96, 48), "patch_size": 16},
}
# Class with the projection, and its attribute.
_PROJECTIONS = {
    "clip_vision_model": ("CLIPVisionModelWithProjection", "visual_projection"),
    "clip_text_model": ("CLIPTextModelWithProjection", "text_projection"),
}
_TOWER = {IMAGE_KEY: "visual_encoder", TEXT_KEY: "text_encoder"}
_PART = {IMAGE_KEY: "vision_config", TEXT_KEY: "text_config"}


def build_image_encoder(source: Source) -> PreTrainedModel:
    """Builds the image encoder without a pooler; `backbones.token_reader` finds how its tokens are read.

    Args:
        source: a folder, a hub id, ``torchreid:NAME``, ``timm:NAME``, or a configuration for random weights.

    Raises:
        EncoderError: when the files are missing, or weights do not fit; the message says where they belong.
        ConfigError: for an inline configuration with unknown keys.
    """
    return _build(source, IMAGE_KEY)


def build_text_encoder(source: Source, vocab_size: int | None = None) -> PreTrainedModel:
    """Builds the text encoder without a pooler; an inline configuration gets ``vocab_size`` embeddings.

    Raises:
        EncoderError: when the files are missing, or weights do not fit; the message says where they belong.
        ConfigError: for an inline configuration with unknown keys.
    """
    if isinstance(source, Mapping) and vocab_size is not None:
        source = {**source, "vocab_size": vocab_size}
    return _build(source, TEXT_KEY)


def build_projection(source: Source, encoder: PreTrainedModel, key: str) -> nn.Linear:
    """CLIP's projection of an encoder's tokens to the space of images and texts, ``[…, D]`` to ``[…, d]``.

    Args:
        source: of the encoder; the weights are random where the encoder's are.
        encoder: from ``source``.
        key: ``IMAGE_KEY`` or ``TEXT_KEY``.

    Raises:
        ConfigError: for another encoder than one of CLIP's.
    """
    import transformers
    from torch import nn

    from t2ireid_plugin.modeling.foreign import from_openai

    config: Any = encoder.config
    if config.model_type not in _PROJECTIONS:
        raise ConfigError(f"{key}: model.projection encoder needs CLIP's encoder, not {config.model_type}")
    projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
    if archive := archive_path(source):
        name = "image_adapter" if key == IMAGE_KEY else "text_adapter"
        projection.load_state_dict({"weight": from_openai(read_archive(archive))[f"{name}.weight"]})
    if archive or not isinstance(source, str):
        return projection
    class_name, attribute = _PROJECTIONS[config.model_type]
    load = functools.partial(getattr(transformers, class_name).from_pretrained, config=config)
    with quiet_loading():
        projection = getattr(_load(load, source, key), attribute)
    return projection.float()


def build_tokenizer(source: str, vocab_size: int) -> PreTrainedTokenizerBase:
    """Loads the tokenizer beside a pretrained text encoder and compares it with the ``vocab_size`` of its embeddings.

    Raises:
        EncoderError: when it is missing or its vocabulary is not the encoder's. For a folder without a vocabulary
            Hugging Face returns an almost empty tokenizer; here that is an error.
    """
    from transformers import AutoTokenizer

    archive = archive_path(source)
    tokenizer = archive_tokenizer(archive) if archive else _load(AutoTokenizer.from_pretrained, source, TEXT_KEY)
    # Embedding tables are sometimes padded to a round size, so up to 1 % may be unused.
    if not 0.99 * vocab_size <= len(tokenizer) <= vocab_size:
        raise EncoderError(
            f"{TEXT_KEY}: the tokenizer in '{source}' has {len(tokenizer)} tokens but the text encoder has "
            f"{vocab_size}; put the encoder's own vocab.txt or tokenizer.json into that folder"
        )
    return tokenizer


def check_source(source: Source, key: str) -> None:
    """Checks early, without loading anything, that an encoder is available.

    Raises:
        EncoderError: when it is neither a folder nor cached and cannot be downloaded; when a file of the folder is
            missing, or is a git-lfs pointer or a web page.
    """
    if not isinstance(source, str):
        return
    if model := library_model(source):
        check_library_model(*model)
    elif archive := archive_path(source):
        if not archive.is_file():
            raise EncoderError(f"{key}: no file '{source}'; it should be OpenAI's archive of CLIP, such as ViT-B-16.pt")
    elif folder := find_folder(source):
        _check_folder(folder, key)
    elif source in TORCHREID_MODELS:
        raise EncoderError(f"{key}: '{source}' is neither a folder nor a hub id; did you mean 'torchreid:{source}'?")
    elif not find_file(source, "config.json") and (_looks_like_path(source) or not _hub_reachable()):
        raise _missing(source, key)


def _check_folder(folder: Path, key: str) -> None:
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    names = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt") if key == TEXT_KEY else ()
    texts = [folder / name for name in names if (folder / name).exists()]
    for file in [folder / "config.json", *(weights or [folder / "model.safetensors"]), *texts]:
        try:
            problem = wrong_content(file)
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
        if problem:
            raise EncoderError(f"{key}: '{file}' {problem}")


def read_json(file: Path, key: str) -> dict[str, Any]:
    """Reads a JSON object from an encoder's file.

    Raises:
        EncoderError: for anything else.
    """
    try:
        content = parse_json(read_bytes(file, MAX_CONFIG_BYTES))
    except (OSError, ValueError) as error:
        raise EncoderError(f"{key}: cannot read '{file}' as JSON: {error}") from error
    if not isinstance(content, dict):
        raise EncoderError(f"{key}: '{file}' must contain a JSON object, not {short_repr(content)}")
    return content


def stored_config(source: str | Mapping[str, Any], key: str) -> SimpleNamespace | None:
    """As `encoder_config`, without transformers and its defaults; None where only a library has it.

    Raises:
        EncoderError: for a file that is not a JSON object.
        ConfigError: as `check_shape`.
    """
    config: Any = source
    if library_model(source) or archive_path(source):
        return None  # only the library, or the archive, knows
    if isinstance(source, str):
        if (file := find_file(source, "config.json", download=True)) is None:
            return None
        config = read_json(file, key)
    part = config.get(_PART[key])
    config = part if isinstance(part, Mapping) else config
    if key == IMAGE_KEY:
        config = {**_SIZES.get(str(config.get("model_type", "vit")), {}), **config}
    check_shape(settings := SimpleNamespace(**config), key)
    return settings


def encoder_config(source: Source, key: str) -> PretrainedConfig:
    """The configuration of an encoder, of a two-tower model only the tower's; weights are not read.

    Args:
        source: as for `build_image_encoder`.
        key: ``IMAGE_KEY`` or ``TEXT_KEY``, which selects the tower and is named in messages.

    Raises:
        EncoderError: when the files are missing.
        ConfigError: for an inline configuration with unknown keys.
    """
    from transformers import PretrainedConfig

    if isinstance(source, PretrainedConfig):
        config = source
    elif archive := archive_path(source):
        config = archive_config(archive, key == IMAGE_KEY)
    elif model := library_model(source):
        check_library_model(*model)
        config = config_from_dict({"model_type": model[0], "architecture": model[1]}, key)
    elif isinstance(source, Mapping):
        default = config_from_dict({"model_type": source.get("model_type", _DEFAULT_TYPE[key])}, key)
        check_keys(f"{key}: {default.model_type}", source, sorted(default.to_dict()))
        config = config_from_dict(source, key)
    else:
        config = _load(_auto_config().from_pretrained, source, key)
    part = getattr(config, _PART[key], config)
    if part is not config and hasattr(config, "projection_dim"):  # the towers have a default of their own
        part.projection_dim = config.projection_dim
    check_shape(part, key)
    return part


def _auto_config() -> Any:
    """transformers' table of configurations, to which our own models add themselves when they are imported."""
    from transformers import AutoConfig

    import t2ireid_plugin.modeling.encoders.conv_stack
    import t2ireid_plugin.modeling.encoders.libraries  # noqa: F401 - imported for its registration

    return AutoConfig


def config_from_dict(settings: Mapping[str, Any] | PretrainedConfig, key: str, name: str = "") -> PretrainedConfig:
    """An encoder's configuration object from its ``to_dict``, perhaps by another version of transformers.

    Args:
        settings: with ``model_type``; an object is returned as it is.
        key: ``IMAGE_KEY`` or ``TEXT_KEY``.
        name: for messages; ``key`` by default.

    Raises:
        ConfigError: for an unknown family, or values that it refuses.
    """
    from transformers import PretrainedConfig

    if isinstance(settings, PretrainedConfig):
        return settings
    name, settings = name or key, dict(settings)
    model_type = str(settings.pop("model_type", _DEFAULT_TYPE[key]))
    # transformers 4 lists SigLIP only as a whole, not its towers.
    family = model_type.removesuffix("_text_model").removesuffix("_vision_model")
    for known in (model_type, family):
        try:
            default = _auto_config().for_model(known)
        except ValueError:
            continue
        try:
            return type(getattr(default, _PART[key], default))(**settings)
        except Exception as error:  # TypeError, ValueError, or an error of huggingface_hub's, by version
            raise ConfigError(f"{name}: {' '.join(str(error).split())}") from error
    raise ConfigError(f"{name}: unknown model_type '{model_type}'")


def _build(source: Source, key: str) -> PreTrainedModel:
    check_source(source, key)
    config = encoder_config(source, key)
    model_class = tower_class(config)
    fits = token_reader(config) is not None if key == IMAGE_KEY else hasattr(config, "vocab_size")
    if model_class is None or not fits:
        name = f"'{source}'" if isinstance(source, str) else "the configuration"
        raise EncoderError(f"{key}: {name} is a {config.model_type} model, which cannot encode {_KIND[key]}s")
    if hasattr(config, "patch_stride"):
        from t2ireid_plugin.modeling.encoders.grid import grid_encoder  # needs PyTorch

        return grid_encoder(model_class, config)
    options = without_pooler(model_class, config)
    if library_model(source):
        return model_class(config, pretrained=True)
    if archive := archive_path(source):
        return _from_archive(model_class(config, **options), archive, key)
    if not isinstance(source, str):
        try:
            return drop_head(model_class(config, **options))
        except T2IReIDError:
            raise
        except Exception as error:  # the layers of each family refuse values in their own way
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise ConfigError(f"{key}: no {config.model_type} can be built with these settings ({reason})") from error
    options.update(config=config, output_loading_info=True, ignore_mismatched_sizes=True)
    with quiet_loading():
        model, info = _load(functools.partial(model_class.from_pretrained, **options), source, key)
    _check_weights(model, info, f"{key}: the weights in '{source}'")
    return drop_head(model.float())  # some weights are stored in half precision; training needs float32


def _from_archive(encoder: PreTrainedModel, archive: Path, key: str) -> PreTrainedModel:
    """Copies a tower's weights from OpenAI's archive."""
    from torch import nn

    from t2ireid_plugin.modeling.checkpoint import copy_state_dict
    from t2ireid_plugin.modeling.foreign import from_openai

    tower = nn.ModuleDict({_TOWER[key]: encoder})
    state = from_openai(read_archive(archive))
    own = {name: tensor for name, tensor in state.items() if name.startswith(f"{_TOWER[key]}.")}
    copy_state_dict(own, tower, archive).require_complete(archive)
    return encoder


def _check_weights(model: PreTrainedModel, info: Mapping[str, Any], weights: str) -> None:
    """Refuses weights of another architecture than the configuration's; warns of blocks that are left out."""
    other_size = [name if isinstance(name, str) else name[0] for name in info["mismatched_keys"]]
    for names, what in ((info["missing_keys"], "lack"), (other_size, "have other sizes in")):
        if names:
            raise EncoderError(
                f"{weights} {what} {len(names)} of the encoder's parameters ({', '.join(sorted(names)[:5])}, …); they "
                "belong to another architecture than the one in config.json"
            )
    kinds = {re.sub(r"\d+", "", name) for name in model.state_dict()}
    unused = sorted(name for name in info["unexpected_keys"] if re.sub(r"\d+", "", name) in kinds)
    if unused:
        logger.warning("%s have more blocks than config.json, which are left out: %s, …", weights, unused[0])


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Silences transformers' progress and report of loaded weights; callers say what matters of it."""
    from transformers.utils import logging as transformers_logging

    before, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    if bars:
        transformers_logging.disable_progress_bar()
        enable_progress_bars()  # those of downloads
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
        if bars:
            transformers_logging.enable_progress_bar()


def _load(load: Callable[..., T], source: str, key: str) -> T:
    """Loads from a folder or the cache, else from the hub if it is reachable."""
    local = find_folder(source)
    if not local and _looks_like_path(source):
        raise _missing(source, key)
    local_only = bool(local) or not _hub_reachable()
    try:
        # Without the first argument the library asks on the console for permission to run a folder's Python files.
        return load(str(local or source), trust_remote_code=False, local_files_only=local_only)
    except Exception as error:  # damaged files raise anything: SafetensorError, KeyError, RuntimeError, bare Exception
        if local_only and not local:
            raise _missing(source, key) from error
        raise EncoderError(f"{key}: '{source}' cannot be loaded: {first_line(error)}") from error


def _missing(source: str, key: str) -> EncoderError:
    if _looks_like_path(source):
        return EncoderError(
            f"{key}: no folder '{source}'; it should hold config.json, model.safetensors and, for text, vocab.txt or "
            "tokenizer.json"
        )
    return EncoderError(
        f"{key}: '{source}' is not a folder, not in the Hugging Face cache, and the hub is not reachable from here; "
        f"on a machine with network access run `hf download {source} --local-dir DIR`, copy DIR here and set "
        f"model.{key} DIR, or name a mirror in HF_ENDPOINT"
    )


def _looks_like_path(source: str) -> bool:
    """True for everything but a valid hub id, which is ``name`` or ``owner/name``."""
    try:
        validate_repo_id(source)
    except HFValidationError:
        return True
    return False


def find_folder(source: str) -> Path | None:
    """The folder that ``source`` names, with ``~`` expanded; None if there is none."""
    folder = Path(os.path.expanduser(source))  # unlike Path.expanduser, it leaves unknown users alone
    return folder if source and folder.is_dir() else None


def find_file(source: str, name: str, download: bool = False) -> Path | None:
    """A file of a folder or hub id, from the cache or with ``download`` from the hub; None if it is not there."""
    if folder := find_folder(source):
        return folder / name if (folder / name).is_file() else None
    if _looks_like_path(source):
        return None
    cached = try_to_load_from_cache(source, name)  # unlike the other function it makes no connection
    if isinstance(cached, str) or not (download and _hub_reachable()):
        return Path(cached) if isinstance(cached, str) else None
    try:
        return Path(hf_hub_download(source, name))
    except (OSError, ValueError):  # no such file, or no connection
        return None


def download(source: str, patterns: Sequence[str]) -> Path:
    """The folder of a model on the hub with its files of these patterns; without a connection, from the cache.

    Raises:
        CheckpointError: when there is none.
    """
    reachable = _hub_reachable()
    try:
        return Path(snapshot_download(source, allow_patterns=list(patterns), local_files_only=not reachable))
    except Exception as error:  # of many types, by version of the library
        reason = (
            first_line(error) if reachable else "the hub is not reachable from here, and the cache does not have it"
        )
        raise CheckpointError(
            f"no model: '{source}' is not a file or folder here, nor a model on the Hugging Face hub ({reason}); name "
            "a run, a checkpoint, an exported folder or a hub id"
        ) from error


@functools.cache
def _hub_reachable(timeout: float = 3.0) -> bool:
    """Probes the hub once, which saves the minutes that its client retries; False in offline mode."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=timeout)
    except urllib.error.HTTPError:  # a refusal is an answer
        return True
    except OSError as error:
        logger.debug("%s: %s", constants.ENDPOINT, error)
        return False
    return True
