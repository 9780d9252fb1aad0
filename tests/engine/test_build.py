"""What the builders say of a run before it starts."""

import logging

import pytest

from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.engine.build import build_run

CUT = "of captions are truncated to 8 tokens"


@pytest.fixture
def warnings_of(tiny_settings, caplog):
    """`warnings_of(**settings)`: logged while a run is built."""

    def build(**others):
        _, file, *words = tiny_settings("unused", **others)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "t2ireid_plugin"):
            build_run(load_cfg(file, words))
        return caplog.messages

    return build


def test_truncated_captions_are_reported_once(warnings_of):
    assert warnings_of() == []
    (message,) = warnings_of(model__max_length=8)
    assert message.startswith(f"100.00 % {CUT}")


def test_a_vocabulary_of_another_language_is_reported_once(warnings_of, chinese_bert):
    (message,) = warnings_of(model__bert_base_path=chinese_bert)
    assert "words that the tokenizer does not know as written: " in message
    assert message.count(" times)") == 3
