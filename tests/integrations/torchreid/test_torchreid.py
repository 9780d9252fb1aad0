"""The image-only models in torchreid's engines and tools, on synthetic people in Market-1501's format."""

import re
import shlex

import pytest
import torch
import torchreid
from torch import nn
from torchreid import data, engine, models, optim, utils

import t2ireid_plugin
from t2ireid_plugin.cli import main
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.integrations.torchreid import registration

TINY = {
    "image_size": [32, 16],
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
HALF = [0.5, 0.5, 0.5]
NAMES = ("t2ireid_vit_mamba", "t2ireid_vit_mamba_cloth", "t2ireid_vit_mamba_both", "t2ireid_vit_mamba_fused")


@pytest.fixture(scope="module", autouse=True)
def variants():
    """Versions of the models with a tiny ViT."""
    for name, options in registration.MODELS.items():
        t2ireid_plugin.register_model_variant(f"{name}_tiny", **{**options, "vit_pretrained": TINY})


@pytest.fixture(scope="module")
def datamanager(reid_data):
    return data.ImageDataManager(
        root=str(reid_data),
        sources="market1501",
        height=32,
        width=16,
        norm_mean=HALF,
        norm_std=HALF,
        batch_size_train=24,
        workers=0,
        num_instances=4,
        train_sampler="RandomIdentitySampler",
        use_gpu=False,
    )


def build(name="t2ireid_vit_mamba_tiny", num_classes=24, loss="softmax"):
    torch.manual_seed(0)
    return models.build_model(name, num_classes=num_classes, loss=loss, use_gpu=False)


def build_engine(datamanager, model, **optimizer):
    chosen = optim.build_optimizer(model, **{"optim": "adam", "lr": 1e-3, **optimizer})
    scheduler = optim.build_lr_scheduler(chosen, stepsize=20)
    kind = engine.ImageTripletEngine if model.loss == "triplet" else engine.ImageSoftmaxEngine
    return kind(datamanager, model, chosen, scheduler=scheduler, use_gpu=False)


def changed(model, before):
    """Names of the layers with a changed parameter."""
    return {n.split(".")[0] for n, p in model.named_parameters() if not torch.equal(p, before[n])}


def test_torchreids_version_is_a_documented_one():
    known = {("0.2.5", "torchreid.reid.models"), ("1.4.0", "torchreid.models")}
    assert (torchreid.__version__, models.__name__) in known


def test_the_models_are_listed(capsys):
    models.show_avai_models()
    listed = capsys.readouterr().out
    assert all(f"'{name}'" in listed for name in ("osnet_x1_0", *NAMES))


@pytest.mark.parametrize("loss", ["softmax", "triplet"])
@pytest.mark.parametrize("name", NAMES)
def test_torchreids_engines_train_and_evaluate_the_models(datamanager, tmp_path, capsys, name, loss):
    model = build(f"{name}_tiny", loss=loss)
    before = {n: p.clone() for n, p in model.named_parameters()}
    build_engine(datamanager, model).run(save_dir=str(tmp_path), max_epoch=1, print_freq=1)
    assert changed(model, before) == {n for n, _ in model.named_children()}
    printed = capsys.readouterr().out
    assert re.search(r"Rank-1 +: [0-9.]+%", printed)
    width = 512 if name.endswith("both") else 256
    assert f"obtained 8-by-{width} matrix" in printed
    again, images = build(f"{name}_tiny", loss=loss), torch.rand(3, 3, 32, 16)
    assert not again.load_param(tmp_path / "model" / "model.pth.tar-1").load_report.missing
    with torch.no_grad():
        assert torch.equal(model.eval()(images), again.eval()(images))


def test_training_reduces_the_triplet_loss(datamanager, tmp_path):
    model = build(loss="triplet")
    trainer = build_engine(datamanager, model, lr=5e-3)
    losses = []
    step = trainer.forward_backward

    def recorded(batch):
        losses.append(step(batch))
        return losses[-1]

    trainer.forward_backward = recorded
    trainer.run(save_dir=str(tmp_path), max_epoch=5, print_freq=100)
    first, last = (sum(loss["loss_x"] for loss in part) / 4 for part in (losses[:4], losses[-4:]))
    assert last < 0.8 * first


def test_fixbase_epochs_train_only_open_layers(datamanager, tmp_path):
    """`fixbase_epoch` and `open_layers` as in torchreid's own configurations."""
    model = build()
    before = {n: p.clone() for n, p in model.named_parameters()}
    trainer = build_engine(datamanager, model)
    trainer.run(save_dir=str(tmp_path), max_epoch=1, fixbase_epoch=1, open_layers=["classifier"])
    assert changed(model, before) == {"classifier"}
    assert not any(p.requires_grad for n, p in model.named_parameters() if not n.startswith("classifier."))
    utils.open_all_layers(model)
    assert all(p.requires_grad for p in model.parameters())


def test_staged_learning_rates_reach_every_parameter():
    model = build()
    new = ["disentangle", "shared_mlp", "image_mlp", "classifier"]
    chosen = optim.build_optimizer(model, lr=0.1, staged_lr=True, new_layers=new, base_lr_mult=0.01)
    rates = {id(p): group["lr"] for group in chosen.param_groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == pytest.approx(0.001 if name.startswith("visual_encoder.") else 0.1), name


@pytest.mark.parametrize("wrapped", [False, True])
def test_torchreid_loads_the_image_branch_of_a_text_image_checkpoint(tiny_run, tmp_path, capsys, wrapped):
    """Also under the names of `DataParallel`."""
    file = tiny_run.folder / "best.pth"
    if wrapped:
        content = torch.load(file, weights_only=True)
        content["state_dict"] = {f"module.{name}": value for name, value in content["state_dict"].items()}
        file = tmp_path / "wrapped.pth"
        torch.save(content, file)
    model = build()
    utils.load_pretrained_weights(model, str(file))
    printed = capsys.readouterr().out
    assert "Successfully loaded" in printed
    assert "classifier" not in re.sub(r"\w+_classifier", "", printed)
    own = build().load_param(tiny_run.folder / "best.pth")
    images = torch.rand(3, 3, 32, 16)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), own.eval()(images))


