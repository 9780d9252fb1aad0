"""Runs with other backbones and plain baselines: trained, tested and exported; what lacks its parts is refused."""

import pytest
import torch
import yaml
from transformers import AutoModel

from t2ireid_plugin.cli import main
from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.engine.build import build_run
from t2ireid_plugin.engine.checks import check_config, check_recipe
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel
from t2ireid_plugin.probing.run import embed_photos
from t2ireid_plugin.visualization.attention import attention_maps

PLAIN = {"model__disentangle__type": "none", "model__fusion__type": "none", "data__id_instruction": "caption"}
SIZE = {"height": 32, "width": 32}
WORDS = {"num_hidden_layers": 0, "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 300}


@pytest.fixture
def words(synthetic, tmp_path):
    """`words(KEY=value)`: command line of a tiny run with torchreid's OSNet."""
    settings = {
        "use_gpu": False,
        "model": {
            "vit_config": {"model_type": "torchreid", "architecture": "osnet_x0_25"},
            "bert_config": WORDS,
            "freeze_text": False,
        },
        "data": {"root": str(synthetic.root), "workers": 0, "save_dir": str(tmp_path / "run"), **SIZE},
        "train": {"batch_size": 24, "max_epoch": 1},
        "loss": {"terms": {"info_nce": {"weight": 1.0}, "cls": {"weight": 1.0}}},
        "test": {"bootstrap": 0, "pictures": 0},
    }
    file = tmp_path / "osnet.yaml"
    file.write_text(yaml.safe_dump(settings))
    return lambda **others: [
        *("--config-file", str(file)),
        *(f"{name.replace('__', '.')}={value}" for name, value in others.items()),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {**PLAIN, "model__projection": "none"}], ids=["whole", "plain"])
def test_a_run_with_a_backbone_of_torchreids(words, tmp_path, settings):
    run, folder = tmp_path / "run", tmp_path / "export"
    assert main(["train", *words(**settings)]) == 0
    assert main(["test", str(run)]) == 0
    assert main(["export", str(run), str(folder)]) == 0
    model, images = T2IReIDModel.from_checkpoint(run / "best.pth"), torch.randn(2, 3, 32, 32)
    exported = AutoModel.from_pretrained(folder).eval()
    for encode, value in (("encode_gallery", images), ("encode_query", ["A man in a red coat.", "A woman."])):
        assert torch.equal(getattr(exported, encode)(value), getattr(model, encode)(value))
    assert (model.disentangle is None) == bool(settings)
    if settings:
        assert model.embed_dim == 128
        assert set(embed_photos(model, [{"img": images}])) == {"id_embeds", "image_embeds"}
        with pytest.raises(ConfigError, match=r"disentangle.type none has no attention to show"):
            attention_maps(model, images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__id_instruction": "identity"}, "data.id_instruction: identity ranks by both branches, .* caption"),
        ({"test__protocols": "[t2i, clothing]"}, "test.protocols: clothing reads a part that"),
        ({"test__protocols": "[t2i, ti2i]"}, "test.protocols: ti2i reads a part that"),
        ({"loss__terms__gate_regularization__weight": 1}, "loss.terms: gate_regularization read a part that"),
        ({"loss__terms__cloth_match__weight": 1}, "loss.terms: cloth_match read a part"),
        ({"loss__terms__fused_query__weight": 1}, "loss.terms: fused_query read a part .*model.fusion.type none"),
        ({"model__disentangle__pool": "attention"}, "disentangle.pool: 'attention' has no effect with type none"),
        ({"model__projection": "linear"}, "projection: unknown 'linear'; valid: mlp, none"),
        (
            {"model__projection": "none", "model__fusion__type": "gated_mamba"},
            "projection: none needs fusion.type none",
        ),
    ],
)
def test_what_a_plain_baseline_lacks_is_refused(words, changes, message):
    _, file, *settings = words(**{**PLAIN, **changes})
    cfg = load_cfg(file, settings)

    def check():
        check_config(cfg)
        check_recipe(cfg)

    with pytest.raises(ConfigError, match=message):
        check()


def test_layer_decay_needs_equal_blocks(words):
    _, file, *settings = words(train__layer_decay=0.5)
    with pytest.raises(ConfigError, match=r"train.layer_decay: 0.5 needs equal blocks, not torchreid"):
        build_run(load_cfg(file, settings))


def test_the_configuration_of_the_plain_baseline(repository):
    cfg = load_cfg(repository / "configs" / "t2i_vit_plain.yaml", [])
    check_config(cfg)
    check_recipe(cfg)
    assert {name for name, term in cfg.loss.terms.items() if term.weight > 0} == {"info_nce", "cls", "bio", "sdm"}
