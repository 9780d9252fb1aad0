"""torchreid's configurations and models by our command line, on drawn people in the formats of its datasets."""

import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchreid import data, engine, metrics, models, optim, utils

from t2ireid_plugin.cli import main
from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.integrations.torchreid.build import build_image_model
from t2ireid_plugin.integrations.torchreid.checks import check_config
from t2ireid_plugin.integrations.torchreid.engine import TripletEngine
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel

# In the style of torchreid's configuration files.
OSNET = """
model:
  name: 'osnet_x0_25'
  pretrained: True

data:
  type: 'image'
  sources: ['market1501']
  targets: ['market1501']
  height: 64
  width: 32
  transforms: ['random_flip']

loss:
  name: 'softmax'

train:
  optim: 'amsgrad'
  lr: 0.003
  max_epoch: 1
  batch_size: 24
  lr_scheduler: 'single_step'
  stepsize: [80]
"""
QUIET = ["use_gpu", "False", "data.workers", "0", "test.bootstrap", "50", "train.print_freq", "1"]
# configs/market1501_t2ireid.yaml made tiny.
TINY = [
    *("model.vit_pretrained", ""),
    *("model.vit_config", "{image_size: [32, 16], patch_size: 8, hidden_size: 32, num_hidden_layers: 1, "
                          "num_attention_heads: 2, intermediate_size: 32}"),
    *("data.height", "32", "data.width", "16", "train.batch_size", "32", "train.fixbase_epoch", "0"),
    *("train.lr_scheduler", "single_step", "train.max_epoch", "1"),
]  # fmt: skip


@pytest.fixture(scope="module")
def osnet_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("configs") / "im_osnet_x0_25_softmax_256x128_amsgrad.yaml"
    file.write_text(OSNET)
    return file


