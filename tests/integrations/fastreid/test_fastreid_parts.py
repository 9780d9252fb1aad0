"""FastReID's backbones and heads with ours, in every combination, on drawn people."""

import pytest
import torch
from fastreid.data import build_reid_train_loader
from fastreid.modeling import build_backbone, build_model
from fastreid.utils.env import seed_all_rng
from fastreid.utils.events import EventStorage

from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.integrations.fastreid.command import main
from t2ireid_plugin.integrations.fastreid.trainer import T2IReIDTrainer, TextImageTrainer
from t2ireid_plugin.losses import LOSSES
from t2ireid_plugin.modeling.encoders.backbones import pooled_token
from t2ireid_plugin.modeling.head import DisentangleHead

# Settings of each backbone, and its VIT_CONFIG, whose keys can be set in files only.
BACKBONES = {
    "resnet": ("build_resnet_backbone", 512, ("MODEL.BACKBONE.DEPTH", "18x"), "{}"),
    "osnet": ("build_osnet_backbone", 128, ("MODEL.BACKBONE.DEPTH", "x0_25"), "{}"),
    "own_osnet": ("build_t2ireid_encoder", 128, (), "{model_type: torchreid, architecture: osnet_x0_25}"),
    "own_vit": (
        *("build_t2ireid_encoder", 32, ()),
        "{image_size: [64, 32], patch_size: 16, hidden_size: 32, num_hidden_layers: 1, intermediate_size: 32, "
        "num_attention_heads: 2}",
    ),
}
COMMON = """
INPUT: {SIZE_TRAIN: [64, 32], SIZE_TEST: [64, 32], PADDING: {ENABLED: False}, REA: {ENABLED: False}}
DATALOADER: {SAMPLER_TRAIN: NaiveIdentitySampler, NUM_INSTANCE: 4, NUM_WORKERS: 0}
SOLVER: {IMS_PER_BATCH: 16, MAX_EPOCH: 1, WARMUP_ITERS: 0, BASE_LR: 1.0e-3, CHECKPOINT_PERIOD: 1}
TEST: {EVAL_PERIOD: 1}
MODEL: {DEVICE: cpu}
T2IREID:
"""
DISENTANGLE = (
    *("MODEL.HEADS.NAME", "DisentangleHead", "MODEL.HEADS.POOL_LAYER", "Identity"),
    *("T2IREID.PROJECTION_DROPOUT", "0.0"),
)
LOSSES_KEY = "MODEL.LOSSES.NAME"
HEADS = {
    "stock": (LOSSES_KEY, "('CrossEntropyLoss', 'TripletLoss')"),
    "fused": (
        *DISENTANGLE,
        *("T2IREID.BRANCH", "fused", "T2IREID.DISENTANGLE.DIM", "32"),
        *("MODEL.HEADS.WITH_BNNECK", "True", LOSSES_KEY, "('CrossEntropyLoss', 'TripletLoss')"),
    ),
    "pooled": (
        *DISENTANGLE,
        *("T2IREID.DISENTANGLE.TYPE", "none", "MODEL.HEADS.CLS_LAYER", "CircleSoftmax", "MODEL.HEADS.SCALE", "16"),
        *(LOSSES_KEY, "('CrossEntropyLoss', 'CircleLoss')"),
    ),
}


def settings(backbone, head=None):
    """Words of the command line for a backbone and a head."""
    name, width, words, _ = BACKBONES[backbone]
    pooled = ("MODEL.HEADS.POOL_LAYER", "Identity") if (backbone, head) == ("own_vit", "stock") else ()
    parts = (*words, *HEADS.get(head, ()), *pooled)
    return ("MODEL.BACKBONE.NAME", name, "MODEL.BACKBONE.FEAT_DIM", str(width), *parts)


@pytest.fixture
def part_yaml(tmp_path):
    """`part_yaml(backbone)`: a file for image-only training with its VIT_CONFIG."""

    def write(backbone):
        file = tmp_path / f"{backbone}.yml"
        file.write_text(f"{COMMON}  VIT_CONFIG: {BACKBONES[backbone][3]}\n")
        return file

    return write


