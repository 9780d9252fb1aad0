"""configs/t2i_clip_mamba.yaml and docs/encoders.md with the command line and a tiny CLIP in CLIP's file format."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from preloaded import run_python

from t2ireid_plugin.cli import main
from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.engine.checks import check_config
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel

REPOSITORY = Path(__file__).parents[1]
PAGES = ("encoders.md", "encoders.zh-CN.md")
RECIPE = "configs/t2i_clip_mamba.yaml"
QUICK = "train.max_epoch 2 train.batch_size 32 data.workers 0 test.pictures 1 test.bootstrap 0 use_gpu False"


def blocks(page: str, language: str) -> list[str]:
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_recipe_has_published_values() -> None:
    """Those of IRRA (CVPR 2023) and RDE (CVPR 2024)."""
    cfg = load_cfg(REPOSITORY / RECIPE)
    check_config(cfg)
    assert cfg.model.vit_pretrained == cfg.model.bert_base_path == "openai/clip-vit-base-patch16"
    assert (cfg.data.height, cfg.data.width, cfg.model.max_length, cfg.model.freeze_text) == (384, 128, 77, False)
    assert cfg.train.lr * cfg.train.base_lr_mult == pytest.approx(1e-5)
    assert cfg.train.staged_lr
    assert 5e-5 <= cfg.train.lr <= 1e-3
    assert (cfg.train.bias_lr_mult, cfg.train.warmup_epochs, cfg.train.lr_scheduler) == (2, 5, "warmup_cosine")
    assert cfg.data.transforms == ["random_flip", "random_crop", "random_erase"]


@pytest.fixture(scope="module")
def trained(synthetic, clip, tmp_path_factory):
    """A run of the recipe with all options of the optimisation: folder, command line and output."""
    folder = tmp_path_factory.mktemp("clip_run") / "log"
    settings = {
        "data.root": synthetic.root,
        "data.save_dir": folder,
        "model.vit_pretrained": clip,
        "model.bert_base_path": clip,
        "data.height": 64,
        "data.width": 32,
        "train.layer_decay": 0.7,
        "train.ema_decay": 0.5,
        "test.eval_freq": 1,
    }
    pairs = [str(word) for pair in settings.items() for word in pair]
    words = ["--config-file", str(REPOSITORY / RECIPE), *pairs, *QUICK.split()]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["train", *words]) == 0
    return folder, words, printed.getvalue()


def test_the_recipe_trains(trained, clip) -> None:
    folder, _, printed = trained
    assert re.search(r"R@1 +R@5 +R@10 +mAP +mINP", printed)
    assert "UNEXPECTED" not in printed
    assert json.loads((folder / "results.json").read_text())["metrics"]["cuhkpedes"]["t2i"]["queries"] == 64
    best = torch.load(folder / "best.pth", weights_only=True)
    mean, std = ([0.48, 0.46, 0.41], [0.27, 0.26, 0.28])  # of the folder's preprocessor_config.json
    assert best["preprocess"] == {"height": 64, "width": 32, "mean": mean, "std": std}
    pretrained = T2IReIDModel({"vit_pretrained": str(clip), "bert_base_path": str(clip), "num_classes": 24})
    for tower in ("visual_encoder.", "text_encoder."):
        names = [name for name in pretrained.state_dict() if name.startswith(tower) and name.endswith("weight")]
        assert len(names) >= 18
        moved = [not torch.equal(pretrained.state_dict()[name], best["state_dict"][name]) for name in names]
        assert all(moved)


def test_a_size_that_does_not_fit_is_refused_with_the_nearest_one(trained, tmp_path, capsys) -> None:
    _, words, _ = trained
    capsys.readouterr()
    assert main(["train", *words, "data.height", "70", "data.save_dir", str(tmp_path / "log")]) == 2
    error = capsys.readouterr().err
    assert "data.height 70, data.width 32: images of 70 x 32 pixels" in error
    assert "64 x 32" in error


def test_both_pages_have_the_same_keys() -> None:
    keys = [re.findall(r"`((?:model|train|data)\.\w+)", (REPOSITORY / "docs" / page).read_text()) for page in PAGES]
    assert set(keys[0]) == set(keys[1])
    cfg = load_cfg()
    for key in keys[0]:
        table, name = key.split(".")
        assert name in cfg[table], key


@pytest.mark.slow
def test_the_pages_snippet_and_command_run(synthetic, clip, tmp_path) -> None:
    for name in ("tools", "configs"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / "reid-data").symlink_to(synthetic.root)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "clip").symlink_to(clip)
    (snippet,) = blocks(PAGES[0], "yaml")
    (tmp_path / "clip.yaml").write_text(snippet, encoding="utf-8")
    (command,) = blocks(PAGES[0], "bash")
    program, *words = command.split()
    assert program == "t2ireid"
    run_python(["-m", "t2ireid_plugin", *words, *QUICK.replace("max_epoch 2", "max_epoch 1").split()], tmp_path)
    stored = yaml.safe_load((tmp_path / "log" / "t2i_clip_mamba" / "config.yaml").read_text())
    assert (stored["data"]["height"], stored["train"]["layer_decay"], stored["train"]["ema_decay"]) == (256, 0.8, 0.999)
