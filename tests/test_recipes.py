"""configs/recipes on tiny towers, and docs/recipes.md."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from parity.irra_files import write_archive, write_best

from t2ireid_plugin.cli import main
from t2ireid_plugin.config import CONFIGS, load_cfg
from t2ireid_plugin.engine.build import build_run
from t2ireid_plugin.engine.checks import check_config, check_recipe
from t2ireid_plugin.engine.text_image import TextImageEngine
from t2ireid_plugin.evaluation.metrics import evaluate_task
from t2ireid_plugin.evaluation.protocols import RetrievalTask
from t2ireid_plugin.evaluation.result import CHOSEN_ON_TEST
from t2ireid_plugin.modeling.checkpoint import Checkpoint

NAMES = sorted(path.stem for path in (CONFIGS / "recipes").glob("*.yaml"))
SETS = ("icfgpedes", "rstpreid", "ufine6926")
_ENDS = [f"_{name}" for name in SETS]
PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_can_work_and_is_on_the_page(name) -> None:
    cfg = load_cfg(f"recipes/{name}")
    check_config(cfg)
    check_recipe(cfg)
    assert cfg.data.save_dir == f"log/{name}"
    recipe, _, last = name.rpartition("_")
    on = last if last in SETS else "cuhkpedes"
    if name == "pretrain":
        on = cfg.data.targets[0] = "webperson"
    assert (cfg.data.sources, cfg.data.targets[0]) == ([on], on)
    page = PAGE.read_text(encoding="utf-8")
    assert f"`_{on}`" in page and f"| `{recipe}` |" in page if last in SETS else f"| `{name}` |" in page


def test_each_recipe_has_a_twin_and_a_configuration_per_set() -> None:
    recipes = {name for name in NAMES if not name.endswith(("_t2ireid", *SETS))} - {"pretrain"}
    assert {"plain_clip", "irra", "rde", "tbps_clip"} <= recipes
    assert {"pretrain"} | {f"{recipe}{end}" for recipe in recipes for end in ("", "_t2ireid", *_ENDS)} == {*NAMES}


@pytest.mark.slow
def test_the_commands_of_the_page_run(synthetic, tmp_path, monkeypatch, capsys) -> None:
    """With tiny files of OpenAI's and the authors' formats; the epoch is chosen on test, which everything says."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reid-data").symlink_to(synthetic.root)
    write_archive(tmp_path / "ViT-B-16.pt")
    best = write_best(tmp_path / "best.pth")
    tiny = "model.vit_pretrained ViT-B-16.pt model.bert_base_path ViT-B-16.pt model.max_length 12 model.stride 4"
    tiny += " data.height 32 data.width 16 data.workers 0 train.max_epoch 1 train.precision fp32 use_gpu False"
    tiny += " test.bootstrap 0 test.pictures 0 test.choose_on test"
    printed = []
    for command in re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL):
        program, *words = shlex.split(command)
        assert program == "t2ireid"
        assert main([*words, *tiny.split()]) == 0
        printed.append(capsys.readouterr().out)
    assert len(printed) == 2
    assert CHOSEN_ON_TEST in printed[0]
    assert "test R@1" in printed[0]
    assert CHOSEN_ON_TEST not in printed[1]
    results = json.loads((tmp_path / "log" / "irra" / "results.json").read_text())
    assert results["chosen"]["chosen_on"] == "test"
    assert results["metrics"]["cuhkpedes"]["t2i"]["epoch_chosen_on"] == "cuhkpedes"
    heads = load_cfg("recipes/irra", ["data.root", "reid-data", *tiny.split(), "loss.terms.irr.num_layers", "2"])
    own = build_run(heads, Checkpoint.read("best.pth")).losses.state_dict()
    for name in ("cross_attn.in_proj_weight", "mlm_head.fc.weight"):  # training continues from the authors' heads
        assert torch.equal(own[f"terms.irr.{name.replace('fc', '3')}"], best[name]), name
    capsys.readouterr()
    assert main(["compare", "log/irra", "log/irra"]) == 0
    assert f"A: {CHOSEN_ON_TEST}" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("left_out", "heads"), [(("c", "ln_", "mlm"), False), (("classifier",), True)])
