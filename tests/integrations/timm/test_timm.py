"""timm's registry: names, its model interface, and the weights of runs and exports."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.optim import create_optimizer_v2

import t2ireid_plugin  # noqa: F401 - registers the models
from t2ireid_plugin.cli import main
from t2ireid_plugin.errors import ConfigError, InputError, T2IReIDError
from t2ireid_plugin.integrations.timm.registration import MODELS
from t2ireid_plugin.modeling.encoders.backbones import image_tokens
from t2ireid_plugin.modeling.head import DisentangleHead
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel

VIT = {"image_size": 32, "patch_size": 16, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
OSNET = {"model_type": "torchreid", "architecture": "osnet_x0_25"}
BACKBONES = {"vit": {**VIT, "intermediate_size": 32}, "osnet": OSNET}


def build(backbone="vit", **options):
    torch.manual_seed(0)
    return timm.create_model("t2ireid", backbone=BACKBONES[backbone], **options)


def test_the_names_are_timms():
    assert set(timm.list_models("t2ireid*")) == set(MODELS)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_timms_interface(backbone, make):
    """Features, head and classifier against our own head on the backbone's tokens, at two sizes."""
    model = make.stir(
        build(backbone, num_classes=7, branch="fused", disentangle={"tokens": "window", "window": 3})
    ).eval()
    head = DisentangleHead(model.num_features, 7, "fused", disentangle={"tokens": "window", "window": 3}).eval()
    head.load_state_dict({n: v for n, v in model.state_dict().items() if not n.startswith("visual_encoder.")})
    for size in ((64, 32), (32, 32)):
        images = make.images(3, *size)
        with torch.no_grad():
            tokens, grid = image_tokens(model.visual_encoder, images)
            expected, features = head(tokens, grid), model.forward_features(images)
            assert (
                features.shape == (3, model.num_features, *grid) if backbone == "osnet" else (3, 1 + size[0] // 8, 32)
            )
            assert torch.equal(model(images), expected.logits)
            assert torch.equal(model.forward_head(features, grid=grid), expected.logits)
            assert torch.equal(model.forward_head(features, pre_logits=True, grid=grid), expected.embeds)
    if backbone == "vit":
        torch.testing.assert_close(model.forward_head(features), expected.logits)  # of the model's own size
        with pytest.raises(InputError, match="8 tokens are not those of an image of the model's size; pass grid="):
            model.forward_head(torch.zeros(3, 8, 32))
    assert model.get_classifier() is model.classifier
    model.reset_classifier(0)
    with torch.no_grad():
        assert torch.equal(model(images), expected.embeds)
    assert (model.num_classes, model.head_hidden_size) == (0, expected.embeds.shape[1])
    model.reset_classifier(4)
    assert model.train()(images).shape == (3, 4)
    with pytest.raises(ConfigError, match="global_pool: '' has no effect"):
        model.reset_classifier(0, "")


def test_training_through_timm():
    model = build("osnet", num_classes=2, branch="fused", projection_dropout=0.0).train()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3)
    images, labels = torch.randn(4, 3, 64, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 0, 1, 1])
    losses = []
    for _ in range(6):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_size_and_normalisation_reach_timms_transforms():
    model = build(img_size=(64, 48))
    config = resolve_model_data_config(model)
    assert (config["input_size"], config["mean"], config["std"]) == ((3, 64, 48), *model.preprocess[2:])
    photo = Image.fromarray(np.full((90, 40, 3), 255, np.uint8))
    pixels = create_transform(**config)(photo)
    torch.testing.assert_close(pixels, torch.ones(3, 64, 48))  # (1 - 0.5) / 0.5


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("t2ireid", {}, "t2ireid: name a backbone, such as 'torchreid:resnet18', or a pretrained_folder"),
        ("t2ireid_resnet50", {"backbone": OSNET}, "t2ireid_resnet50: backbone is an option of 't2ireid'"),
        ("t2ireid_vit_base", {"features_only": True}, "options of t2ireid_vit_base: unknown features_only; valid: pre"),
        ("t2ireid_vit_base", {"in_chans": 1}, "t2ireid_vit_base: in_chans must be 3"),
        ("t2ireid_vit_base", {"drop_path_rate": 0.1}, "t2ireid_vit_base: drop_path_rate must be 0"),
        ("t2ireid_vit_base.in21k", {}, "t2ireid_vit_base: pretrained_cfg is not supported; weights come from"),
        ("t2ireid", {"backbone": BACKBONES["vit"], "img_size": 40}, "40 x 40 pixels .* do not divide into the 16 x 16"),
        ("t2ireid", {"backbone": "torchreid:resnet"}, "torchreid: unknown 'resnet'; valid: resnet18"),
        ("t2ireid", {"backbone": OSNET, "branch": "face"}, "branch: unknown 'face'; valid: identity"),
        ("t2ireid", {"pretrained_folder": "nowhere"}, "no checkpoint at 'nowhere'"),
    ],
)
def test_options_without_effect_are_refused(name, options, message):
    with pytest.raises(T2IReIDError, match=message):
        timm.create_model(name, **options)


