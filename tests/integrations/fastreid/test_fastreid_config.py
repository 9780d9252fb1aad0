"""Our keys in FastReID's configuration, and errors of the command line."""

import logging

import pytest
from fastreid.config import get_cfg
from fastreid.modeling import build_model

from t2ireid_plugin.integrations.fastreid import add_t2ireid_config
from t2ireid_plugin.integrations.fastreid.command import main
from t2ireid_plugin.losses import LOSSES, LossTerms


def refused(capsys, *words):
    """The one line of an error that the command ends with."""
    status = main([str(word) for word in words])
    lines = capsys.readouterr().err.splitlines()
    assert status == 2
    assert not any("Traceback" in line for line in lines)
    (error,) = (line for line in lines if line.startswith("error: "))
    assert error == lines[-1]  # only warnings of libraries may precede it
    return error


def test_loss_defaults_are_valid_and_unknown_terms_are_refused() -> None:
    cfg = get_cfg()
    add_t2ireid_config(cfg)
    assert set(cfg.T2IREID.LOSSES) == set(LOSSES)
    assert not any(settings.weight for settings in cfg.T2IREID.LOSSES.values())
    LossTerms({name: {**settings, "weight": 1.0} for name, settings in cfg.T2IREID.LOSSES.items() if name != "irr"})
    with pytest.raises(AssertionError, match="LOSSES\\.tripplet"):
        cfg.merge_from_list(["T2IREID.LOSSES.tripplet.weight", 1.0])


@pytest.mark.parametrize("name", ["market1501", "market1501_resnet50", "cuhkpedes", "synthetic_cpu"])
def test_the_configurations_load_and_survive_fastreids_dump(make_cfg, configs, name, tmp_path) -> None:
    cfg = make_cfg(configs / f"{name}.yml")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert make_cfg(tmp_path / "config.yaml") == cfg


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("T2IREID.FUSSION.TYPE", "x"), "Non-existent key: T2IREID.FUSSION.TYPE"),
        (("T2IREID.MAX_LENGTH", "'long'"), "T2IREID.MAX_LENGTH"),
        (("SOLVER.BASE_LR",), "it must be a list of pairs"),
        (("SOLVER.BASE_LR", "1e-3", "--resume"), "'--resume']; it must be a list of pairs"),
        (("MODEL.DEVICE", "cuda"), "MODEL.DEVICE"),
        (("SOLVER.AMP.ENABLED", "True"), "SOLVER.AMP.ENABLED"),
        (("--num-gpus", "2"), "--num-gpus: 2, but this machine has 0 CUDA devices"),
        (("DATASETS.NAMES", "('Market1501',)"), "unknown 'Market1501'; valid: cuhkpedes, icfgpedes"),
        (("DATASETS.NAMES", "('cuhkpedes_val',)"), "DATASETS.NAMES: unknown 'cuhkpedes_val'"),
        (("DATASETS.COMBINEALL", "True"), "test identities"),
        (("TEST.FLIP.ENABLED", "True"), "TEST.FLIP.ENABLED"),
        (("TEST.METRIC", "euclidean"), "TEST.METRIC"),
        (("DATALOADER.SAMPLER_TRAIN", "SetReWeightSampler"), "valid: TrainingSampler"),
        (("SOLVER.IMS_PER_BATCH", "30"), "not a multiple of DATALOADER.NUM_INSTANCE 4"),
        (("T2IREID.LOSSES.words.weight", "1.0"), "LOSSES.words reads outfits, words or further views, which"),
        (("T2IREID.LOSSES.cross_outfit.weight", "1.0"), "LOSSES.cross_outfit reads outfits, words or"),
        (("T2IREID.LOSSES.leak.weight", "1.0"), "LOSSES.leak reads outfits, words or"),
        (("DATALOADER.SAMPLER_TRAIN", "TrainingSampler"), "LOSSES.fused_query compares images of the same identity"),
    ],
)
def test_a_bad_setting_is_a_one_line_error(capsys, text_image_yaml, words, message, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert message in refused(capsys, "--config-file", text_image_yaml, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("SOLVER.IMS_PER_BATCH", "800"), "exceeds the 192 captions"),
        (("SOLVER.IMS_PER_BATCH", "160"), "has 24 identities, a batch needs 40"),
        (
            ("T2IREID.ID_INSTRUCTION", "clothing"),
            "T2IREID.ID_INSTRUCTION: unknown 'clothing'; valid: caption, identity",
        ),
        (("T2IREID.IDENTITY_WEIGHT", "1.5"), "T2IREID.IDENTITY_WEIGHT: 1.5 must be from 0 to 1"),
        (("SOLVER.WARMUP_ITERS", "100"), "SOLVER.MAX_EPOCH: 2 leaves no epoch after SOLVER.WARMUP_ITERS"),
        (("INPUT.SIZE_TEST", "[33, 16]"), "INPUT.SIZE_TEST"),
        (("T2IREID.LOSSES.info_nce.tau", "0.0"), "info_nce"),
        (("MODEL.HEADS.NAME", "EmbeddingHead"), "must be T2IReIDHead"),
        (("MODEL.BACKBONE.FEAT_DIM", "768"), "must be 32, the width of the backbone's features"),
        (("MODEL.WEIGHTS", "nowhere.pth"), "no checkpoint at 'nowhere.pth'"),
    ],
)
def test_a_setting_that_does_not_fit_data_or_model_is_a_one_line_error(
    capsys, text_image_yaml, synthetic, monkeypatch, tmp_path, words, message
) -> None:
    monkeypatch.setenv("FASTREID_DATASETS", str(synthetic.root))
    assert message in refused(capsys, "--config-file", text_image_yaml, "OUTPUT_DIR", tmp_path, *words)


def test_missing_data_is_a_one_line_error(capsys, text_image_yaml, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    assert "CUHK-PEDES" in refused(capsys, "--config-file", text_image_yaml, "OUTPUT_DIR", tmp_path)


def test_missing_files_and_flags_are_one_line_errors(capsys, text_image_yaml, tmp_path) -> None:
    assert "no configuration file 'nowhere.yml'" in refused(capsys, "--config-file", "nowhere.yml")
    assert "needs MODEL.WEIGHTS" in refused(capsys, "--config-file", text_image_yaml, "--eval-only")
    (tmp_path / "broken.yml").write_text("MODEL: [1, 2")
    assert "broken.yml" in refused(capsys, "--config-file", tmp_path / "broken.yml")
    (tmp_path / "orphan.yml").write_text("_BASE_: nowhere.yml")
    assert "nowhere.yml" in refused(capsys, "--config-file", tmp_path / "orphan.yml")


def test_another_normalisation_than_the_encoders_gives_a_warning(make_cfg, image_yaml, caplog, monkeypatch) -> None:
    monkeypatch.setattr(logging.getLogger("fastreid"), "propagate", True)  # FastReID turns it off
    words = ("MODEL.HEADS.NUM_CLASSES", "3", "MODEL.PIXEL_MEAN", "[123.675, 116.28, 103.53]")
    build_model(make_cfg(image_yaml, *words))
    assert "MODEL.PIXEL_MEAN: [123.675, 116.28, 103.53] differs from the image encoder's" in caplog.text
