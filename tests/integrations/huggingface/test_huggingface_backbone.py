"""AutoBackbone: feature maps of an exported model, alone and under a model of transformers that takes backbones."""

import pytest
import torch
from tiny_models import make
from transformers import AutoBackbone, UperNetConfig, UperNetForSemanticSegmentation

from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.integrations.huggingface import T2IReIDBackbone, T2IReIDConfig, T2IReIDForRetrieval

__all__ = ["make"]
SOURCES = {
    "vit": {"model_type": "vit", "image_size": 32, "patch_size": 16, "hidden_size": 32, "num_hidden_layers": 1},
    "osnet": {"model_type": "torchreid", "architecture": "osnet_x0_25"},
}
SOURCES["vit"] |= {"num_attention_heads": 2, "intermediate_size": 32}


def build(source, make):
    words = make.config()["tokenizer"]
    texts = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = T2IReIDConfig(source, {"model_type": "bert", "vocab_size": len(words), **texts}, num_classes=3)
    torch.manual_seed(0)
    return make.stir(T2IReIDForRetrieval(config, words)).eval()


@pytest.mark.parametrize("name", SOURCES)
def test_the_map_is_the_encoders_last_output(name, make, tmp_path):
    whole = build(SOURCES[name], make)
    whole.save_pretrained(tmp_path)
    backbone = T2IReIDBackbone.from_pretrained(tmp_path)
    empty = AutoBackbone.from_config(whole.config).eval()
    empty.load_state_dict(backbone.state_dict())
    images = make.images(2, 64, 32)
    with torch.no_grad():
        (feature_map,) = backbone(images).feature_maps
        if name == "vit":
            hidden = whole.model.visual_encoder(images, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
            expected = torch.stack([hidden[:, i] for i in range(8)], dim=2).view(2, 32, 4, 2)
        else:
            expected = whole.model.visual_encoder.network.featuremaps(images)
        assert torch.equal(empty(images).feature_maps[0], feature_map)
    torch.testing.assert_close(feature_map, expected, rtol=0, atol=1e-6)
    assert backbone.channels == [expected.shape[1]]
    assert (list(backbone.stage_names), list(backbone.out_features)) == (["last"], ["last"])
    with pytest.raises(ConfigError, match=r"out_features: \['stage1'\], out_indices: \[0\]; valid: \['last'\], \[0\]"):
        T2IReIDBackbone.from_pretrained(tmp_path, out_features=["stage1"])


def test_a_segmentation_model_takes_it(make):
    config = UperNetConfig(
        backbone_config=build(SOURCES["vit"], make).config, hidden_size=8, use_auxiliary_head=False, num_labels=3
    )
    model = UperNetForSemanticSegmentation(config)
    logits = model(make.images(2, 64, 32), labels=torch.zeros(2, 64, 32, dtype=torch.long))
    logits.loss.backward()
    assert logits.logits.shape == (2, 3, 64, 32)
    assert all(p.grad is not None for n, p in model.backbone.named_parameters() if "pooler" not in n)