@pytest.fixture(scope="module")
def osnet_run(osnet_file, reid_data, tmp_path_factory):
    """The folder of a finished run of torchreid's OSNet, with the arguments of torchreid's script."""
    folder = tmp_path_factory.mktemp("osnet") / "log"
    words = ["--config-file", str(osnet_file), "--root", str(reid_data), "--transforms", "random_flip", "random_erase"]
    words += ["-s", "market1501", "-t", "market1501", "msmt17", "model.pretrained", "False"]
    assert main(["train", *words, *QUIET, "data.save_dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def tiny_words(repository, reid_data):
    """`tiny_words(save_dir, *settings, name=…)`: command line for our tiny model on the drawn Market-1501."""

    def words(save_dir, *settings, name="market1501_t2ireid"):
        file = repository / "configs" / f"{name}.yaml"
        head = ["--config-file", str(file), "--root", str(reid_data)]
        return [*head, *QUIET, *TINY, "data.save_dir", str(save_dir), *map(str, settings)]

    return words


def test_use_gpu_reaches_torchreids_models():
    words = ["model.name", "hacnn", "loss.name", "softmax", "model.pretrained", "False", "use_gpu", "False"]
    model = build_image_model(load_cfg(None, words), num_classes=3).eval()
    assert model(torch.rand(1, 3, 160, 64)).shape == (1, 1024)


def results(folder):
    return json.loads((folder / "results.json").read_text())


def metrics_of(content, target="market1501"):
    return {name: value for name, value in content["metrics"][target]["i2i"].items() if name != "interval95"}


def weights(file):
    return torch.load(file, weights_only=True)["state_dict"]


def same(first, second):
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def test_the_files_and_results_of_a_run(osnet_run, reid_data):
    names = {path.name for path in osnet_run.iterdir()}
    assert names - {next(n for n in names if n.startswith("events."))} == {
        ".lock", "best.pth", "config.yaml", "env.txt", "last.pth", "metrics.jsonl", "results.json", "train.log",
    }  # fmt: skip
    content = results(osnet_run)
    assert content["chosen"] == {"epoch": 1, "val": {}, "weights": content["weights"]}
    assert content["datasets"]["market1501"] == {
        "train": {"images": 96, "ids": 24, "cameras": 4},
        "query": {"images": 8, "ids": 8, "cameras": 1},
        "gallery": {"images": 25, "ids": 9, "cameras": 4},
    }
    for name, queries, gallery in (("market1501", 8, 25), ("msmt17", 16, 48)):
        of_set = content["metrics"][name]["i2i"]
        assert (of_set["queries"], of_set["gallery"]) == (queries, gallery)
        assert 0 < of_set["mINP"] <= of_set["mAP"] <= 1
        assert set(of_set["interval95"]) == {"R@1", "R@5", "R@10", "R@20", "mAP", "mINP"}
    assert "the last epoch is tested" in (osnet_run / "train.log").read_text().lower()
    lines = [json.loads(line) for line in (osnet_run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "step" in line] == [1, 2, 3, 4]
    assert all(math.isfinite(line["loss"]) for line in lines if "step" in line)


def test_the_short_forms_reach_the_configuration(osnet_run, reid_data):
    """A list of names ends where a setting follows."""
    cfg = load_cfg(osnet_run / "config.yaml")
    assert cfg.data.root == str(reid_data)
    assert (cfg.data.sources, cfg.data.targets) == (["market1501"], ["market1501", "msmt17"])
    assert cfg.data.transforms == ["random_flip", "random_erase"]
    assert cfg.model.pretrained is False
    assert (cfg.train.optim, cfg.train.lr) == ("amsgrad", 0.003)


def by_hand(reid_data, cfg):
    """torchreid's scripts/main.py, with torchreid alone."""
    utils.set_random_seed(cfg.train.seed)
    datamanager = data.ImageDataManager(
        root=str(reid_data),
        sources=["market1501"],
        targets=["market1501", "msmt17"],
        height=64,
        width=32,
        transforms=["random_flip", "random_erase"],
        batch_size_train=24,
        batch_size_test=100,
        workers=0,
        use_gpu=False,
    )
    model = models.build_model("osnet_x0_25", datamanager.num_train_pids, "softmax", pretrained=False)
    chosen = optim.build_optimizer(model, optim="amsgrad", lr=0.003, weight_decay=5e-4, adam_beta2=0.999)
    scheduler = optim.build_lr_scheduler(chosen, stepsize=80)
    return engine.ImageSoftmaxEngine(datamanager, model, chosen, scheduler=scheduler, use_gpu=False)


def test_each_epoch_has_a_line(osnet_run):
    (line,) = re.findall(r"^epoch 1/1 .*", (osnet_run / "train.log").read_text(), flags=re.MULTILINE)
    assert re.fullmatch(r"epoch 1/1  loss \d\S*  acc \d\S*", line)


def test_training_and_metrics_equal_torchreids(osnet_run, reid_data, tmp_path, capsys):
    """With the same seed before the epoch: the same weights after it, and torchreid's own metrics."""
    trainer = by_hand(reid_data, load_cfg(osnet_run / "config.yaml"))
    utils.set_random_seed(1)
    capsys.readouterr()
    trainer.run(save_dir=str(tmp_path), max_epoch=1, print_freq=100)
    printed = capsys.readouterr().out
    assert same(weights(osnet_run / "last.pth"), dict(trainer.model.state_dict()))
    assert same(weights(osnet_run / "best.pth"), dict(trainer.model.state_dict()))
    expected = results(osnet_run)["metrics"]
    parts = re.findall(r"Evaluating (\w+) \(.*?mAP: ([0-9.]+)%.*?Rank-1 +: ([0-9.]+)%", printed, flags=re.DOTALL)
    assert [name for name, *_ in parts] == ["market1501", "msmt17"]
    for name, mean_precision, first in parts:
        assert 100 * expected[name]["i2i"]["mAP"] == pytest.approx(float(mean_precision), abs=0.051)
        assert 100 * expected[name]["i2i"]["R@1"] == pytest.approx(float(first), abs=0.051)


def test_checkpoints_are_resumed_by_torchreid_and_torchreids_by_us(osnet_run, osnet_file, reid_data, tmp_path):
    trainer = by_hand(reid_data, load_cfg(osnet_run / "config.yaml"))
    parts = trainer.model, trainer.optimizer, trainer.scheduler
    assert utils.resume_from_checkpoint(str(osnet_run / "last.pth"), *parts) == 1
    assert same(weights(osnet_run / "last.pth"), dict(trainer.model.state_dict()))
    trainer.epoch = 0
    trainer.save_model(0, np.float64(0.25), str(tmp_path))  # with a NumPy scalar, as torchreid calls it
    words = ["--config-file", str(osnet_file), "--root", str(reid_data), "model.pretrained", "False", *QUIET]
    resumed = [*words, "model.resume", str(tmp_path / "model" / "model.pth.tar-1"), "train.max_epoch", "2"]
    assert main(["train", *resumed, "data.save_dir", str(tmp_path / "log")]) == 0
    assert results(tmp_path / "log")["chosen"]["epoch"] == 2
    assert torch.load(tmp_path / "log" / "last.pth", weights_only=True)["epoch"] == 2


def test_eval_only_gives_the_same_metrics(osnet_run, tmp_path):
    for settings in (["--eval-only"], ["test.evaluate", "True"], ["--eval-only", "test.evaluator", "torchreid"]):
        words = ["--config-file", str(osnet_run / "config.yaml"), *settings]
        words += ["model.load_weights", str(osnet_run / "best.pth"), "data.save_dir", str(tmp_path / "log")]
        assert main(["train", *words]) == 0
        again, expected = results(tmp_path / "log" / "test" / "market1501+msmt17"), results(osnet_run)
        for name in ("market1501", "msmt17"):
            assert metrics_of(again, name) == pytest.approx(metrics_of(expected, name), abs=1e-6)
        assert again["chosen"] == expected["chosen"]


def test_a_run_is_tested_without_a_configuration_file(osnet_run, tmp_path):
    """A typed metric differs from the training's, and is recorded."""
    moved = tmp_path / "best.pth"
    shutil.copy(osnet_run / "best.pth", moved)
    assert main(["test", str(moved)]) == 0
    folder = tmp_path / "test" / "market1501+msmt17"
    assert results(folder)["metrics"] == results(osnet_run)["metrics"]
    assert results(folder)["weights"] == results(osnet_run)["weights"]
    assert main(["test", str(moved), "test.dist_metric", "cosine"]) == 0
    assert results(folder)["changed"] == {"test.dist_metric": {"trained": "euclidean", "tested": "cosine"}}


def test_visrank_and_rerank_when_testing(osnet_run, tmp_path, capsys):
    words = ["--config-file", str(osnet_run / "config.yaml"), "model.load_weights", str(osnet_run / "best.pth")]
    words += ["-t", "market1501", "test.visrank", "True", "test.rerank", "True", "test.visrank_topk", "3"]
    words += ["data.save_dir", str(tmp_path)]
    assert main(["train", *words]) == 2
    assert "test.visrank: torchreid draws ranked lists only when testing" in capsys.readouterr().err
    assert main(["test", *words]) == 0
    folder = tmp_path / "test" / "market1501"
    assert len(list((folder / "visrank_market1501").glob("*.jpg"))) == 8
    assert metrics_of(results(folder)) == pytest.approx(metrics_of(results(osnet_run)), abs=1e-6)
    protocols = results(folder)["metrics"]["market1501"]
    assert protocols["i2i+rerank"]["mAP"] != protocols["i2i"]["mAP"]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("market1501_t2ireid", "t2ireid_vit_mamba"),
        ("msmt17_t2ireid", "t2ireid_vit_mamba_cloth"),
        ("market1501_to_msmt17_t2ireid", "t2ireid_vit_mamba_both"),
    ],
)
def test_our_configurations_train_our_models(tiny_words, tmp_path, name, file):
    """The last one on two datasets."""
    both = name.endswith("both")
    words = tiny_words(tmp_path, "model.name", name, *(("-s", "market1501", "msmt17") if both else ()), name=file)
    assert main(["train", *words]) == 0
    target = "market1501" if file == "market1501_t2ireid" else "msmt17"
    assert list(results(tmp_path)["metrics"]) == [target]
    state = weights(tmp_path / "best.pth")
    assert state["classifier.weight"].shape == ((48, 512) if both else (24, 256))
    stored = torch.load(tmp_path / "best.pth", weights_only=True)["preprocess"]
    assert stored == {"height": 32, "width": 16, "mean": [0.5] * 3, "std": [0.5] * 3}


def test_a_resumed_run_is_bit_identical(tiny_words, tmp_path, capsys):
    """Also with tests between epochs, and without the log lines of a killed epoch."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    two = ["train.max_epoch", 2, "test.eval_freq", 1]
    assert main(["train", *tiny_words(whole, *two)]) == 0
    assert main(["train", *tiny_words(broken)]) == 0
    with open(broken / "metrics.jsonl", "a") as log:
        log.write('{"step": 4, "epoch": 2, "lr": 0.1, "loss_t": 9.0}\n{"step": 5, "ep')
    assert main(["train", *tiny_words(broken, *two), "--resume"]) == 0
    assert same(weights(whole / "last.pth"), weights(broken / "last.pth"))
    assert results(whole)["metrics"] == results(broken)["metrics"]
    steps = [
        [line for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if "step" in line]
        for folder in (whole, broken)
    ]
    assert steps[0] == steps[1]
    assert len(steps[0]) == 6
    assert main(["train", *tiny_words(broken, *two), "--resume"]) == 0
    assert f"The run in '{broken}' is finished" in capsys.readouterr().out
    (broken / "results.json").unlink()  # killed during the final test
    assert main(["train", *tiny_words(broken, *two), "--resume"]) == 0
    assert results(whole)["metrics"] == results(broken)["metrics"]


def test_a_new_run_in_an_old_folder_does_not_resume_the_old_one(tiny_words, tmp_path, monkeypatch, capsys):
    assert main(["train", *tiny_words(tmp_path, "train.max_epoch", 2)]) == 0
    assert {"last.pth", "last.prev.pth"} <= {path.name for path in tmp_path.iterdir()}
    monkeypatch.setattr(TripletEngine, "train", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["train", *tiny_words(tmp_path), "--overwrite"]) == 130
    monkeypatch.undo()
    assert main(["train", *tiny_words(tmp_path), "--resume"]) == 0
    assert "Resuming" not in capsys.readouterr().out


@pytest.mark.parametrize("branches", ["", "_both"])
def test_weights_of_a_text_image_run_are_tested_on_images(tiny_words, tiny_run, reid_data, tmp_path, branches):
    """With both branches by the scores of the run's model, with one after a warning."""
    weights = tiny_run.folder / "best.pth"
    words = tiny_words(tmp_path, "model.load_weights", weights, "model.name", f"t2ireid_vit_mamba{branches}")
    assert main(["test", *words]) == 0
    log = (tmp_path / "test" / "market1501" / "test.log").read_text()
    assert log.count("ranks by both branches, this model by identity alone") == (0 if branches else 1)
    scores = results(tmp_path / "test" / "market1501")["metrics"]["market1501"]["i2i"]
    assert scores["queries"] == 8
    if branches:
        assert scores["mAP"] == pytest.approx(mean_ap_of(weights, reid_data), abs=1e-6)


def mean_ap_of(weights, root):
    """mAP of `encode_gallery` with torchreid's dataset, transforms and evaluator."""
    model, dataset = (
        T2IReIDModel.from_checkpoint(weights),
        data.datasets.init_image_dataset("market1501", root=str(root)),
    )
    height, width, mean, std = model.preprocess
    _, transform = data.transforms.build_transforms(height, width, None, norm_mean=list(mean), norm_std=list(std))
    embeds, labels = [], []
    for items in (dataset.query, dataset.gallery):
        with torch.no_grad():
            pixels = torch.stack([transform(Image.open(path)) for path, *_ in items])
            embeds.append(model.encode_gallery(pixels))
        labels.append(np.array([item[1:3] for item in items]).T)
    (q_pids, q_cams), (g_pids, g_cams) = labels
    distances = (1 - embeds[0] @ embeds[1].T).numpy()
    return metrics.evaluate_rank(distances, q_pids, g_pids, q_cams, g_cams, max_rank=5)[1]


def market(reid_data, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(reid_data / "market1501", root / "market1501")
    return root, root / "market1501" / "Market-1501-v15.09.15"


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_damaged_image_is_named(tiny_words, reid_data, tmp_path, capsys, share):
    """torchreid's reader would retry it forever."""
    root, folder = market(reid_data, tmp_path)
    broken = next(folder.glob("query/*.jpg"))
    content = broken.read_bytes()
    broken.write_bytes(content[: int(share * len(content))])
    assert main(["train", *tiny_words(tmp_path / "log"), "--root", str(root)]) == 2
    assert str(broken) in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: shutil.rmtree(folder / "query"),
        lambda folder: [f.unlink() for f in (folder / "query").iterdir()],
        lambda folder: (folder / "query" / "what.jpg").touch(),
    ],
)
def test_a_broken_dataset_is_named(tiny_words, reid_data, tmp_path, capsys, change):
    root, folder = market(reid_data, tmp_path)
    change(folder)
    assert main(["train", *tiny_words(tmp_path / "log"), "--root", str(root)]) == 2
    assert f"market1501: torchreid cannot read it in '{root}': " in capsys.readouterr().err


