"""Backbones by heads as torchreid models: its engine, optimizer and schedule train and evaluate every combination."""

import itertools
import re

import pytest
import torch
import torch.nn.functional as F
from torchreid import data, engine, models, optim, utils

import t2ireid_plugin
from t2ireid_plugin import image_tokens
from t2ireid_plugin.cli import main
from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.integrations.torchreid.build import build_image_model
from t2ireid_plugin.integrations.torchreid.checks import check_config
from t2ireid_plugin.integrations.torchreid.registration import HEADS

LAYERS = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
BACKBONES = {
    "osnet": {"model_type": "torchreid", "architecture": "osnet_x0_25"},
    "resnet": {"model_type": "resnet", "depths": [1, 1], "hidden_sizes": [16, 32], "embedding_size": 8},
    "vit": {"image_size": 32, "patch_size": 16, **LAYERS},
    "timm": {"model_type": "timm", "architecture": "test_vit"},
}
BRANCH = {"disentangle": "fused", "projection": "identity", "none": "identity"}
SIZE = {"height": 32, "width": 32}
STD = [0.25, 0.25, 0.25]


@pytest.fixture(scope="module")
def datamanager(reid_data):
    return data.ImageDataManager(
        root=str(reid_data),
        sources="market1501",
        **SIZE,
        norm_std=STD,
        batch_size_train=24,
        workers=0,
        num_instances=4,
        train_sampler="RandomIdentitySampler",
        use_gpu=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "head"), [*itertools.product(BACKBONES, HEADS)])
def test_an_epoch_in_torchreids_own_engine(datamanager, tmp_path, capsys, backbone, head):
    """The loss over all images falls, the evaluation runs, the checkpoint loads back in torchreid's loader."""
    name = f"t2ireid_{backbone}_{head}"
    options = {"backbone": BACKBONES[backbone], "head": head, "branch": BRANCH[head], "projection_dropout": 0.0}
    t2ireid_plugin.register_model_variant(name, **options)
    torch.manual_seed(0)
    model = models.build_model(name, datamanager.num_train_pids, "softmax", pretrained=False, use_gpu=False)
    batches = list(datamanager.train_loader)
    images, pids = (torch.cat([batch[key] for batch in batches]) for key in ("img", "pid"))

    def loss():
        with torch.no_grad():
            return float(F.cross_entropy(model.train()(images), pids))

    before = loss()
    optimizer = optim.build_optimizer(model, optim="adam", lr=7e-4)
    scheduler = optim.build_lr_scheduler(optimizer, lr_scheduler="cosine", max_epoch=2)
    trainer = engine.ImageSoftmaxEngine(datamanager, model, optimizer, scheduler=scheduler, use_gpu=False)
    trainer.run(save_dir=str(tmp_path), max_epoch=1, print_freq=100)
    assert loss() < before
    assert re.search(r"mAP: [0-9.]+%", capsys.readouterr().out)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth")
    torch.manual_seed(1)
    again = models.build_model(name, datamanager.num_train_pids, "softmax", pretrained=False, use_gpu=False)
    utils.load_pretrained_weights(again, str(tmp_path / "weights.pth"))
    with torch.no_grad():
        embeds = again.eval()(images[:3])
        assert torch.equal(embeds, model.eval()(images[:3]))
    torch.testing.assert_close(embeds.norm(dim=1), torch.ones(3))


def test_pretrained_is_torchreids(tmp_path, monkeypatch):
    """The weights that torchreid keeps reach the backbone of a model that its builder makes."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(5)
    stock = models.build_model("osnet_x1_0", 1000, pretrained=False, use_gpu=False).eval()
    (tmp_path / "checkpoints").mkdir()
    torch.save(stock.state_dict(), tmp_path / "checkpoints" / "osnet_x1_0_imagenet.pth")
    model = models.build_model("t2ireid_osnet_x1_0", 5, pretrained=True, use_gpu=False).eval()
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        places = image_tokens(model.visual_encoder, images).tokens.mean(dim=1)
        torch.testing.assert_close(
            places, stock.global_avgpool(stock.featuremaps(images)).flatten(1), rtol=0, atol=1e-6
        )
        assert model(images).shape == (2, 256)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "torchreid:osnet"}, "torchreid: unknown 'osnet'; valid: resnet18, .*osnet_x1_0"),
        ({"head": "linear"}, "head: unknown 'linear'; valid: disentangle, projection, none"),
        ({"branch": "face"}, "branch: unknown 'face'; valid: identity, clothing, both, fused"),
        ({"head": "none", "branch": "fused"}, "branch: fused needs disentangle.type attention"),
        ({"head": "projection", "disentangle": {"pool": "stripes"}}, "disentangle.pool: 'stripes' has no effect"),
    ],
)
def test_unknown_names_and_combinations_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        t2ireid_plugin.register_model_variant("refused", **options)
    assert "refused" not in getattr(models, "__model_factory")


@pytest.mark.parametrize(("name", "width"), [("resnet50", 2048), ("osnet_x1_0", 512)])
def test_the_configurations_for_market1501(repository, name, width):
    """Each names layers that its model has, and torchreid's backbone without the configuration's encoder."""
    file = repository / "configs" / f"market1501_{name}_t2ireid.yaml"
    cfg = load_cfg(file, ["model.pretrained", "False", "data.root", "nowhere"])
    check_config(cfg)
    model = build_image_model(cfg, num_classes=5)
    assert type(model.visual_encoder.network).__name__.lower() == name.split("_")[0].removesuffix("50")
    assert model.disentangle.id_linear.in_features == 512
    assert (model.image_adapter is None) == (width == 512)
    assert {*cfg.train.new_layers, "visual_encoder"} == {
        n for n, child in model.named_children() if list(child.parameters())
    }
    with pytest.raises(ConfigError, match=r"model.vit_pretrained: 'weights/vit' has no effect"):
        check_config(load_cfg(file, ["model.vit_pretrained", "weights/vit"]))
    with pytest.raises(ConfigError, match=r"branch: fused needs disentangle.type attention"):
        check_config(load_cfg(file, ["model.disentangle.type", "none"]))


@pytest.mark.slow
def test_our_command_trains_and_tests_a_configuration(repository, reid_data, tmp_path):
    file = repository / "configs" / "market1501_osnet_x1_0_t2ireid.yaml"
    quick = ["use_gpu=False", "data.workers=0", "test.bootstrap=0", "train.max_epoch=1", "train.fixbase_epoch=0"]
    quick += [
        "model.pretrained=False",
        "data.height=32",
        "data.width=32",
        "train.batch_size=32",
        f"data.save_dir={tmp_path}/run",
    ]
    assert main(["train", "--config-file", str(file), "--root", str(reid_data), *quick]) == 0
    assert (tmp_path / "run" / "results.json").is_file()
