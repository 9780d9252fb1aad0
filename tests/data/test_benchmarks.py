"""Every benchmark in its own layout: reading it, and training and evaluation through the command line."""

import json
import re

import numpy as np
import pytest

from t2ireid_plugin.cli import main
from t2ireid_plugin.data.benchmarks import BENCHMARKS
from t2ireid_plugin.data.dataset import CaptionDataset
from t2ireid_plugin.data.item_table import CAMID, PID
from t2ireid_plugin.errors import DataError

NAMES = ("cuhkpedes", "icfgpedes", "rstpreid", "ufine6926", "custom")  # for the others see test_formats.py
HELD_OUT = ("icfgpedes", "ufine6926")
# Images and captions of the drawn people in each layout: 24 + 8 + 8 people with 4 photos.
TRAIN_IDS = {name: 32 if name in HELD_OUT else 24 for name in NAMES}
CAPTIONS = {"icfgpedes": 1}


def build(name, root, **options):
    return CaptionDataset(root, spec=BENCHMARKS[name], **{"verbose": False, **options})


@pytest.mark.parametrize("name", NAMES)
def test_layout(name, benchmark_root):
    dataset = build(name, benchmark_root(name), val_share=0)
    ids, captions = TRAIN_IDS[name], CAPTIONS.get(name, 2)
    assert dataset.num_train_pids == ids
    assert sorted(dataset.train.columns[:, PID].unique().tolist()) == list(range(ids))  # wherever the annotation starts
    assert dataset.counts["train"][:2] == (4 * ids, ids)
    assert dataset.counts["test"][:2] == (32, 8)
    assert len(dataset.gallery) == 32
    extra = sum(counts.captions for counts in dataset.counts.values()) - captions * 160
    assert extra == (2 * 15 if name == "cuhkpedes" else 0)  # every eleventh of 160 images has two more captions
    assert len(dataset.query) == dataset.counts["test"].captions
    assert dataset.train.distinct(CAMID) == {"custom": 1, "ufine6926": 1}.get(name, 6)


@pytest.mark.parametrize(
    ("name", "path", "camera"),
    [
        ("cuhkpedes", "cam_a/0001_1.png", "cam_a"),
        ("icfgpedes", "train/0000/0000_000_01_0303morning_0008_0.jpg", "01"),
        ("rstpreid", "0000_c14_0031.jpg", "c14"),
        ("ufine6926", "1.jpg", ""),
        ("icfgpedes", "odd.jpg", ""),
    ],
)
def test_cameras(name, path, camera):
    assert BENCHMARKS[name].camera(path) == camera


def test_a_rows_own_camera_takes_precedence(cuhk):
    cuhk.rows[0]["camera"] = 7
    cuhk.rows[2]["camera"] = "door"
    train = build("cuhkpedes", cuhk.save()).train
    assert [item[2] for item in train[::2]] == [0, 2, 3, 2]  # "7", "cam_b", "door" of 7, cam_a, cam_b, door


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("icfgpedes", ["ICFG-PEDES.json"]),
        ("icfgpedes", ["ICFG_PEDES.json"]),
        ("ufine6926", ["any_name.json"]),
        ("ufine6926", ["train.json", "test.json"]),
    ],
)
def test_names_of_the_annotation(name, files, benchmark_root, tmp_path):
    spec = BENCHMARKS[name]
    source, folder = benchmark_root(name) / spec.folder, tmp_path / spec.folder
    folder.mkdir()
    (folder / spec.images).symlink_to(source / spec.images)
    for file in files:
        (folder / file).write_bytes(next(source.glob("*.json")).read_bytes())
    if len(files) == 1:
        assert build(name, tmp_path).counts["test"].images == 32
    else:
        with pytest.raises(DataError, match=r"several annotations in '.*UFine6926': test\.json, train\.json; keep one"):
            build(name, tmp_path)


def test_ufine6926_paths_of_both_styles_are_one_dataset(benchmark_root, tmp_path):
    """The published files have `images/1.jpg`, copies of them `1.jpg`."""
    plain = build("ufine6926", benchmark_root("ufine6926"))
    folder = tmp_path / "UFine6926"
    folder.mkdir()
    (folder / "images").symlink_to(benchmark_root("ufine6926") / "UFine6926" / "images")
    rows = json.loads((benchmark_root("ufine6926") / "UFine6926" / "annotation.json").read_text())
    prefixed = [{**row, "file_path": f"images/{row['file_path']}"} for row in rows]
    (folder / "annotation.json").write_text(json.dumps(prefixed))
    texts = {"images/1.jpg": {"identity": ["a man"] * len(rows[0]["captions"])}}
    (folder / "instructions.json").write_text(json.dumps(texts))
    other = build("ufine6926", tmp_path)
    assert other.counts == plain.counts
    for part in ("train", "query", "gallery"):
        names = [[item[0].rpartition("/")[2] for item in getattr(dataset, part)] for dataset in (plain, other)]
        assert names[0] == names[1]
    first = [item for part in (other.train, other.query) for item in part if item[0].endswith("/1.jpg")]
    assert {item[5] for item in first} == {"a man"}


# Benchmarks without a val split