def batch_losses(model, batch):
    """FastReID's losses of one batch in training mode."""
    with EventStorage(0), torch.no_grad():
        losses = model.train()({"images": batch["images"].clone(), "targets": batch["targets"]})
    return {name: float(value) for name, value in losses.items()}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_trains_under_every_head(
    make_cfg, part_yaml, run_tool, market, monkeypatch, tmp_path, backbone, head
) -> None:
    """An epoch reduces the loss of a batch, evaluation runs, and the checkpoint repeats the results."""
    monkeypatch.setattr("fastreid.data.build._root", str(market.root))
    seed_all_rng(0)  # FastReID's sampler and transforms use every generator
    file, words = part_yaml(backbone), settings(backbone, head)
    trainer = T2IReIDTrainer(make_cfg(file, *words, "OUTPUT_DIR", str(tmp_path)))
    assert type(trainer.model).__name__ == "Baseline"
    batch = next(iter(build_reid_train_loader(trainer.cfg)))
    before = batch_losses(trainer.model, batch)
    results = trainer.train()
    assert {"Rank-1", "mAP", "mINP"} <= set(results)
    after = batch_losses(trainer.model, batch)
    assert len(after) == 2
    assert sum(after.values()) < sum(before.values())
    weights = ("MODEL.WEIGHTS", tmp_path / "model_final.pth", "OUTPUT_DIR", tmp_path / "again")
    assert run_tool(market.root, file, "--eval-only", *words, *weights) == pytest.approx(results)


@pytest.mark.parametrize(("branch", "width"), [("identity", 256), ("clothing", 256), ("both", 512), ("fused", 256)])
@torch.no_grad()
def test_the_head_returns_the_embedding_of_the_branch(make_cfg, part_yaml, branch, width) -> None:
    """Against our head called directly and FastReID's batch normalisation."""
    words = (*settings("osnet", "fused"), "T2IREID.BRANCH", branch)
    words += ("MODEL.HEADS.NUM_CLASSES", "3")
    model, images = build_model(make_cfg(part_yaml("osnet"), *words)).eval(), 255 * torch.rand(2, 3, 64, 32)
    alone = DisentangleHead(128, branch=branch, disentangle={"dim": 32}).eval()
    alone.load_state_dict(model.heads.pool_layer.state_dict())
    expected = alone(model.backbone((images - model.pixel_mean) / model.pixel_std)).features
    neck = model.heads.bottleneck[0]
    torch.testing.assert_close(model(images.clone()), neck(expected[..., None, None])[..., 0, 0])
    assert model(images).shape == (2, width)


def test_every_parameter_of_the_head_has_a_gradient_on_several_gpus(make_cfg, part_yaml, monkeypatch) -> None:
    """The gate of EnhancedMambaFusion does not affect the fused embedding."""
    words = (*settings("osnet", "fused"), "MODEL.HEADS.NUM_CLASSES", "3")
    head = build_model(make_cfg(part_yaml("osnet"), *words)).train().heads.pool_layer
    for processes, complete in ((1, False), (2, True)):
        monkeypatch.setattr("fastreid.utils.comm.get_world_size", lambda n=processes: n)
        head.zero_grad()
        head(torch.rand(4, 128, 4, 2)).sum().backward()
        assert all(parameter.grad is not None for parameter in head.parameters()) == complete


@torch.no_grad()
def test_our_encoders_return_maps_or_pooled_tokens(make_cfg, part_yaml) -> None:
    images, classes = torch.rand(2, 3, 64, 32), ("MODEL.HEADS.NUM_CLASSES", "3")
    osnet = build_model(make_cfg(part_yaml("own_osnet"), *settings("own_osnet", "stock"), *classes)).eval().backbone
    torch.testing.assert_close(osnet(images), osnet.visual_encoder.network.featuremaps(images))
    vit = build_model(make_cfg(part_yaml("own_vit"), *settings("own_vit", "stock"), *classes)).eval().backbone
    tokens = vit.visual_encoder(images).last_hidden_state
    torch.testing.assert_close(vit(images), pooled_token(tokens, (4, 2))[..., None, None])
    torch.testing.assert_close(vit(images)[..., 0, 0], tokens[:, 0])


# Images with texts


# Terms that fall within an epoch.
TERMS = {"info_nce": 1.0, "cls": 1.0, "fused_query": 0.2}
TEXT_IMAGE = """
  VIT_PRETRAINED: ''
  BERT_BASE_PATH: ''
  BERT_CONFIG: {vocab_size: 300, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
  FREEZE_TEXT: False
  PROJECTION_DROPOUT: 0.0
  DISENTANGLE: {DIM: 32}
  FUSION: {NUM_LAYERS: 1}
  ENCODER_LR_FACTOR: 1.0
"""


