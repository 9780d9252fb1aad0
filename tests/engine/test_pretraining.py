"""Both stages of a training, by the command line: on a set for pre-training, and from its weights on a benchmark."""

import json
import re
import shlex

import pytest
import torch
from preloaded import REPOSITORY, run_group
from pretraining_files import WRITERS, drawn, pack
from states import differences, saved

from t2ireid_plugin.cli import main
from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.engine.checks import check_config, check_recipe
from t2ireid_plugin.engine.text_image import TextImageEngine
from t2ireid_plugin.errors import ConfigError

TINY = "data.height 64 data.width 32 data.workers 0 use_gpu False train.precision fp32 train.batch_size 16"
TINY += " test.pictures 0 test.bootstrap 0 train.max_epoch 1 train.print_freq 1"


class Killed(BaseException):
    """Nothing is saved after it."""


@pytest.fixture
def root(tmp_path, synthetic, monkeypatch):
    """`data.root` with the benchmark; the cache of compiled tables is beside it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "reid-data").mkdir()
    (tmp_path / "reid-data" / "CUHK-PEDES").symlink_to(synthetic.root / "CUHK-PEDES")
    return tmp_path / "reid-data"


def words(recipe, root, clip, folder, settings=""):
    paths = f"data.root {root} data.save_dir {folder} model.vit_pretrained {clip} model.bert_base_path {clip}"
    return ["train", "--recipe", recipe, *f"{TINY} {paths} {settings}".split()]


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_both_stages(name, root, clip, synthetic, tmp_path, monkeypatch) -> None:
    rows = WRITERS[name](root, *drawn(synthetic))
    first = tmp_path / "log" / "pretrain"
    assert main(words("pretrain", root, clip, first, f"data.sources {name}")) == 0
    results = json.loads((first / "results.json").read_text())
    assert results["datasets"][name]["train"]["captions"] == len(rows)
    assert results["metrics"].keys() == {"cuhkpedes"}  # without its training people
    log = [json.loads(line) for line in (first / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in log if "step" in line]
    assert len(steps) == len(rows) // 16
    assert all(line["loss"] == pytest.approx(line["sdm"] + 0.3 * line["irr"]) for line in steps)
    best = saved(first, "best.pth")
    assert best["classes"] == []
    if name != "webperson":
        return
    monkeypatch.chdir(tmp_path)
    page = (REPOSITORY / "docs" / "pretraining.md").read_text(encoding="utf-8")
    pretrain, tune = (shlex.split(line)[1:] for line in re.findall("^t2ireid train .*", page, flags=re.MULTILINE))
    assert pretrain == [*words("pretrain", "reid-data", clip, first)[:3], "data.root", "reid-data"]
    assert main([*tune, *words("irra", "reid-data", clip, "log/irra", "train.lr 0")[3:]]) == 0
    tuned = saved(tmp_path / "log" / "irra", "best.pth")["state_dict"]
    same = [key for key, value in best["state_dict"].items() if torch.equal(value, tuned[key])]
    assert {key for key in tuned if key not in same} <= {"id_classifier.weight", "id_classifier.bias"}


@pytest.mark.slow
def test_shards_resume_exactly_and_two_processes_equal_one(root, clip, synthetic, tmp_path, monkeypatch) -> None:
    """A run that dies after any step, without another save, goes on with the same batches."""
    rows = WRITERS["webperson"](root, *drawn(synthetic))
    pack(root / "WebPerson", 9)
    settings = "data.transforms [random_flip_image,random_erase] train.max_epoch 2 train.save_steps 1"
    undisturbed = tmp_path / "undisturbed"
    assert main(words("pretrain", root, clip, undisturbed, settings)) == 0
    step, counted = TextImageEngine.train_batch, []

    def dies(engine, data):
        counted.append(0)
        if len(counted) in (1, 4, 12):
            raise Killed
        return step(engine, data)

    monkeypatch.setattr(TextImageEngine, "train_batch", dies)
    killed = tmp_path / "killed"
    for _ in range(3):
        with pytest.raises(Killed):
            main([*words("pretrain", root, clip, killed, settings), "--resume"])
    assert main([*words("pretrain", root, clip, killed, settings), "--resume"]) == 0
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(counted) == 3 + 2 * (len(rows) // 16)
    states = [saved(folder) for folder in (undisturbed, killed)]
    for state in states:
        del state["config"]["data"]["save_dir"], state["net_config"]  # from CLIP's folder, and from the checkpoint
    assert differences(*states, "last.pth") == []
    assert (killed / "metrics.jsonl").read_text() == (undisturbed / "metrics.jsonl").read_text()

    # Without masked words, which each process draws for its own captions.
    alone = f"{settings} loss.terms.irr.weight 0 train.max_epoch 1"
    done = run_group(["tools/train_net.py", *words("pretrain", root, clip, tmp_path / "two", alone)[1:]], 2)
    assert done.returncode == 0, done.stderr
    assert main(words("pretrain", root, clip, tmp_path / "one", alone)) == 0
    logs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "two")]
    losses = [[json.loads(line)["loss"] for line in log if "step" in line] for log in logs]
    assert len(losses[0]) == len(rows) // 16
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("data.sources mals,cuhkpedes", r"data\.sources: \['mals', 'cuhkpedes'\] must name mals alone"),
        ("data.val None", r"data\.val: webperson has no val split; set it to \[\]"),
        ("sampler.train_sampler RandomIdentitySampler", "would need several photos of a person, which most"),
        ("loss.terms.id_features.weight 1", "loss 'id_features' would need a classifier of the millions of identities"),
        ("data.noisy_rate 0.2", r"data\.noisy_rate: 0\.2 is not for webperson, a pre-training set"),
        ("data.targets mals", r"data\.targets: unknown 'mals'"),
    ],
)
def test_what_cannot_work_is_refused(settings, message) -> None:
    cfg = load_cfg("recipes/pretrain", settings.split())

    def check():
        check_config(cfg)
        check_recipe(cfg)

    with pytest.raises(ConfigError, match=message):
        check()
