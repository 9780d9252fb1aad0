"""The tokenizer of a text encoder that has none of its own."""

from __future__ import annotations

from fastreid.config import CfgNode
from transformers import PreTrainedTokenizerBase

from t2ireid_plugin.integrations.fastreid.loaders import build_sources
from t2ireid_plugin.modeling.checkpoint import read_vocabulary
from t2ireid_plugin.modeling.encoders.tokenizer import learn_wordpiece, tokenizer_from_json


def build_tokenizer(cfg: CfgNode) -> PreTrainedTokenizerBase | None:
    """The vocabulary stored beside ``MODEL.WEIGHTS``, else one learned from the captions of ``DATASETS.NAMES``.

    A pretrained text encoder brings its own, so None.
    """
    if cfg.T2IREID.BERT_BASE_PATH:
        return None
    stored = read_vocabulary(cfg.MODEL.WEIGHTS) if cfg.MODEL.WEIGHTS else None
    if stored is not None:
        return tokenizer_from_json(stored)
    texts = set().union(*(source.train.all_texts() for source in build_sources(cfg)))
    return learn_wordpiece(texts, cfg.T2IREID.BERT_CONFIG.get("vocab_size", 2000))
