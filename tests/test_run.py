"""Whole runs by the command line: their files and results, testing, resuming, other datasets and languages."""

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from states import changed, saved

from t2ireid_plugin.cli import main
from t2ireid_plugin.config import load_cfg, to_dict
from t2ireid_plugin.modeling.encoders.tokenizer import tokenizer_from_json


@pytest.fixture(scope="module")
def train_net(repository):
    """`train_net(words, **options of subprocess)`: `python tools/train_net.py …` in the repository's folder."""

    def run(words, tool="tools/train_net.py", **options):
        command = [sys.executable, str(tool), *map(str, words)]
        settings = {"cwd": repository, "capture_output": True, "text": True, "check": False, **options}
        return subprocess.run(command, **settings)

    return run


def results(folder):
    return json.loads((folder / "results.json").read_text())


def numbers(folder):
    """The metrics of a finished run on test and val."""
    return results(folder)["metrics"], results(folder)["chosen"]


LIGHT = {"data__transforms": "[random_flip, random_crop, random_erase]", "train__print_freq": 1}


@pytest.fixture(scope="module")
def light_run(tiny_settings, tmp_path_factory):
    """The folder of a finished light training."""
    folder = tmp_path_factory.mktemp("light")
    assert main(["train", *tiny_settings(folder, **LIGHT)]) == 0
    return folder


# The files of a run


def test_the_console_has_a_line_per_epoch_and_each_table_once(tiny_run):
    """Its epochs have fewer steps than train.print_freq."""
    lines = tiny_run.printed.splitlines()
    records = [json.loads(line) for line in (tiny_run.folder / "metrics.jsonl").read_text().splitlines()]
    val = {record["epoch"]: record["R@1"] for record in records if record.get("target") == "cuhkpedes_val"}
    epochs = [line for line in lines if line.startswith("epoch")]
    for number, line in enumerate(epochs, 1):
        assert re.match(rf"epoch {number}/2  loss \d\S*  val R@1 {100 * val[number]:.1f}", line)
        assert ("(best)" in line) == (number in (1, tiny_run.results["chosen"]["epoch"]))
    assert len(epochs) == 2
    assert re.search(r"  eta \d:\d\d:\d\d$", epochs[0])
    assert "eta" not in epochs[1]
    for table in ("split ", "target "):
        assert sum(line.startswith(table) for line in lines) == 1


def test_the_loss_of_an_epoch_is_the_mean_of_its_steps(light_run):
    records = [json.loads(line) for line in (light_run / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if "step" in record]
    (line,) = re.findall(r"^epoch 1/1 .*", (light_run / "train.log").read_text(), flags=re.MULTILINE)
    assert float(line.split()[3]) == pytest.approx(np.mean(losses), rel=1e-3)


@pytest.mark.slow
def test_the_same_command_and_seed_give_the_same_run(train_net, tiny_settings, tiny_run, tmp_path):
    """In a process of its own."""
    done = train_net(tiny_settings(tmp_path, full=True))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "train.log").read_text() == done.stdout
    assert numbers(tmp_path) == numbers(tiny_run.folder)
    first, second = (saved(folder, "best.pth")["state_dict"] for folder in (tmp_path, tiny_run.folder))
    assert changed(first, second) == set()


def test_a_run_prints_its_metrics(tiny_run):
    header, row, weight, undecided = tiny_run.printed.strip().splitlines()[-6:-2]
    columns = ["target", "protocol", "R@1", "R@5", "R@10", "mAP", "mINP", "queries", "gallery"]
    assert header.split()[:9] == columns
    metrics = tiny_run.results["metrics"]["cuhkpedes"]["t2i"]
    percentages = [f"{100 * metrics[name]:.2f}" for name in columns[2:7]]
    assert row.split()[:9] == ["cuhkpedes", "t2i", *percentages, "64", "32"]
    ends = [f"{100 * end:.1f}" for name in ("R@1", "mAP") for end in metrics["interval95"][name]]
    assert [cell for cell in row.split()[9:] if cell != "to"] == ends
    assert f"Testing epoch {tiny_run.results['chosen']['epoch']}, chosen on val" in tiny_run.printed
    own = tiny_run.results["metrics"]["cuhkpedes"]["t2i"]["weight"]
    assert weight == f"cuhkpedes t2i: the identity branch's weight is {own:g}, chosen on val"
    few = "Validation could not distinguish the epochs: cuhkpedes_val has 8 people, fewer than 20"
    assert undecided.startswith(few)