def test_everything_missing_is_named_at_once(tiny_words, tmp_path, capsys):
    words = ["--root", tmp_path, "-s", "msmt17", "-t", "msmt17", "model.vit_pretrained", "./no"]
    assert main(["train", *tiny_words(tmp_path / "log", *words)]) == 2
    error = capsys.readouterr().err
    assert f"msmt17: no folder '{tmp_path / 'msmt17'}'" in error
    assert "vit_pretrained: no folder './no'" in error


def test_a_failed_download_is_named(tiny_words, tmp_path, capsys, monkeypatch):
    def broken(url, target):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(data.datasets.dataset, "download_url", broken)
    assert main(["train", *tiny_words(tmp_path / "log"), "--root", str(tmp_path)]) == 2
    message = f"market1501: torchreid cannot read it in '{tmp_path}': Network is unreachable"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["train.batch_size", "128", "sampler.train_sampler", "RandomSampler"],
            "data.sources: 96 training samples, fewer than train.batch_size 128",
        ),
        (["sampler.num_instances", "1"], "data.sources: 24 training identities, but a batch takes 32"),
        (
            ["sampler.train_sampler", "RandomDomainSampler", "sampler.num_cams", "8"],
            "cameras, the smallest with 24 training samples, but RandomDomainSampler takes 4 of each of 8",
        ),
        (
            ["sampler.train_sampler", "RandomDatasetSampler", "sampler.num_datasets", "2"],
            "1 datasets, the smallest with 96 training samples, but RandomDatasetSampler takes 16 of each of 2",
        ),
        (["data.height", "36"], "data.height 36, data.width 16: images of 36 x 16 pixels"),
        (["train.new_layers", "[fc]"], "train.new_layers: unknown 'fc'; valid: visual_encoder, disentangle"),
        (["train.fixbase_epoch", "1", "train.open_layers", "[fc]"], "train.open_layers: unknown 'fc'; valid: visual"),
        (["train.start_epoch", "1"], "train.max_epoch: 1 leaves nothing to train after 1"),
        (["--visualize"], "--visualize needs texts"),
        (["--eval-only"], "nothing to test"),
        (["model.load_weights", "nowhere.pth"], "no checkpoint at 'nowhere.pth'"),
        (["model.resume", "nowhere.pth"], "no checkpoint at 'nowhere.pth'"),
    ],
)
def test_mistakes_are_one_line(tiny_words, tmp_path, capsys, words, message):
    assert main(["train", *tiny_words(tmp_path, *words)]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_weights_alone_cannot_be_resumed(tiny_words, osnet_run, tmp_path, capsys):
    assert main(["train", *tiny_words(tmp_path, "model.resume", osnet_run / "best.pth")]) == 2
    assert "has no optimizer, scheduler, so training cannot be resumed" in capsys.readouterr().err
    assert main(["train", *tiny_words(tmp_path, "model.resume", osnet_run / "last.pth")]) == 2
    assert "was trained with model.name 'osnet_x0_25', now it is 't2ireid_vit_mamba'" in capsys.readouterr().err


def test_a_non_finite_loss_ends_the_run(tiny_words, tmp_path, capsys):
    assert main(["train", *tiny_words(tmp_path, "train.lr", "1e30", "train.max_epoch", "3")]) == 2
    assert "the loss is not finite in epoch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.type", "video"], "data.type: unknown 'video'; valid: image"),
        (["model.name", "osnet_x10"], "model.name: unknown 'osnet_x10'; valid: .*osnet_x1_0.*t2ireid_vit_mamba"),
        (["loss.name", "terms"], "loss.name: unknown 'terms'; valid: softmax, triplet"),
        (["data.sources", "cuhkpedes"], "data.sources: 'cuhkpedes' has texts as queries"),
        (["data.targets", "cuhkpedes_val"], "data.targets: 'cuhkpedes_val' has texts as queries"),
        (["data.sources", "market"], "data.sources: unknown 'market'; valid: market1501"),
        (["data.transforms", "drop_words"], "data.transforms: unknown 'drop_words'; valid: random_flip"),
        (["train.optim", "adamw"], "train.optim: unknown 'adamw'; valid: adam, amsgrad, sgd, rmsprop, radam"),
        (["loss.name", "triplet", "train.fixbase_epoch", "3"], "train.fixbase_epoch: 3 must be 0"),
        (["loss.name", "triplet", "loss.triplet.weight_t", "0"], "weight_t 0.0 and weight_x 0.0 must be at least 0"),
        (["data.k_tfm", "2"], "data.k_tfm: 2 must be 1"),
        (["train.ema_decay", "0.9"], "train.ema_decay: 0.9 has no effect on osnet_x1_0 with loss.name softmax"),
        (["model.vit_config.hidden_size", "3"], "model.vit_config: .* has no effect on osnet_x1_0"),
        (["cuhk03.use_metric_cuhk03", "True"], "use_metric_cuhk03: True has no effect .*NumPy"),
        (["data.load_train_targets", "True"], "load_train_targets: True has no effect .*sources alone"),
        (["data.val", "[]"], r"data.val: \[\] has no effect .*no val split"),
        (["video.seq_len", "3"], "video.seq_len: 3 has no effect"),
    ],
)
def test_settings_that_torchreids_models_cannot_use_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        check_config(load_cfg(None, ["model.name", "osnet_x1_0", *words]))


