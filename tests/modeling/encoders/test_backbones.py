"""Convolutional and hierarchical backbones: tokens against the library's own forward pass, in any model."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torchreid import models as torchreid_models
from torchreid import utils as torchreid_utils
from transformers import AutoConfig, AutoModel

from t2ireid_plugin.errors import ConfigError, EncoderError, InputError
from t2ireid_plugin.modeling.encoders.backbones import image_reader, image_tokens, num_prefix_tokens
from t2ireid_plugin.modeling.encoders.loading import build_image_encoder, check_source
from t2ireid_plugin.modeling.encoders.preprocess import image_preprocess
from t2ireid_plugin.modeling.encoders.sources import TORCHREID_MODELS

LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "hidden_size": 32}
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [4, 8, 12, 16]}
CONFIGS = {
    "resnet": {**STAGES, "embedding_size": 4, "layer_type": "basic"},
    "convnext": STAGES,
    "convnextv2": STAGES,
    "swin": {"embed_dim": 4, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2},
    "swinv2": {"embed_dim": 4, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2},
    "beit": {**LAYERS, "image_size": 64, "patch_size": 16, "use_relative_position_bias": True},
    "deit": {**LAYERS, "image_size": 64, "patch_size": 16},
}
SIZES = [(64, 64), (128, 64), (96, 160)]


def pixels(height, width):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height))


@pytest.mark.parametrize("family", CONFIGS)
def test_tokens_are_those_of_transformers(family, make, tmp_path):
    whole = make.stir(AutoModel.from_config(AutoConfig.for_model(family, **CONFIGS[family]))).eval()
    whole.save_pretrained(tmp_path)
    encoder = build_image_encoder(str(tmp_path)).eval()
    for height, width in SIZES:
        images = pixels(height, width)
        flat = family in ("beit", "deit")
        with torch.no_grad():
            expected = whole(images, **({"interpolate_pos_encoding": True} if flat else {})).last_hidden_state
            tokens, grid = image_tokens(encoder, images)
        if expected.dim() == 4:
            assert grid == tuple(expected.shape[2:])
            expected = torch.stack([expected[:, :, y, x] for y in range(grid[0]) for x in range(grid[1])], dim=1)
        if family.startswith("convnext"):  # the norm of the pooler, at each place
            norm = whole.layernorm
            expected = F.layer_norm(expected, (16,), norm.weight, norm.bias, norm.eps)
        torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-6)
        assert grid == ((height // 16, width // 16) if flat else (height // 32, width // 32))
        assert (
            tokens.shape[1] - grid[0] * grid[1] == num_prefix_tokens(encoder) == {"beit": 1, "deit": 2}.get(family, 0)
        )
        assert tokens.shape[2] == image_reader(encoder.config).width


def test_sizes_that_cannot_be_read():
    swin = build_image_encoder({"model_type": "swin", **CONFIGS["swin"], "window_size": 7})
    with pytest.raises(InputError, match=r"256 x 128 pixels .* 7 x 7 windows of swin; each side must have .* 192"):
        image_tokens(swin, pixels(256, 128))
    with pytest.raises(InputError, match=r"16 x 64 pixels .* too small for resnet; each side must have at least 32"):
        image_tokens(build_image_encoder({"model_type": "resnet", **CONFIGS["resnet"]}), pixels(16, 64))


@pytest.mark.parametrize("name", ["resnet18", "osnet_x0_25", "osnet_ain_x0_25", "mobilenetv2_x1_0"])
def test_torchreids_weights_give_torchreids_features(name, make, tmp_path):
    """Its pooled features are the mean of ours."""
    stock = make.stir(torchreid_models.build_model(name, num_classes=5, pretrained=False, use_gpu=False)).eval()
    torch.save(stock.state_dict(), tmp_path / "weights.pth")
    encoder = build_image_encoder({"model_type": "torchreid", "architecture": name}).eval()
    torchreid_utils.load_pretrained_weights(encoder.network, str(tmp_path / "weights.pth"))
    images = pixels(64, 32)
    with torch.no_grad():
        tokens, grid = image_tokens(encoder, images)
        maps = stock.featuremaps(images)
    assert grid == tuple(maps.shape[2:])
    torch.testing.assert_close(tokens, maps.flatten(2).transpose(1, 2), rtol=0, atol=1e-6)
    assert encoder.config.hidden_size == tokens.shape[2] == image_reader(encoder.config).width
    assert not [n for n, _ in encoder.named_parameters() if ".fc." in n or "classifier" in n]


@pytest.mark.slow
def test_listed_models_of_torchreids_have_a_feature_map():
    """On the meta device, without computing anything."""
    for name in TORCHREID_MODELS[::16]:
        with torch.device("meta"):
            encoder = build_image_encoder({"model_type": "torchreid", "architecture": name}).eval()
            tokens, (rows, columns) = image_tokens(encoder, torch.zeros(1, 3, 128, 64))
        assert tokens.shape == (1, rows * columns, encoder.config.hidden_size), name


def test_torchreids_pretrained_weights_are_loaded(tmp_path, monkeypatch, make):
    """From the place where torchreid keeps them; a model without any is refused, as it would stay random."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    stock = make.stir(torchreid_models.build_model("osnet_x0_25", num_classes=1000, pretrained=False)).eval()
    (tmp_path / "checkpoints").mkdir()
    torch.save(stock.state_dict(), tmp_path / "checkpoints" / "osnet_x0_25_imagenet.pth")
    encoder = build_image_encoder("torchreid:osnet_x0_25").eval()
    with torch.no_grad():
        expected = stock.featuremaps(pixels(64, 32)).flatten(2).transpose(1, 2)
        torch.testing.assert_close(image_tokens(encoder, pixels(64, 32)).tokens, expected, rtol=0, atol=1e-6)
    assert image_preprocess("torchreid:osnet_x0_25", encoder.config)[:2] == (256, 128)
    with pytest.raises(EncoderError, match=r"torchreid cannot get its pretrained weights .*manually"):
        build_image_encoder("torchreid:mobilenetv2_x1_0")