def test_weights_of_a_run_and_an_export(tiny_run, tmp_path, make):
    """The embeddings by which the run ranks, and those of one branch."""
    trained = T2IReIDModel.from_checkpoint(tiny_run.folder / "best.pth")
    assert main(["export", str(tiny_run.folder), str(tmp_path / "exported")]) == 0
    images = make.images(3, 32, 16)
    for folder in (tiny_run.folder, tiny_run.folder / "last.pth", tmp_path / "exported"):
        reference = trained if folder.suffix == "" else T2IReIDModel.from_checkpoint(folder)
        model = timm.create_model("t2ireid_vit_base", pretrained_folder=folder).eval()
        identity = timm.create_model("t2ireid", pretrained=True, pretrained_folder=folder, branch="identity").eval()
        with torch.no_grad():
            torch.testing.assert_close(model(images), reference.encode_gallery(images), rtol=0, atol=1e-6)
            torch.testing.assert_close(identity(images), reference.encode_image(images), rtol=0, atol=1e-6)
        assert model.preprocess == reference.preprocess
    model = timm.create_model("t2ireid_vit_base", pretrained_folder=tmp_path / "exported", num_classes=5)
    assert model.train()(images).shape == (3, 5)
    for name, options, message in (
        ("t2ireid_resnet50", {}, "t2ireid_resnet50: '.*best.pth' has the backbone vit; use the name 't2ireid'"),
        ("t2ireid", {"branch": "fused"}, "branch: '.*best.pth' has the branch both"),
        ("t2ireid", {"disentangle": {"tokens": "cls"}}, "disentangle: '.*best.pth' decides; leave this option out"),
    ):
        with pytest.raises(T2IReIDError, match=message):
            timm.create_model(name, pretrained_folder=tiny_run.folder, **options)


@pytest.mark.slow
def test_weights_of_an_image_only_run(repository, reid_data, tmp_path, make):
    file = repository / "configs" / "market1501_osnet_x1_0_t2ireid.yaml"
    quick = ["use_gpu=False", "data.workers=0", "test.bootstrap=0", "train.max_epoch=1", "train.fixbase_epoch=0"]
    quick += ["model.pretrained=False", "data.height=32", "data.width=32", f"data.save_dir={tmp_path}"]
    assert main(["train", "--config-file", str(file), "--root", str(reid_data), *quick]) == 0
    model = timm.create_model("t2ireid_osnet_x1_0", pretrained_folder=tmp_path).eval()
    state = torch.load(tmp_path / "best.pth", weights_only=True)["state_dict"]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert set(state) - set(model.state_dict()) == {"classifier.weight", "classifier.bias"}
    assert (model.branch, model.preprocess[:2], model(make.images(2)).shape) == ("fused", (32, 32), (2, 256))
