"""Tokenizer and preprocessing files of a Hugging Face model folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import cached_file

from t2ireid_plugin.errors import EncoderError
from t2ireid_plugin.modeling.encoders.preprocess import Preprocess, checked_preprocess
from t2ireid_plugin.modeling.encoders.tokenizer import tokenizer_from_json, tokenizer_to_json
from t2ireid_plugin.utils.safe_io import MAX_CONFIG_BYTES, parse_json, read_bytes
from t2ireid_plugin.utils.text import first_line

CONFIG_FILE, WEIGHTS_FILE, PREPROCESS_FILE = "config.json", "model.safetensors", "preprocessor_config.json"
TOKENIZER_FILE, TOKENIZER_SETTINGS = "tokenizer.json", "tokenizer_config.json"


def file_name(source: str | Path | None, file: str) -> str:
    """The path of ``file`` in a folder or hub id, quoted for error messages."""
    return f"'{Path(source or '') / file}'"


def read_tokenizer(source: str | Path, hub: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a model.

    Args:
        source: a folder or hub id.
        hub: options of `from_pretrained`, such as ``revision``.

    Raises:
        EncoderError: when it is missing or damaged.
    """
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False, **hub)
    except Exception as error:  # transformers raises many types for missing and damaged files
        reason = first_line(error)
        raise EncoderError(f"{file_name(source, TOKENIZER_FILE)}: cannot load the tokenizer: {reason}") from error


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, max_length: int) -> None:
    """Writes a tokenizer as a generic fast tokenizer, which all versions of transformers load in the same way.

    Args:
        tokenizer: a slow SentencePiece tokenizer is written as it is.
        folder: the model's folder.
        max_length: tokens after which texts are truncated.
    """
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        tokenizer.save_pretrained(folder)
        return
    generic = tokenizer_from_json(tokenizer_to_json(tokenizer))
    generic.model_max_length = max_length
    generic.save_pretrained(folder)
    # transformers 5 writes a class name that 4 does not know; both know this one.
    settings = json.loads((folder / TOKENIZER_SETTINGS).read_text(encoding="utf-8"))
    _write_json({**settings, "tokenizer_class": "PreTrainedTokenizerFast"}, folder / TOKENIZER_SETTINGS)


def read_preprocess(source: str | Path, hub: Mapping[str, Any]) -> Preprocess:
    """Loads image size and normalisation from a model's image processor; for the arguments see `read_tokenizer`.

    Raises:
        EncoderError: when the file is missing or incomplete.
    """
    try:
        file = cached_file(str(source), PREPROCESS_FILE, **hub)
        settings = parse_json(read_bytes(file, MAX_CONFIG_BYTES))
        size, where = settings["size"], file_name(source, PREPROCESS_FILE)
        return checked_preprocess(size["height"], size["width"], settings["image_mean"], settings["image_std"], where)
    except EncoderError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderError(
            f"{file_name(source, PREPROCESS_FILE)} must hold size {{height, width}}, image_mean and image_std: {error}"
        ) from error


def write_preprocess(preprocess: Preprocess, folder: Path) -> None:
    """Writes image size and normalisation as the settings of a ``ViTImageProcessor``."""
    settings = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": preprocess.height, "width": preprocess.width},
        "resample": 2,  # antialiased bilinear; the processor does not offer area averaging
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
    _write_json(settings, folder / PREPROCESS_FILE)


def _write_json(content: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
