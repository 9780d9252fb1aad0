"""`DisentangleHead` alone, and plain baselines in the text-image model."""

import pytest
import torch
import torch.nn.functional as F

from t2ireid_plugin.errors import ConfigError, InputError
from t2ireid_plugin.modeling.head import DisentangleHead

MAP = torch.randn(4, 24, 4, 2, generator=torch.Generator().manual_seed(0))


def build(make, **options):
    torch.manual_seed(0)
    return make.stir(DisentangleHead(24, 7, **options))


@pytest.mark.parametrize("branch", ["identity", "clothing", "both", "fused"])
def test_outputs_follow_from_the_parts(make, branch, naive):
    head = build(make, branch=branch).eval()
    with torch.no_grad():
        tokens = torch.stack([MAP[:, :, y, x] for y in range(4) for x in range(2)], dim=1)
        out = head(MAP)
        for given in (head(tokens, (4, 2)), head(tokens)):
            torch.testing.assert_close(given.embeds, out.embeds)
        identity, clothing, gate = head.disentangle(tokens)
        parts = [head.image_mlp(head.shared_mlp(part)) for part in (identity, clothing)]
        units = [part / part.norm(dim=1, keepdim=True) for part in parts]
        features = {"identity": parts[0], "clothing": parts[1], "both": torch.cat(parts, dim=1)}
        if branch == "fused":
            state = {name: value.double() for name, value in head.fusion.state_dict().items()}
            features["fused"] = naive.fusion(state, *(unit.double() for unit in units))[0].float()
        torch.testing.assert_close(out.features, features[branch], rtol=1e-4, atol=1e-4)
        embeds = torch.cat(units, dim=1) / 2**0.5 if branch == "both" else F.normalize(features[branch], dim=1)
        torch.testing.assert_close(out.embeds, embeds, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(out.logits, out.features @ head.classifier.weight.T + head.classifier.bias)
        torch.testing.assert_close(out.gate, gate)
    assert (out.id_embeds is None, out.cloth_embeds is None) == (branch == "clothing", branch == "identity")
    assert out.embeds.shape == (4, head.feature_dim)


@pytest.mark.parametrize("fusion", ["enhanced_mamba", "gated_mamba"])
def test_the_fused_branch_trains_every_module(make, fusion):
    """The scan of one token leaves ``A_log`` without a gradient, and the first fusion's gate does not act."""
    head = build(make, branch="fused", fusion={"type": fusion}).train()
    F.cross_entropy(head(MAP).logits, torch.arange(4)).backward()
    without = {name for name, p in head.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    idle = ("A_log", "fusion.gate") if fusion == "enhanced_mamba" else ("A_log", "in_proj_bias", "in_proj_weight")
    assert all(any(part in name for part in idle) for name in without), without


def test_widths(make):
    assert build(make).image_adapter is None
    assert DisentangleHead(2048).image_adapter.out_features == 512
    assert DisentangleHead(1024, feature_map=False).image_adapter is None
    head = build(make, disentangle={"dim": 8})
    assert (head.disentangle.id_linear.in_features, head(MAP).gate.shape) == (8, (4, 8))


def test_plain_baselines(make):
    """The class token where there is one, else the mean; no more than that with ``projection none``."""
    plain = build(make, disentangle={"type": "none"}, projection="none").eval()
    tokens = torch.randn(4, 9, 24)
    torch.testing.assert_close(plain(MAP).features, MAP.mean(dim=(2, 3)))
    torch.testing.assert_close(plain(tokens, (4, 2)).features, tokens[:, 0])
    torch.testing.assert_close(plain(tokens).embeds.norm(dim=1), torch.ones(4))
    assert [name for name, _ in plain.named_parameters()] == ["classifier.weight", "classifier.bias"]
    projected = build(make, disentangle={"type": "none"}).eval()
    assert projected(MAP).embeds.shape == (4, 256)
    assert projected(MAP).gate is projected(MAP).cloth_embeds is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"branch": "face"}, "branch: unknown 'face'; valid: identity, clothing, both, fused"),
        ({"branch": "fused", "disentangle": {"type": "none"}}, "branch: fused needs disentangle.type attention"),
        ({"branch": "fused", "projection": "none"}, "branch: fused needs projection mlp"),
        ({"branch": "fused", "fusion": {"type": "residual"}}, "fusion.type: unknown 'residual'; valid: enhanced_mamba"),
        ({"projection": "linear"}, "projection: unknown 'linear'; valid: mlp, none"),
        ({"disentangle": {"type": "some"}}, "disentangle.type: unknown 'some'; valid: attention, none"),
        ({"disentangle": {"dim": 6}}, "disentangle.dim: 6 must be a multiple of 4"),
        ({"disentangle": {"type": "none", "pool": "attention"}}, "disentangle.pool: 'attention' has no effect"),
    ],
)
def test_combinations_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=message):
        DisentangleHead(24, 7, **options)


def test_features_of_another_shape():
    with pytest.raises(InputError, match=r"features must be \[B, C, H, W\] or \[B, L, D\], not \[4, 24\]"):
        DisentangleHead(24)(torch.zeros(4, 24))


@pytest.mark.parametrize("projection", ["mlp", "none"])
def test_the_text_image_model_without_disentangling(make, captions, tmp_path, projection):
    settings = {"disentangle": {"type": "none"}, "projection": projection, "fusion": {"type": "none"}}
    model, images = make.model(**settings), make.images(3)
    with torch.no_grad():
        out = model(images, id_instruction=captions[:3])
        token = model.visual_encoder(images).last_hidden_state[:, 0]
        mlp = torch.nn.Sequential(model.shared_mlp, model.image_mlp) if projection == "mlp" else torch.nn.Identity()
        torch.testing.assert_close(out.image_embeds, F.normalize(mlp(token), dim=1))
        torch.testing.assert_close(out.id_embeds, token)
        torch.testing.assert_close(model.encode_text(captions[:3]), out.id_text_embeds)
    assert out.id_text_embeds.shape == out.image_embeds.shape == (3, model.embed_dim)
    assert out.cloth_embeds is out.cloth_image_embeds is out.gate is out.fused_embeds is None
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth")
    with torch.no_grad():
        again = make.model(seed=1, **settings).load_param(tmp_path / "weights.pth")
        assert torch.equal(again.encode_image(images), model.encode_image(images))


def test_fusions_that_lack_their_parts(make):
    with pytest.raises(ConfigError, match=r"projection: none needs fusion.type none, as enhanced_mamba"):
        make.model(projection="none")
    with pytest.raises(ConfigError, match=r"fusion.type: residual fuses both branches"):
        make.model(disentangle={"type": "none"}, fusion={"type": "residual"})
