"""The image-only model, also against `T2IReIDModel`."""

import logging

import pytest
import torch
import torch.nn.functional as F

from t2ireid_plugin.errors import ConfigError, InputError
from t2ireid_plugin.integrations.torchreid.model import T2IReIDImageModel
from t2ireid_plugin.modeling.ranking import Ranking

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
TINY = {**SHAPE, "image_size": 32, "patch_size": 16}


@pytest.fixture
def build(make):
    def build(branch="identity", loss="softmax", num_classes=5, **options):
        torch.manual_seed(3)
        return make.stir(T2IReIDImageModel(num_classes, loss, branch=branch, **{"vit_pretrained": TINY, **options}))

    return build


@pytest.fixture
def trained(make, tmp_path):
    """A `T2IReIDModel` and its checkpoint."""
    model = make.model(seed=4)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "best.pth")
    return model, tmp_path / "best.pth"


@pytest.mark.parametrize("branch", ["identity", "clothing", "both"])
def test_embeddings_equal_those_of_the_text_image_model(build, trained, make, branch):
    whole, file = trained
    images = make.images(3)
    with torch.no_grad():
        embeds = build(branch).load_param(file).eval()(images)
        output = whole(images)
    identity, clothing = output.image_embeds, output.cloth_image_embeds
    expected = {"identity": identity, "clothing": clothing, "both": F.normalize(torch.cat([identity, clothing], 1))}
    torch.testing.assert_close(embeds, expected[branch])
    torch.testing.assert_close(embeds.norm(dim=1), torch.ones(3))


@pytest.fixture
def ranked_by_both(make, tmp_path):
    """A `T2IReIDModel` that ranks by both branches, and its checkpoint."""
    model = make.model(seed=4)
    model.ranking = Ranking("both", 0.3)
    torch.save({"state_dict": model.state_dict(), "ranking": model.ranking._asdict()}, tmp_path / "both.pth")
    return model, tmp_path / "both.pth"


def test_both_branches_weigh_as_in_the_checkpoints_ranking(build, ranked_by_both, make, caplog):
    """Their inner product is the checkpoint's score of two photos."""
    whole, file = ranked_by_both
    images = make.images(3)
    with torch.no_grad():
        model = build("both").load_param(file).eval()
        torch.testing.assert_close(model(images), whole.encode_gallery(images))
    assert "ranks by both branches" not in caplog.text


@pytest.mark.parametrize("branch", ["identity", "clothing"])
def test_one_branch_of_a_ranking_by_both_gives_a_warning(build, ranked_by_both, branch, caplog):
    with caplog.at_level(logging.WARNING):
        build(branch).load_param(ranked_by_both[1])
    (line,) = (record.getMessage() for record in caplog.records if "branches" in record.getMessage())
    assert line.endswith(f"ranks by both branches, this model by {branch} alone; use t2ireid_vit_mamba_both")


@pytest.mark.parametrize("size", [(32, 32), (48, 16)])
@pytest.mark.parametrize(
    "disentangle",
    [
        *({"tokens": tokens, "window": 3} for tokens in ("all", "cls", "mean", "max", "window")),
        {"pool": "stripes", "stripes": 2, "cross": "own"},
        {"pool": "attention", "cross": "none"},
    ],
)
def test_embeddings_are_equal_at_other_sizes_and_with_other_tokens(build, make, size, disentangle, tmp_path):
    options = {"disentangle": disentangle}
    whole = make.model(seed=4, **options)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    images = make.images(2, *size)
    with torch.no_grad():
        embeds = build(**options).load_param(tmp_path / "weights.pth").eval()(images)
        torch.testing.assert_close(embeds, whole.encode_image(images))


def test_weights_load_into_the_text_image_model(build, make, tmp_path):
    model = build(num_classes=7)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "model.pth.tar-3")
    whole = make.model(seed=5).load_param(tmp_path / "model.pth.tar-3")
    images = make.images(3)
    with torch.no_grad():
        torch.testing.assert_close(whole.encode_image(images), model.eval()(images))
    assert whole.load_report.unexpected == ["classifier.bias", "classifier.weight"]
    assert not whole.load_report.mismatched


def test_unused_weights_of_a_text_image_checkpoint_are_reported(build, trained, caplog):
    _, file = trained
    with caplog.at_level(logging.WARNING):
        report = build().load_param(file).load_report
    assert report.missing == ["classifier.bias", "classifier.weight"]
    outside = ("text_encoder.", "text_mlp.", "text_attn", "fusion.", "scale", "id_classifier.")
    assert report.unexpected
    assert all(name.startswith(outside) for name in report.unexpected)
    assert "unexpected" in caplog.text