@pytest.fixture
def text_yaml(configs, tmp_path):
    """CUHK-PEDES's configuration for FastReID's backbones, with a tiny text encoder."""
    file = tmp_path / "text_image.yml"
    losses = {name: {"weight": TERMS.get(name, 0.0)} for name in LOSSES}
    file.write_text(f"_BASE_: {configs / 'cuhkpedes.yml'}\n{COMMON}{TEXT_IMAGE}  LOSSES: {losses}\n")
    return file


def text_losses(model, batch):
    torch.manual_seed(0)
    with EventStorage(0) as storage, torch.no_grad():
        storage.epoch = 0
        return float(sum(model.train()(batch).values()))


@pytest.mark.parametrize("backbone", ["resnet", "osnet"])
def test_the_text_image_model_trains_on_fastreids_backbones(
    make_cfg, text_yaml, run_tool, synthetic, monkeypatch, tmp_path, backbone
) -> None:
    monkeypatch.setenv("FASTREID_DATASETS", str(synthetic.root))
    seed_all_rng(0)
    words = (*settings(backbone), "SOLVER.MAX_EPOCH", "3", "TEST.EVAL_PERIOD", "3")
    trainer = TextImageTrainer(make_cfg(text_yaml, *words, "OUTPUT_DIR", str(tmp_path)))
    batch = next(iter(trainer.build_train_loader(trainer.cfg)))
    before = text_losses(trainer.model, batch)
    results = trainer.train()
    assert text_losses(trainer.model, batch) < before
    weights = ("MODEL.WEIGHTS", tmp_path / "model_final.pth", "OUTPUT_DIR", tmp_path / "again")
    again = run_tool(synthetic.root, text_yaml, "--eval-only", *words, *weights)
    assert again["cuhkpedes"] == pytest.approx(results["cuhkpedes"])


@torch.no_grad()
def test_its_features_are_those_of_fastreids_backbone(make_cfg, text_yaml, synthetic, monkeypatch) -> None:
    monkeypatch.setenv("FASTREID_DATASETS", str(synthetic.root))
    cfg = make_cfg(text_yaml, *settings("resnet"), "MODEL.HEADS.NUM_CLASSES", "3")
    encoder, stock = build_model(cfg).eval().backbone.visual_encoder, build_backbone(cfg).eval()
    stock.load_state_dict(encoder.network.state_dict())
    images = torch.rand(2, 3, 64, 32)
    torch.testing.assert_close(encoder(images).last_hidden_state, stock(images), rtol=0, atol=1e-6)


def test_a_residual_fusion_trains(make_cfg, text_yaml, synthetic, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("FASTREID_DATASETS", str(synthetic.root))
    cfg = make_cfg(text_yaml, *settings("osnet"), "T2IREID.FUSION.TYPE", "residual", "OUTPUT_DIR", str(tmp_path))
    trainer = TextImageTrainer(cfg)
    with EventStorage(0) as storage:
        storage.epoch = 0
        trainer.model.train()(next(iter(trainer.build_train_loader(trainer.cfg))))["loss_fused_query"].backward()
    assert all(parameter.grad is not None for parameter in trainer.model.backbone.fusion.parameters())


# Refusals


def error_of(capsys, file, *words):
    assert main(["--config-file", str(file), *words]) == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("backbone", "head", "words", "message"),
    [
        ("osnet", "stock", ("MODEL.BACKBONE.NAME", "osnet"), "MODEL.BACKBONE.NAME: unknown 'osnet'; valid: build_res"),
        ("osnet", "stock", ("MODEL.HEADS.NAME", "Head"), "unknown 'Head'; valid: EmbeddingHead, ClasHead, Disentangle"),
        ("osnet", "stock", ("MODEL.META_ARCHITECTURE", "Base"), "MODEL.META_ARCHITECTURE: unknown 'Base'; valid: Base"),
        (
            "osnet",
            "stock",
            ("MODEL.HEADS.NAME", "T2IReIDHead"),
            "T2IReIDHead needs MODEL.META_ARCHITECTURE T2IReIDBase",
        ),
        (
            "osnet",
            "stock",
            ("T2IREID.BRANCH", "both"),
            "T2IREID.BRANCH: 'both' has no effect with Baseline, build_osnet",
        ),
        ("osnet", "stock", ("T2IREID.VIT_PRETRAINED", "x"), "T2IREID.VIT_PRETRAINED: 'x' has no effect"),
        ("osnet", "stock", ("T2IREID.LOSSES.cls.weight", "1.0"), "T2IREID.LOSSES.cls.weight: 1.0 has no effect"),
        ("osnet", "pooled", ("T2IREID.FUSION.TYPE", "gated_mamba"), "T2IREID.FUSION.TYPE: 'gated_mamba' has no effect"),
        (
            "osnet",
            "fused",
            ("MODEL.HEADS.POOL_LAYER", "GlobalAvgPool"),
            "has no map to pool in build_osnet_backbone with",
        ),
        (
            "osnet",
            "fused",
            ("T2IREID.DISENTANGLE.TOKENS", "cls"),
            "'cls' needs a class token, which build_osnet_backbone",
        ),
        ("own_osnet", "stock", ("MODEL.BACKBONE.DEPTH", "18x"), "MODEL.BACKBONE.DEPTH: '18x' has no effect"),
        ("own_osnet", "fused", ("MODEL.BACKBONE.NAME", "build_t2ireid_backbone"), "contains the DisentangleHead; take"),
    ],
)
def test_unknown_names_and_settings_that_nothing_reads_are_refused(
    capsys, part_yaml, backbone, head, words, message
) -> None:
    assert message in error_of(capsys, part_yaml(backbone), *settings(backbone, head), *words)


