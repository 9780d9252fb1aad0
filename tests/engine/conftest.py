"""Engines of the tiny model on the drawn people, built as a run builds them."""

import pytest

from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.engine.build import build_run
from t2ireid_plugin.engine.text_image import TextImageEngine


@pytest.fixture(scope="session")
def build(tiny_settings):
    """`build(full=False, train__lr=0.1, …)`: an engine, seeded by train.seed; `full` has every loss."""

    def make(full=False, **others) -> TextImageEngine:
        _, file, *words = tiny_settings("unused", full=full, **others)
        return build_run(load_cfg(file, words), None)

    return make