def test_the_files_of_a_run(tiny_run, repository, monkeypatch):
    folder = tiny_run.folder
    names = [path.name for path in folder.iterdir() if not path.name.startswith("events.out.tfevents.")]
    assert sorted(names) == sorted(
        [
            ".lock", "best.pth", "config.yaml", "env.txt", "last.prev.pth", "last.pth", "metrics.jsonl",
            "queries_cuhkpedes.npz", "ranked_cuhkpedes.png", "results.json", "train.log",
        ]
    )  # fmt: skip
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    assert (folder / "train.log").read_text() == tiny_run.printed
    with Image.open(folder / "ranked_cuhkpedes.png") as picture:
        assert picture.width > 800
        assert picture.height > 6 * 160
    environment = (folder / "env.txt").read_text()
    assert f"torch: {torch.__version__.split('+')[0]}" in environment
    assert "torchreid: " in environment
    monkeypatch.chdir(repository)
    assert to_dict(load_cfg(folder / "config.yaml")) == to_dict(load_cfg(tiny_run.words[1], tiny_run.words[2:]))


def test_the_results_of_a_run(tiny_run):
    content = tiny_run.results
    assert shlex.split(content["command"]) == ["t2ireid", "train", *tiny_run.words]
    assert content["seed"] == 1
    assert content["datasets"]["cuhkpedes"] == {
        "train": {"images": 96, "ids": 24, "captions": 192},
        "val": {"images": 32, "ids": 8, "captions": 64},
        "test": {"images": 32, "ids": 8, "captions": 64},
    }
    assert 0 < content["parameters"]["trained"] < content["parameters"]["all"]
    assert content["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert {"python", "torchreid", "transformers", "t2ireid-plugin"} <= set(content["versions"])
    assert content["seconds"] > 0
    test, val = content["metrics"]["cuhkpedes"]["t2i"], content["chosen"]["val"]["cuhkpedes_val"]
    assert set(test) - {"interval95"} == set(val)
    counts = {"queries", "valid_queries", "skipped_queries", "gallery", "identities"}
    for metrics in (test, val):
        assert set(metrics) - {"interval95"} == {
            "R@1",
            "R@5",
            "R@10",
            "mAP",
            "mINP",
            *counts,
            "weight",
            "weight_chosen",
        }
        assert 0 <= metrics["R@1"] <= metrics["R@5"] <= metrics["R@10"] <= 1
        assert 0 < metrics["mINP"] <= metrics["mAP"] <= 1


def test_the_chosen_epoch_is_the_best_on_val(tiny_run):
    lines = [json.loads(line) for line in (tiny_run.folder / "metrics.jsonl").read_text().splitlines()]
    val = {line["epoch"]: line["R@1"] for line in lines if line.get("target") == "cuhkpedes_val"}
    assert set(val) == {1, 2}
    chosen = tiny_run.results["chosen"]
    assert chosen["score"] == max(val.values()) == val[chosen["epoch"]]
    assert saved(tiny_run.folder, "best.pth")["epoch"] == chosen["epoch"]
    # The test split is evaluated once, after the choice.
    targets = [line["target"] for line in lines if "target" in line]
    assert targets[-1] == "cuhkpedes"
    assert targets.count("cuhkpedes") == 1


@pytest.mark.parametrize(
    "others", [pytest.param({"data__workers": 2}, marks=pytest.mark.slow), {"data__keep_images": True}]
)
def test_workers_kept_images_and_resume_without_a_checkpoint_change_nothing(tiny_settings, light_run, tmp_path, others):
    assert main(["train", "--resume", *tiny_settings(tmp_path, **LIGHT, **others)]) == 0
    assert numbers(tmp_path) == numbers(light_run)
    assert (tmp_path / "metrics.jsonl").read_text() == (light_run / "metrics.jsonl").read_text()


# Testing and resuming


def test_eval_only_gives_the_same_metrics(tiny_settings, tiny_run, tmp_path):
    weights = tiny_run.folder / "best.pth"
    assert main(["train", "--eval-only", *tiny_settings(tmp_path, full=True), "model.load_weights", str(weights)]) == 0
    folder = tmp_path / "test" / "cuhkpedes"
    assert numbers(folder) == numbers(tiny_run.folder)
    assert f"Testing '{weights}'" in (folder / "test.log").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["test"]


@pytest.fixture(scope="module")
def people_to_test(synthetic, tmp_path_factory):
    """A set with nothing but the drawn people's test split, fewer than a batch holds, as the user's own."""
    root = tmp_path_factory.mktemp("test people")
    rows = json.loads((synthetic.root / "CUHK-PEDES" / "reid_raw.json").read_text())
    (root / "custom").mkdir()
    (root / "custom" / "imgs").symlink_to(synthetic.root / "CUHK-PEDES" / "imgs")
    (root / "custom" / "reid_raw.json").write_text(json.dumps([row for row in rows if row["split"] == "test"]))
    return root


@pytest.mark.parametrize("sources", ["custom", "cuhkpedes"])
def test_testing_needs_test_people_alone(tiny_settings, tiny_run, people_to_test, tmp_path, sources, capsys):
    """Neither a training nor a validation split, nor people for a batch, nor the set that was trained on."""
    words = tiny_settings(tmp_path, full=True, data__root=people_to_test, data__sources=sources, data__targets="custom")
    weights = ["model.load_weights", str(tiny_run.folder / "best.pth"), "test.pictures", "0"]
    assert main(["train", "--eval-only", *words, *weights, "test.bootstrap", "0"]) == 0
    metrics = {**tiny_run.results["metrics"]["cuhkpedes"]["t2i"]}
    metrics.pop("interval95")
    tested = results(tmp_path / "test" / "custom")
    assert tested["metrics"]["custom"]["t2i"] == metrics
    assert tested["parameters"] == tiny_run.results["parameters"]
    assert main(["train", *words]) == 2  # training needs its own splits
    assert "no images of the split 'train'" in capsys.readouterr().err or sources == "cuhkpedes"


def test_a_set_of_test_people_beside_a_trained_one(tiny_settings, synthetic, people_to_test, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "custom").symlink_to(people_to_test / "custom")
    (root / "CUHK-PEDES").symlink_to(synthetic.root / "CUHK-PEDES")
    words = tiny_settings(tmp_path / "log", data__root=root, data__targets="[cuhkpedes, custom]")
    assert main(["train", *words]) == 0
    metrics = results(tmp_path / "log")["metrics"]
    assert metrics["custom"] == metrics["cuhkpedes"]


def test_eval_only_tests_the_runs_best_checkpoint(tiny_settings, tiny_run, tmp_path):
    shutil.copy(tiny_run.folder / "best.pth", tmp_path / "best.pth")
    words = tiny_settings(tmp_path, full=True, test__evaluator="torchreid", test__pictures=0)
    assert main(["train", "--eval-only", *words]) == 0
    metrics, expected = (
        numbers(tmp_path / "test" / "cuhkpedes")[0]["cuhkpedes"]["t2i"],
        tiny_run.results["metrics"]["cuhkpedes"]["t2i"],
    )
    assert metrics.pop("interval95") == expected["interval95"]
    assert metrics == pytest.approx({k: v for k, v in expected.items() if k != "interval95"}, abs=1e-6)


def test_resume_of_a_finished_run_only_tests(tiny_settings, light_run, tmp_path, capsys):
    for name in ("last.pth", "best.pth"):
        shutil.copy(light_run / name, tmp_path / name)
    assert main(["train", "--resume", *tiny_settings(tmp_path, **LIGHT)]) == 0
    assert "epoch: [" not in capsys.readouterr().out
    assert numbers(tmp_path) == numbers(light_run)


def test_resume_into_another_folder_chooses_again(tiny_settings, tmp_path):
    """The schedule of the run does not depend on its last epoch, so that it may train longer."""
    run = tmp_path / "run"
    endless = {**LIGHT, "train__lr_scheduler": "single_step", "train__warmup_epochs": 0}
    assert main(["train", *tiny_settings(run, **endless)]) == 0
    words = tiny_settings(tmp_path, **endless, train__max_epoch=2)
    assert main(["train", *words, "model.resume", str(run / "last.pth")]) == 0
    assert results(tmp_path)["chosen"]["epoch"] == 2
    assert saved(tmp_path, "best.pth")["epoch"] == 2


def test_training_starts_from_given_weights(tiny_settings, light_run, tmp_path):
    """At a rate of 0 the weights stay; batch statistics change."""
    words = tiny_settings(tmp_path, **LIGHT, model__load_weights=light_run / "best.pth", train__lr=0)
    assert main(["train", *words]) == 0
    before, after = (saved(folder, "best.pth")["state_dict"] for folder in (light_run, tmp_path))
    assert all("running" in name or "num_batches" in name for name in changed(before, after))


# The full configuration


@pytest.fixture
def silent_hub():
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def connections(server):
    """Number of connections that wait for an answer."""
    server.setblocking(False)
    number = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            server.accept()[0].close()
            number += 1
    return number


@pytest.mark.slow
def test_missing_data_and_weights_are_named_with_the_commands_to_get_them(train_net, repository, silent_hub, tmp_path):
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    hub = f"http://127.0.0.1:{silent_hub.getsockname()[1]}"
    environment |= {"HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0"}
    words = ["--config-file", repository / "configs" / "t2i_vit_mamba.yaml"]
    tool = repository / "tools" / "train_net.py"
    done = train_net(words, tool=tool, cwd=tmp_path, env=environment)
    assert connections(silent_hub) == 1  # each one is waited for
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    message = done.stderr
    assert message.startswith("error: cuhkpedes: no 'reid-data/CUHK-PEDES/reid_raw.json'")
    assert "Put the dataset there as CUHK-PEDES/reid_raw.json and CUHK-PEDES/imgs/" in message
    for key, name in (("vit_pretrained", "google/vit-base-patch16-224"), ("bert_base_path", "bert-base-uncased")):
        assert f"{key}: '{name}' is not a folder, not in the Hugging Face cache, and the hub is not" in message
        assert f"hf download {name} --local-dir DIR" in message
        assert f"model.{key} DIR" in message
    assert len(message.strip().splitlines()) == 3
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == []


def full(repository, encoders, root, folder, *more):
    """The full configuration with tiny encoders from their folders."""
    return [
        "train", "--config-file", str(repository / "configs" / "t2i_vit_mamba.yaml"),
        "data.root", str(root), "data.save_dir", str(folder), "data.workers", "0", "use_gpu", "False",
        "model.vit_pretrained", str(encoders.vit), "model.bert_base_path", str(encoders.bert),
        "train.max_epoch", "1", "train.batch_size", "16", *more,
    ]  # fmt: skip


def test_the_full_configuration_trains_from_folders(repository, encoders, synthetic, tmp_path, capsys):
    words = full(repository, encoders, synthetic.root, tmp_path, "data.height", "null", "data.width", "null")
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "Images at 32x32, mean (0.5, 0.5, 0.5)" in printed  # the image encoder's own size
    assert re.search(r"^cuhkpedes +t2i +\d", printed, flags=re.MULTILINE)
    state = saved(tmp_path, "best.pth")
    # The frozen text encoder still has the folder's weights.
    from transformers import BertModel, BertTokenizerFast

    bert = BertModel.from_pretrained(encoders.bert, add_pooling_layer=False)
    for name, value in bert.state_dict().items():
        assert torch.equal(state["state_dict"][f"text_encoder.{name}"], value), name
    vocabulary = tokenizer_from_json(state["tokenizer"]).get_vocab()
    assert vocabulary == BertTokenizerFast.from_pretrained(encoders.bert).get_vocab()


def test_another_dataset_in_the_same_format_trains(tiny_settings, new_cuhk, tmp_path):
    """Other folders, other file types, ids far apart, one caption a photo, no texts of identity and clothing."""
    data = new_cuhk(tmp_path / "elsewhere")
    people = [(10 * n + 3, "train") for n in range(8)] + [(1001, "val"), (1002, "val"), (5, "test"), (6, "test")]
    kinds = ("png", "jpg", "bmp")
    for pid, split in people:
        for n in range(3):
            path = f"station {n}/deeper/{split}-{pid}.{kinds[n]}"
            data.add(split, pid, path, [f"Person number {pid} wears coat {n}."])
    words = tiny_settings(tmp_path / "log", data__root=data.save(), train__max_epoch=1, train__batch_size=8)
    assert main(["train", *words]) == 0
    content = results(tmp_path / "log")
    assert content["datasets"]["cuhkpedes"]["train"] == {"images": 24, "ids": 8, "captions": 24}
    metrics = content["metrics"]["cuhkpedes"]["t2i"]
    assert (metrics["queries"], metrics["gallery"], metrics["R@10"]) == (6, 6, 1.0)
    classifier = saved(tmp_path / "log", "best.pth")["state_dict"]["id_classifier.weight"]
    assert len(classifier) == 8


def test_the_chinese_configuration(repository, encoders, chinese_bert, new_cuhk, tmp_path):
    data = new_cuhk(tmp_path / "data")
    for pid in range(10):
        split = "train" if pid < 6 else "val" if pid < 8 else "test"
        for n in range(2):
            colour = "红绿蓝"[pid % 3]
            captions = [f"一名男子穿着{colour}色外套。", f"照片里的人身穿{colour}色上衣"]
            data.add(split, pid, f"cam_a/{pid}_{n}.png", captions)
    config = str(repository / "configs" / "t2i_vit_mamba_zh.yaml")
    assert load_cfg(config).model.bert_base_path == "bert-base-chinese"
    words = full(repository, encoders, data.save(), tmp_path / "log", "model.bert_base_path", str(chinese_bert))
    words[2] = config
    assert main([*words, "data.height", "null", "data.width", "null"]) == 0
    log = (tmp_path / "log" / "train.log").read_text()
    assert "the tokenizer does not know" not in log
    words[words.index("data.save_dir") + 1] = str(tmp_path / "english")
    words[-1] = str(encoders.bert)  # without Chinese characters
    assert main([*words, "data.height", "null", "data.width", "null"]) == 0
    log = (tmp_path / "english" / "train.log").read_text()
    assert log.count("words that the tokenizer does not know") == 1
    assert "most of this text" not in log


COLOURS = {
    "红": (200, 30, 30), "绿": (30, 160, 50), "蓝": (40, 60, 200), "黄": (240, 220, 50),
    "白": (245, 245, 245), "黑": (20, 20, 20), "紫": (120, 40, 150), "粉": (245, 150, 190),
}  # fmt: skip


@pytest.mark.slow
def test_chinese_captions_are_learned(tiny_settings, new_cuhk, tmp_path):
    """Images of one colour each, with captions that differ in the colour alone."""
    data = new_cuhk(tmp_path / "data")
    rng = np.random.default_rng(0)
    shapes = ("一名男子穿着{}色外套。", "照片里的人身穿{}色上衣和裤子", "这个人的衣服是{}色的，背着包")
    for pid in range(40):
        colour = list(COLOURS)[pid % 8]
        split = "train" if pid < 24 else "val" if pid < 32 else "test"
        for n in range(4):
            captions = [shapes[k].format(colour) for k in rng.choice(3, 2, replace=False)]
            row = data.add(split, pid, f"cam_a/{pid}_{n}.png", captions)
            shade = rng.normal(COLOURS[colour], 12, (1, 1, 3)) + rng.normal(0, 20, (32, 16, 3))
            Image.fromarray(shade.clip(0, 255).astype(np.uint8)).save(data.image(row["file_path"]))
    recipe = {
        "data__id_instruction": "caption",
        "loss__terms__cls__weight": 0,
        "loss__terms__info_nce__weight": 1,
        "train__max_epoch": 12,
        "train__lr": 2e-3,
    }
    assert main(["train", *tiny_settings(tmp_path / "log", data__root=data.save(), **recipe)]) == 0
    assert results(tmp_path / "log")["metrics"]["cuhkpedes"]["t2i"]["R@1"] > 0.5  # chance is 1 in 8
    tokenizer = json.loads(saved(tmp_path / "log", "best.pth")["tokenizer"])
    assert "红" in tokenizer["model"]["vocab"]


@pytest.mark.cuda
def test_training_on_the_gpu(tiny_settings, tmp_path):
    words = tiny_settings(tmp_path / "log", full=True, use_gpu=True)
    assert main(["train", *words]) == 0
    assert "trained, on cuda" in (tmp_path / "log" / "train.log").read_text()
    weights = tmp_path / "log" / "best.pth"
    assert main(["test", *tiny_settings(tmp_path / "cpu", full=True), "model.load_weights", str(weights)]) == 0
    on_gpu, on_cpu = (results(tmp_path / name)["metrics"]["cuhkpedes"]["t2i"] for name in ("log", "cpu"))
    assert on_cpu == pytest.approx(on_gpu, abs=0.05)  # near ties may fall either way