@pytest.mark.parametrize(
    ("backbone", "head", "words", "message"),
    [
        ("own_osnet", "stock", ("MODEL.HEADS.POOL_LAYER", "Identity"), "POOL_LAYER: Identity leaves a feature map"),
        ("own_vit", "stock", ("MODEL.HEADS.POOL_LAYER", "GlobalAvgPool"), "POOL_LAYER: GlobalAvgPool has no map"),
        ("own_vit", "stock", ("MODEL.BACKBONE.FEAT_DIM", "768"), "MODEL.BACKBONE.FEAT_DIM: 768 must be 32"),
        (
            "osnet",
            "fused",
            ("T2IREID.FUSION.TYPE", "residual"),
            "fusion.type: unknown 'residual'; valid: enhanced_mamba",
        ),
        ("osnet", "pooled", ("T2IREID.BRANCH", "clothing"), "branch: clothing needs disentangle.type attention"),
    ],
)
def test_parts_that_do_not_fit_are_refused(make_cfg, part_yaml, backbone, head, words, message) -> None:
    words = (*settings(backbone, head), *words, "MODEL.HEADS.NUM_CLASSES", "3")
    with pytest.raises(ConfigError, match=message):
        build_model(make_cfg(part_yaml(backbone), *words))


def test_another_width_than_the_backbones_is_refused(make_cfg, part_yaml) -> None:
    words = (*settings("osnet", "fused"), "MODEL.BACKBONE.FEAT_DIM", "2048", "MODEL.HEADS.NUM_CLASSES", "3")
    with pytest.raises(ConfigError, match=r"MODEL\.BACKBONE\.FEAT_DIM: 2048 must be 128"):
        build_model(make_cfg(part_yaml("osnet"), *words)).eval()(torch.rand(2, 3, 64, 32))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("MODEL.LOSSES.NAME", "('TripletLoss',)"),
            "MODEL.LOSSES.NAME: ('TripletLoss',) has no effect with T2IReIDBase",
        ),
        (("MODEL.HEADS.WITH_BNNECK", "True"), "MODEL.HEADS.WITH_BNNECK: True has no effect"),
        (("T2IREID.BRANCH", "both"), "T2IREID.BRANCH: 'both' has no effect"),
        (("T2IREID.VIT_PRETRAINED", "weights/vit"), "T2IREID.VIT_PRETRAINED: 'weights/vit' has no effect"),
        (("T2IREID.LOSSES.composed_query.weight", "1.0"), "LOSSES.composed_query reads outfits, words or"),
        (("T2IREID.DISENTANGLE.TYPE", "none"), "T2IREID.DISENTANGLE.TYPE: none has no clothing branch"),
        (
            ("T2IREID.FUSION.TYPE", "residual", "T2IREID.ID_INSTRUCTION", "caption"),
            "T2IREID.FUSION.TYPE: residual fuses both branches",
        ),
    ],
)
def test_settings_that_the_text_image_model_would_ignore_are_refused(capsys, text_yaml, words, message) -> None:
    assert message in error_of(capsys, text_yaml, *settings("osnet"), *words)