def test_the_feature_extractor(tmp_path, reid_data):
    """By name and file, from paths and tensors."""
    model = build(num_classes=24).eval()
    file = tmp_path / "model.pth.tar"
    torch.save({"state_dict": model.state_dict()}, file)
    extractor = utils.FeatureExtractor(
        "t2ireid_vit_mamba_tiny", str(file), image_size=(32, 16), pixel_mean=HALF, pixel_std=HALF, device="cpu"
    )
    paths = sorted(map(str, (reid_data / "market1501").rglob("query/*.jpg")))[:2]
    features = extractor(paths)
    assert features.shape == (2, 256)
    images = torch.stack([extractor.preprocess(utils.read_image(path)) for path in paths])
    with torch.no_grad():
        assert torch.equal(features, model(images))
    assert torch.equal(extractor(images), features)


def test_the_model_complexity():
    """torchreid counts layers that are called: no projections of `nn.MultiheadAttention`, class token, positions."""
    model = build()
    parameters, operations = utils.compute_model_complexity(model, (1, 3, 32, 16))
    attentions = [m.out_proj for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    not_called = [model.classifier, *attentions]
    called = [m for m in model.modules() if not list(m.children()) and not any(m is other for other in not_called)]
    assert parameters == sum(p.numel() for m in called for p in m.parameters())
    assert operations > 0


def test_registering_the_same_models_again_has_no_effect():
    before = dict(getattr(models, "__model_factory"))
    t2ireid_plugin.register()
    t2ireid_plugin.register_model_variant("t2ireid_vit_mamba_tiny", vit_pretrained=TINY, branch="identity")
    assert getattr(models, "__model_factory") == before


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("osnet_x1_0", {}, "model 'osnet_x1_0' is already registered by torchreid; choose another name"),
        (
            "t2ireid_vit_mamba",
            {"branch": "both"},
            "'t2ireid_vit_mamba' is already registered with the options {'branch': 'identity'}",
        ),
        ("mine", {"banch": "both"}, "model 'mine': unknown banch; valid: backbone, head, branch, disentangle"),
    ],
)
def test_bad_variants_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        t2ireid_plugin.register_model_variant(name, **options)
    assert "mine" not in getattr(models, "__model_factory")


# docs/frameworks.md, the part on torchreid

# One epoch instead of sixty.
QUICK = "train.max_epoch 1 train.fixbase_epoch 0 data.workers 0 data.height 64 data.width 32 use_gpu False"


@pytest.fixture
def page(repository, encoders, reid_data, synthetic, tmp_path, monkeypatch):
    """The text of the page, in a folder with the files that it names."""
    for name, target in {
        "weights/vit": encoders.vit,
        "reid-data": reid_data,
        "configs": repository / "configs",
        "tools": repository / "tools",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(target)
    (tmp_path / "photos").mkdir()
    for name, photo in zip("ab", sorted((synthetic.root / "CUHK-PEDES" / "imgs").rglob("*.jpg"))):
        (tmp_path / "photos" / f"{name}.jpg").symlink_to(photo)
    file = tmp_path / "im_osnet_x0_25_softmax_256x128_amsgrad.yaml"
    file.write_text("model: {name: osnet_x0_25, pretrained: False}\ndata: {save_dir: log/osnet}\n")
    monkeypatch.chdir(tmp_path)
    text = (repository / "docs" / "frameworks.md").read_text(encoding="utf-8")
    return text.split("\n## torchreid\n")[1].split("\n## ")[0]


@pytest.mark.slow
def test_the_pages_snippets_run(page, capsys):
    """In order, for one epoch instead of sixty."""
    snippets = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(snippets) == 2
    for snippet in snippets:
        exec(compile(snippet.replace("max_epoch=60", "max_epoch=1"), "frameworks.md", "exec"), {})
    assert re.search(r"^tensor\([0-9.-]+\)$", capsys.readouterr().out, flags=re.MULTILINE)


@pytest.mark.slow
def test_the_pages_commands_run(page, tmp_path):
    (block,) = re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
    commands = [shlex.split(line) for line in block.splitlines()]
    assert len(commands) == 5
    for program, command, *words in commands:
        assert (program, command in ("train", "test")) == ("t2ireid", True)
        assert main([command, *words, *QUICK.split()]) == 0
    for name in ("osnet", "market1501_t2ireid", "msmt17_t2ireid", "market1501_to_msmt17_t2ireid"):
        assert (tmp_path / "log" / name / "results.json").is_file()
    assert (
        len(list((tmp_path / "log" / "market1501_t2ireid" / "test" / "market1501" / "visrank_market1501").iterdir()))
        == 8
    )


def test_the_page_lists_the_registered_models(page):
    assert re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE) == list(registration.MODELS)