@pytest.mark.parametrize(
    ("name", "schedule"),
    [("adam", "cosine"), ("amsgrad", "multi_step"), ("sgd", "cosine"), ("rmsprop", "multi_step"), ("radam", "cosine")],
)
def test_every_optimizer_and_schedule_trains(tiny_words, tmp_path, name, schedule):
    words = ["train.optim", name, "train.lr_scheduler", schedule, "train.lr", "1e-4", "train.staged_lr", "False"]
    assert main(["train", *tiny_words(tmp_path, *words)]) == 0
    state = torch.load(tmp_path / "last.pth", weights_only=True)["optimizer"]
    assert state["param_groups"][0].get("amsgrad", False) == (name == "amsgrad")
    assert ("momentum" in state["param_groups"][0]) == (name in ("sgd", "rmsprop"))


def test_commands_that_need_texts_refuse_image_only_runs(osnet_run, tmp_path, capsys):
    grid = tmp_path / "grid.yaml"
    grid.write_text("rows:\n  plain: {}\n")
    file, log = str(osnet_run / "config.yaml"), str(tmp_path / "log")
    for command in (
        ["probe", "--config-file", file],
        ["export", str(osnet_run), str(tmp_path / "out")],
        ["ablate", "--config-file", file, "--grid", str(grid), "--out", log, "--target", "market1501"],
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert f"t2ireid {command[0]}: model.name osnet_x0_25 with loss.name softmax works on images alone" in error


def test_metrics_of_unnormalised_features_equal_torchreids():
    from t2ireid_plugin.evaluation.metrics import evaluate_task, reranked_metrics
    from t2ireid_plugin.evaluation.protocols import RetrievalTask

    generator = torch.Generator().manual_seed(0)
    queries, gallery = (10 * torch.randn(n, 5, generator=generator) + 3 for n in (30, 80))
    rng = np.random.default_rng(1)
    pids, camids = ([rng.integers(0, high, n) for n in (30, 80)] for high in (9, 3))
    comparison = RetrievalTask(queries, gallery, *pids, *camids)
    for metric in ("euclidean", "cosine"):
        distances = metrics.compute_distance_matrix(queries, gallery, metric).numpy()
        cmc, mean_precision = metrics.evaluate_rank(distances, *pids, *camids)
        for evaluator in ("exact", "torchreid"):
            ours = evaluate_task(comparison, (1, 5), evaluator, metric=metric).metrics
            assert (ours["R@1"], ours["R@5"]) == pytest.approx((cmc[0], cmc[4]))
            assert ours["mAP"] == pytest.approx(mean_precision)
        within = [metrics.compute_distance_matrix(side, side, metric).numpy() for side in (queries, gallery)]
        cmc, mean_precision = metrics.evaluate_rank(utils.re_ranking(distances, *within), *pids, *camids)
        assert reranked_metrics(comparison, (1, 5), metric=metric)["mAP"] == pytest.approx(mean_precision, abs=1e-3)