@pytest.mark.parametrize("name", HELD_OUT)
def test_identities_are_held_out_for_val(name, benchmark_root):
    root = benchmark_root(name)
    whole, rest = build(name, root, val_share=0), build(name, root, val_share=0.25)
    val = build(name, root, val_share=0.25, eval_split="val")
    held = {pid for _, pid, *_ in val.gallery}
    assert len(held) == 8  # a quarter of 32
    assert rest.num_train_pids == 24
    assert val.train == rest.train
    assert {item[0] for item in val.gallery} | {item[0] for item in rest.train} == {item[0] for item in whole.train}
    assert not {item[0] for item in val.gallery} & {item[0] for item in rest.train}
    assert len(val.query) + len(rest.train) == len(whole.train)
    assert rest.query == whole.query
    assert {pid for _, pid, *_ in build(name, root, val_share=0.25, val_seed=1, eval_split="val").gallery} != held
    assert {pid for _, pid, *_ in build(name, root, val_share=0.25, eval_split="val").gallery} == held


@pytest.mark.parametrize(("people", "held"), [(2, 1), (99, 5), (100, 20), (150, 20), (500, 25)])
def test_of_a_hundred_people_at_least_twenty_are_held_out(new_cuhk, tmp_path, people, held):
    """Fewer could hardly distinguish the epochs of a training."""
    folder = new_cuhk(tmp_path)
    folder.base = tmp_path / "custom"
    for pid in range(people):
        folder.add("train", pid, f"{pid}.png")
    folder.file = folder.base / "reid_raw.json"
    assert build("custom", folder.save(), eval_split="val").counts["val"].ids == held


def test_summary_with_held_out_identities(benchmark_root, capsys):
    build("icfgpedes", benchmark_root("icfgpedes"), val_share=0.25, verbose=True)
    lines = [re.sub(" +", " ", line).strip() for line in capsys.readouterr().out.splitlines()[2:]]
    assert lines == [
        "train 96 24 96",
        "+ val 32 8 32",
        "= train 128 32 128 34,674 / 3,102 / 34,674 <- differs",
        "test 32 8 32 19,848 / 1,000 / 19,848 <- differs",
    ]


def test_val_without_a_share_and_val_of_the_annotation(benchmark_root):
    with pytest.raises(DataError, match="icfgpedes: the annotation has no images of the split 'val'; choose another"):
        build("icfgpedes", benchmark_root("icfgpedes"), val_share=0, eval_split="val", mode="query")
    assert build("rstpreid", benchmark_root("rstpreid"), val_share=0.5).num_train_pids == 24


# Through the command line


@pytest.mark.parametrize("name", NAMES)
def test_training_and_evaluation(name, benchmark_root, tiny_settings, tmp_path, capsys):
    sets = {"data__root": benchmark_root(name), "data__sources": name, "data__targets": name, "data__val_share": 0.2}
    assert main(["train", *tiny_settings(tmp_path, train__max_epoch=1, **sets)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    counts = results["datasets"][name]
    assert counts["test"]["images"] == results["metrics"][name]["t2i"]["gallery"] == 32
    assert counts["test"]["captions"] == results["metrics"][name]["t2i"]["queries"]
    assert counts["train"]["ids"] == (26 if name in HELD_OUT else 24)
    assert counts["val"]["ids"] == (6 if name in HELD_OUT else 8)
    assert list(results["chosen"]["val"]) == [f"{name}_val"]
    assert f"=> Loaded {name}" in capsys.readouterr().out


def test_two_sources_and_other_targets(benchmark_root, tiny_settings, tmp_path):
    """Training on two datasets, testing on both and on a third one."""
    for name in ("cuhkpedes", "icfgpedes", "rstpreid"):
        folder = BENCHMARKS[name].folder
        (tmp_path / folder).symlink_to(benchmark_root(name) / folder)
    sets = {
        "data__root": tmp_path,
        "data__sources": "[cuhkpedes,icfgpedes]",
        "data__targets": "[cuhkpedes,icfgpedes,rstpreid]",
        "data__val_share": 0.2,
    }
    assert main(["train", *tiny_settings(tmp_path / "log", train__max_epoch=1, **sets)]) == 0
    results = json.loads((tmp_path / "log" / "results.json").read_text())
    assert list(results["metrics"]) == ["cuhkpedes", "icfgpedes", "rstpreid"]
    assert list(results["chosen"]["val"]) == ["cuhkpedes_val", "icfgpedes_val"]
    assert results["chosen"]["score"] == pytest.approx(
        np.mean([metrics["R@1"] for metrics in results["chosen"]["val"].values()])
    )
    assert set(results["datasets"]) == {"cuhkpedes", "icfgpedes", "rstpreid"}
    assert results["metrics"]["rstpreid"]["t2i"]["queries"] == 64


def test_all_identities_are_trained_on_when_nothing_is_chosen_by_val(benchmark_root, tiny_settings, tmp_path, capsys):
    sets = {"data__root": benchmark_root("icfgpedes"), "data__sources": "icfgpedes", "data__targets": "icfgpedes"}
    assert main(["train", *tiny_settings(tmp_path, train__max_epoch=1, data__val="[]", **sets)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["datasets"]["icfgpedes"]["train"]["ids"] == 32
    assert results["datasets"]["icfgpedes"]["val"]["ids"] == 0
    assert "the last, as there is no val split" in capsys.readouterr().out
