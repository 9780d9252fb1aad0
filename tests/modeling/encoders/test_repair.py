"""Repair of texts for CLIP; tests/parity/test_irra.py compares tokens with those of IRRA's code."""

import html

import ftfy
from hypothesis import given
from hypothesis import strategies as st

from t2ireid_plugin.modeling.encoders.repair import repair_text


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="&")))
def test_texts_that_are_passed_on_need_no_repair(text):
    assert repair_text(text) == text == html.unescape(html.unescape(ftfy.fix_text(text)))