@pytest.mark.parametrize(
    "name", ["resnet18", "test_convnext", "test_vit", "test_vit2", "deit_tiny_distilled_patch16_224"]
)
def test_timms_features(name, make):
    encoder = make.stir(build_image_encoder({"model_type": "timm", "architecture": name})).eval()
    stock = timm.create_model(name, num_classes=0, **({"dynamic_img_size": True} if "it" in name else {})).eval()
    stock.load_state_dict(encoder.network.state_dict())
    for size in ((64, 32), (96, 64)):
        with torch.no_grad():
            expected = stock.forward_features(pixels(*size))
            tokens, (rows, columns) = image_tokens(encoder, pixels(*size))
        if expected.dim() == 4:
            expected = expected.flatten(2).transpose(1, 2)
        if name == "test_vit2":  # a register, no class token
            expected = expected[:, 1:]
        torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-6)
        prefix = {"test_vit": 1, "deit_tiny_distilled_patch16_224": 2}.get(name, 0)
        assert tokens.shape == (2, prefix + rows * columns, image_reader(encoder.config).width)
        assert num_prefix_tokens(encoder) == prefix


def test_swin_of_timm_is_channels_last():
    encoder = build_image_encoder({"model_type": "timm", "architecture": "swinv2_cr_tiny_ns_224"}).eval()
    assert image_reader(encoder.config).width == encoder.network.num_features


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("torchreid:osnet", ConfigError, "torchreid: unknown 'osnet'; valid: resnet18, .*osnet_x1_0"),
        ("osnet_x1_0", EncoderError, "did you mean 'torchreid:osnet_x1_0'"),
        ({"model_type": "timm", "architecture": "resnet51"}, ConfigError, "timm: unknown 'resnet51'; valid: .*resnet"),
        ({"model_type": "timm", "architecture": "mixer_s32_224"}, ConfigError, "mixer_s32_224 returns neither"),
        ({"model_type": "bert", **LAYERS}, EncoderError, "is a bert model, which cannot encode images"),
    ],
)
def test_unknown_backbones_are_refused(source, error, message):
    with pytest.raises(error, match=message):
        build_image_encoder(source)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EncoderError, match=r"timm:resnet18 needs the package timm: pip install timm"):
        check_source("timm:resnet18", "vit_pretrained")


@pytest.mark.parametrize(
    ("source", "adapter"),
    [
        ({"model_type": "torchreid", "architecture": "osnet_x0_25"}, None),
        ({"model_type": "timm", "architecture": "test_efficientnet"}, None),
        ({"model_type": "resnet", **STAGES, "hidden_sizes": [4, 8, 12, 516], "embedding_size": 4}, (516, 512)),
    ],
)
def test_the_text_image_model_with_a_feature_map(source, adapter, make, captions, tmp_path):
    model = make.model(vit_pretrained=source).train()
    assert (None if model.image_adapter is None else tuple(model.image_adapter.weight.shape[::-1])) == adapter
    out = model(pixels(64, 32).repeat(2, 1, 1, 1), captions[:4], captions[4:8])
    (out.fused_embeds.sum() + out.id_logits.sum() + (out.cloth_image_embeds * out.cloth_text_embeds).sum()).backward()
    assert all(p.grad is not None for p in model.visual_encoder.parameters())
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth")
    again = make.model(seed=1, vit_pretrained=source).load_param(tmp_path / "weights.pth")
    assert again.load_report.missing == again.load_report.unexpected == []
    with torch.no_grad():
        assert torch.equal(again.encode_image(pixels(64, 32)), model.eval().encode_image(pixels(64, 32)))
