"""Each configuration of images with texts, built on tiny towers; recipes with their data (test_recipes.py)."""

import pytest

from t2ireid_plugin.config import config_names, load_cfg, to_dict
from t2ireid_plugin.engine.build import build_model
from t2ireid_plugin.engine.checks import check_config, check_recipe
from t2ireid_plugin.losses import LossTerms
from t2ireid_plugin.losses.terms import read_weight
from t2ireid_plugin.modeling.encoders.tokenizer import learn_wordpiece

# Training on images alone: tests/integrations/torchreid; grids: tests/ablation; FastReID: tests/integrations/fastreid.
OTHERS = ("recipes/", "fastreid/", "ablation/", "market1501", "msmt17")


@pytest.mark.parametrize("name", [name for name in config_names() if not name.startswith(OTHERS)])
def test_a_configuration_is_checked_and_built(name, encoders, clip) -> None:
    towers = (clip, clip) if "clip" in name else (encoders.vit, encoders.bert)
    keys = ("vit_pretrained", "bert_base_path")
    paths = [f"model.{key}={path}" for key, path in zip(keys, towers) if load_cfg(name).model[key]]
    cfg = load_cfg(name, paths)
    check_config(cfg)
    check_recipe(cfg)
    model = build_model(cfg, None if paths else learn_wordpiece(["a red coat", "一件红色外套"]), num_classes=3)
    losses = LossTerms(to_dict(cfg.loss.terms), model.id_classifier.in_features, model.embed_dim, 3)
    assert set(losses.weights) == {term for term, own in cfg.loss.terms.items() if read_weight(term, own) > 0}
    assert model.visual_encoder.config.hidden_size == (128 if not paths else 32)