def test_training_starts_from_a_pretrained_model_in_irras_layout(synthetic, tmp_path, capsys, left_out, heads) -> None:
    """HAM's file has no heads, GA-DMS's those of the hidden words."""
    write_archive(tmp_path / "ViT-B-16.pt")
    best = write_best(tmp_path / "best.pth", left_out)
    assert any("mlm_head" in name for name in best) == heads
    words = f"data.root {synthetic.root} model.max_length 12 model.stride 4 data.height 32 data.width 16 use_gpu False"
    words += " data.workers 0 train.precision fp32 loss.terms.irr.num_layers 2"
    words += "".join(f" model.{key} {tmp_path / 'ViT-B-16.pt'}" for key in ("vit_pretrained", "bert_base_path"))
    engine = build_run(load_cfg("recipes/irra", words.split()), Checkpoint.read(tmp_path / "best.pth"))
    towers = engine.model.state_dict()
    assert torch.equal(towers["image_adapter.weight"], best["base_model.visual.proj"].T)
    assert torch.equal(
        towers["text_encoder.embeddings.token_embedding.weight"], best["base_model.token_embedding.weight"]
    )
    own = engine.losses.state_dict()["terms.irr.mlm_head.0.weight"]
    assert not heads or torch.equal(own, best["mlm_head.dense.weight"])


def mean_ap_in_training(engine: TextImageEngine) -> float:
    """mAP of the training captions on the training photos."""
    dataset, model = engine.train_loader.dataset, engine.model.eval()
    paths = dataset.train.paths()
    described = [paths.index(item[0]) for item in dataset.train]
    people = {item[0]: item[1] for item in dataset.train}
    pids = np.array([people[path] for path in paths])
    with torch.no_grad():
        photos = torch.cat([model.encode_gallery(dataset.tensor(path)[None]) for path in paths])
        texts = model.encode_query([item[4] for item in dataset.train])
    cameras = np.full(len(texts), -1), np.zeros(len(pids), int)
    return evaluate_task(RetrievalTask(texts, photos, pids[described], pids, *cameras)).metrics["mAP"]


def on_tiny_towers(name: str, root: Path, clip: Path, settings: str) -> TextImageEngine:
    """The engine of a recipe whose CLIP is tiny, for images of 64 x 32 pixels."""
    words = f"data.root {root} model.vit_pretrained {clip} model.bert_base_path {clip} data.height 64 data.width 32"
    words += f" data.workers 0 data.keep_images True use_gpu False train.precision fp32 {settings}"
    return build_run(load_cfg(f"recipes/{name}", words.split()))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "pretrain"])  # engine/test_pretraining.py trains it
def test_each_recipe_is_built_and_a_twin_trains(name, benchmark_root, clip) -> None:
    (on,) = load_cfg(f"recipes/{name}").data.sources
    settings = f"data.targets {on} data.val_share 0.2 train.batch_size 96"  # without UFine3C
    engine = on_tiny_towers(name, benchmark_root(on), clip, settings)
    assert engine.datamanager.sources == [on]
    if name.endswith("_t2ireid"):  # the others train below
        before = {key: value.clone() for key, value in engine.model.state_dict().items()}
        engine.max_epoch = 1
        engine.train(print_freq=100)
        moved = {key for key, value in engine.model.state_dict().items() if not torch.equal(value, before[key])}
        for part in ("visual_encoder", "text_encoder", "disentangle"):
            assert any(key.startswith(part) for key in moved), part


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "epochs", "own"),
    [
        ("plain_clip", 8, "train.lr 3e-3"),
        ("irra", 8, "train.lr 3e-3"),
        # without its slowest term, with which its twin trains above
        ("tbps_clip", 10, "train.lr 2e-3 train.max_epoch 60 loss.terms.n_itc.scale 10 loss.terms.simclr.weight 0"),
    ],
)
def test_a_recipe_learns_from_random_towers(name, epochs, own, synthetic, clip) -> None:
    """It learns its 24 people; random towers need a higher rate, smaller batches and no augmentation."""
    settings = "data.val [] data.transforms [] train.batch_size 16 train.warmup_epochs 1"
    settings += f" adam.eps 1e-8 adam.beta2 0.98 loss.terms.sdm.tau 0.1 {own}"
    engine = on_tiny_towers(name, synthetic.root, clip, settings)
    untrained = mean_ap_in_training(engine)
    for epoch in range(epochs):
        engine.epoch, engine.max_epoch = epoch, 60
        engine.train(print_freq=100)
        engine.scheduler.step()
    assert mean_ap_in_training(engine) > 1.5 * untrained
