"""From ``data.text_feature_cache`` to a model that remembers what its frozen text encoder made of training texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from t2ireid_plugin.data.item_table import CAPTION, CLOTH_TEXT, ID_TEXT, Item
from t2ireid_plugin.data.transforms import swap_sides
from t2ireid_plugin.engine.text_features import TextFeatures, default_folder
from t2ireid_plugin.errors import ConfigError, check_choice
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel

CACHES = ("off", "memory", "disk")
_COLUMNS = {"caption": CAPTION, "identity": ID_TEXT, "clothing": CLOTH_TEXT}
_RANDOM_WORDS = ("drop_words", "mask_words")


def check_text_cache(cfg: CfgNode) -> None:
    """Refuses what cannot be remembered.

    Raises:
        ConfigError: for an unknown choice, an encoder that is trained, texts that are others every time, or no room.
    """
    data = cfg.data
    check_choice("data.text_feature_cache", data.text_feature_cache, CACHES)
    if data.text_feature_cache == "off":
        return
    if not data.text_feature_cache_gb > 0:
        raise ConfigError(f"data.text_feature_cache_gb: {data.text_feature_cache_gb} must be above 0")
    if not cfg.model.freeze_text:
        raise ConfigError(
            f"data.text_feature_cache: '{data.text_feature_cache}' needs model.freeze_text True; the features of an "
            "encoder that is trained change every step"
        )
    for name in _RANDOM_WORDS:
        if name in data.transforms:
            raise ConfigError(
                f"data.text_feature_cache: '{data.text_feature_cache}' remembers nothing of texts that {name} of "
                "data.transforms changes every time; set it to off, or leave that transform out"
            )


def remember_texts(cfg: CfgNode, model: T2IReIDModel, items: Sequence[Item], show: bool = True) -> None:
    """Before training: gives ``model`` what ``data.text_feature_cache`` asks for; ``disk`` is filled here and now.

    Args:
        cfg: checked by `check_text_cache`.
        model: on its device.
        items: of the training set.
        show: a progress bar.

    Raises:
        DataError: when the file of features cannot be written.
    """
    data = cfg.data
    if data.text_feature_cache == "off":
        return
    limit = int(1e9 * data.text_feature_cache_gb)
    if data.text_feature_cache == "memory":
        model.text_features = TextFeatures(limit)
        return
    folder = Path(data.text_feature_cache_dir) if data.text_feature_cache_dir else default_folder()
    features = TextFeatures(limit, folder)
    texts = list(dict.fromkeys(_spoken(cfg, items)))
    cache: Any = model.text_cache
    features.fill(model.text_encoder, cache.ids(texts), cache.pad, show)
    features.park(model.text_encoder)
    model.text_features = features


def _spoken(cfg: CfgNode, items: Sequence[Item]) -> Iterator[str]:
    """What the model reads in training; mirrored photos exchange left and right."""
    columns = [_COLUMNS[cfg.data.id_instruction], _COLUMNS[cfg.data.cloth_instruction]]
    for item in items:
        for column in columns:
            text = str(item[column])
            yield text
            if "random_flip" in cfg.data.transforms:
                yield swap_sides(text)