@pytest.mark.parametrize("branch", ["identity", "clothing", "both"])
@pytest.mark.parametrize("loss", ["softmax", "triplet"])
def test_every_parameter_gets_a_gradient_from_every_loss(build, make, branch, loss):
    """Also the projection to the embedding with softmax alone."""
    model = build(branch, loss).train()
    out = model(make.images(4))
    logits, features = out if loss == "triplet" else (out, None)
    assert logits.shape == (4, 5)
    total = F.cross_entropy(logits, torch.arange(4))
    if features is not None:
        assert features.shape == (4, model.feature_dim)
        torch.testing.assert_close(features.norm(dim=1), torch.ones(4))
    total.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_the_triplet_loss_trains_all_but_the_classifier(build, make):
    model = build(loss="triplet").train()
    _, features = model(make.images(4))
    features[:, 0].sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == ["classifier.weight", "classifier.bias"]


def test_the_model_has_only_image_layers_and_no_parameter_outside_them(build):
    """torchreid's staged learning rates only reach parameters of layers."""
    model = build()
    names = {name for name, _ in model.named_children()}
    assert names == {"visual_encoder", "disentangle", "shared_mlp", "image_mlp", "classifier"}
    assert {id(p) for child in model.children() for p in child.parameters()} == {id(p) for p in model.parameters()}


def test_full_size_without_files(monkeypatch):
    """ViT-B/16 with random weights, without any access to the hub or its cache."""
    monkeypatch.setattr("t2ireid_plugin.modeling.encoders.loading._load", None)
    monkeypatch.setattr("t2ireid_plugin.modeling.encoders.loading.find_file", None)
    model = T2IReIDImageModel(751, pretrained=False).eval()
    config = model.visual_encoder.config
    assert (config.hidden_size, config.num_hidden_layers, config.patch_size) == (768, 12, 16)
    assert (model.preprocess.height, model.preprocess.mean) == (224, (0.5, 0.5, 0.5))
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 256, 128)).shape == (1, 256)


def test_an_encoder_from_a_folder(folders):
    """Without ``pretrained`` it has the folder's shape and preprocessing, but random weights."""
    own = folders.vit.state_dict()
    for pretrained in (True, False):
        model = T2IReIDImageModel(5, pretrained=pretrained, vit_pretrained=str(folders.image))
        state = model.visual_encoder.state_dict()
        same = [torch.equal(state[name], own[name]) for name in state if name.endswith("q_proj.weight")]
        assert same == [pretrained] * 2
        assert model.preprocess.mean == (0.1, 0.2, 0.3)
    (folders.image / "model.safetensors").unlink()
    T2IReIDImageModel(5, pretrained=False, vit_pretrained=str(folders.image))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "terms"}, "loss: unknown 'terms'; valid: softmax, triplet"),
        ({"branch": "face"}, "branch: unknown 'face'; valid: identity, clothing, both, fused"),
        ({"disentangle": {"tokens": "some"}}, "disentangle.tokens: unknown 'some'"),
        ({"vit_pretrained": {"hiden_size": 3}}, "vit_pretrained: .*unknown hiden_size"),
        (
            {"vit_pretrained": {**SHAPE, "model_type": "siglip"}, "disentangle": {"tokens": "cls"}},
            "'cls' needs a class token",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        T2IReIDImageModel(**{"num_classes": 5, "vit_pretrained": TINY, **arguments})


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 32, 32), "training batch of 1"),
        (torch.zeros(2, 1, 32, 32), r"images must be \[B, 3, H, W\], not \[2, 1, 32, 32\]"),
        (torch.zeros(3, 32, 32), r"not \[3, 32, 32\]"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), r"torch\.uint8 pixels are not normalised"),
        ("photo.jpg", "str is not a tensor"),
        (torch.zeros(2, 3, 40, 32), "do not divide into the 16 x 16 patches"),
    ],
)
def test_images_that_do_not_fit_are_refused(build, images, message):
    with pytest.raises(InputError, match=message):
        build().train()(images)


def test_clips_image_tower_as_inline_configuration(make):
    model = T2IReIDImageModel(5, vit_pretrained={**TINY, "model_type": "clip"}).eval()
    assert model.preprocess.mean[0] == pytest.approx(0.481, abs=1e-3)
    with torch.no_grad():
        assert model(make.images(2)).shape == (2, 256)
    assert model.visual_encoder.config.model_type == "clip_vision_model"
