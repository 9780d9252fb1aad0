"""Engines of the tiny model on the drawn people, built as the job builds them."""

import pytest
from torchreid import utils as torchreid_utils

from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.engine.build import build_datamanager, build_engine, build_model, build_tokenizer
from t2ireid_plugin.engine.text_image import TextImageEngine


@pytest.fixture(scope="session")
def build(tiny_settings):
    """`build(train__lr=0.1, …)`: an engine, seeded by train.seed."""

    def make(**others) -> TextImageEngine:
        _, file, *words = tiny_settings("unused", full=True, **others)
        cfg = load_cfg(file, words)
        torchreid_utils.set_random_seed(cfg.train.seed)
        model = build_model(cfg, build_tokenizer(cfg), num_classes=24)
        return build_engine(cfg, build_datamanager(cfg, model.preprocess, use_gpu=False), model, use_gpu=False)

    return make
