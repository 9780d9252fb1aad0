"""LTCC and PRCC in their layouts, from drawn people in two outfits; protocols against loops of their authors' rules."""

import json
import shutil

import numpy as np
import pytest
import torch
from torchreid import data as torchreid_data

import t2ireid_plugin
from t2ireid_plugin.cli import main
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation.metrics import evaluate_task
from t2ireid_plugin.evaluation.protocols import RetrievalTask
from t2ireid_plugin.integrations.torchreid.clothes import DATASETS, clothes_protocols

t2ireid_plugin.register()


@pytest.fixture
def root(two_outfits):
    return two_outfits


def by_rule(scores, query, gallery, same_clothes):
    """R@1 and mAP of the queries with a match, by the authors' rules; items are (pid, camera, clothes)."""
    firsts, precisions = [], []
    for row, (pid, camera, clothes) in zip(scores, query):
        kept = []
        for score, (other, cam, worn) in zip(row, gallery):
            person = pid == other
            drop = person and (camera == cam or (clothes != worn if same_clothes else clothes == worn))
            if not drop:
                kept.append((score, person))
        kept.sort(key=lambda pair: -pair[0])
        hits = [i + 1 for i, (_, match) in enumerate(kept) if match]
        if hits:
            firsts.append(hits[0] == 1)
            precisions.append(np.mean([(n + 1) / rank for n, rank in enumerate(hits)]))
    return np.mean(firsts), np.mean(precisions), len(firsts)


@pytest.mark.parametrize("name", DATASETS)
def test_protocols_follow_the_authors_rules(name, root):
    dataset = torchreid_data.datasets.init_image_dataset(name, root=str(root), mode="gallery", verbose=False)
    sides = []
    for part in ("query", "gallery"):
        clothes = dataset.clothes_of(part)
        sides.append([(pid, cam, int(worn)) for (_, pid, cam, _), worn in zip(getattr(dataset, part), clothes)])
    generator = torch.Generator().manual_seed(0)
    features = [torch.nn.functional.normalize(torch.randn(len(side), 8, generator=generator)) for side in sides]
    (q_pids, q_cams, _), (g_pids, g_cams, _) = (np.array(side).T for side in sides)
    protocols = clothes_protocols(dataset, q_pids, g_pids)
    assert list(protocols) == ["i2i_changed", "i2i_same"]
    for protocol, ignored in protocols.items():
        task = RetrievalTask(*features, q_pids, g_pids, q_cams, g_cams, ignored=ignored)
        metrics = evaluate_task(task).metrics
        expected = by_rule((features[0] @ features[1].T).tolist(), *sides, same_clothes=protocol == "i2i_same")
        assert (metrics["R@1"], metrics["mAP"], metrics["valid_queries"]) == pytest.approx(expected)
    assert sorted({pid for _, pid, *_ in dataset.train}) == list(range(24))


def test_prcc_searches_camera_a(root):
    dataset = torchreid_data.datasets.init_image_dataset("prcc", root=str(root), mode="query", verbose=False)
    assert {cam for _, _, cam, _ in dataset.gallery} == {0}
    assert {cam for _, _, cam, _ in dataset.query} == {1, 2}
    q_pids, g_pids = (np.array([pid for _, pid, *_ in part]) for part in (dataset.query, dataset.gallery))
    changed = clothes_protocols(dataset, q_pids, g_pids)["i2i_changed"]
    for (_, pid, cam, _), row in zip(dataset.query, changed):  # a query of B has no match left, one of C all
        assert row[g_pids == pid].all() == (cam == 1)
        assert not row[g_pids != pid].any()


@pytest.mark.parametrize(("name", "tested"), [("ltcc", 32), ("prcc", 32)])
def test_checking_the_files(name, tested, root, tmp_path, capsys):
    assert main(["prepare", "check", str(root), "--dataset", name, "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    splits = {split: (own["images"], own["ids"], own["captions"]) for split, own in report["splits"].items()}
    assert splits == {"train": (96, 24, 0), "val": (0, 0, 0), "test": (tested, 8, 0)}
    assert {finding["kind"] for finding in report["findings"]} <= {"counts_differ", "identity_of_one_photo"}
    assert "<- differs" in capsys.readouterr().out


def test_missing_parts_and_names_are_refused(root, tmp_path):
    with pytest.raises(DataError, match=r"no photos '.*LTCC_ReID/train/\*\.png'"):
        DATASETS["ltcc"](root=str(tmp_path))
    shutil.copytree(root / "LTCC_ReID", tmp_path / "LTCC_ReID")
    (tmp_path / "LTCC_ReID" / "test" / "odd.png").touch()
    with pytest.raises(DataError, match=r"odd\.png': the name must begin as"):
        DATASETS["ltcc"](root=str(tmp_path))


def test_an_image_model_is_tested_by_all_three(root, tmp_path, capsys):
    settings = {
        "data.root": root, "data.sources": "ltcc", "data.targets": "ltcc,prcc", "data.save_dir": tmp_path / "log",
        "model.name": "osnet_x0_25", "model.pretrained": False, "model.vit_pretrained": "",
        "data.height": 64, "data.width": 32, "data.workers": 0,
        "train.max_epoch": 1, "train.batch_size": 16, "train.fixbase_epoch": 0, "train.staged_lr": False,
        "train.open_layers": "classifier", "test.bootstrap": 0,
    }  # fmt: skip
    words = [str(word) for pair in settings.items() for word in pair]
    assert main(["train", "--config-file", "market1501_t2ireid", *words]) == 0
    metrics = json.loads((tmp_path / "log" / "results.json").read_text())["metrics"]
    assert list(metrics) == ["ltcc", "prcc"]
    assert all(list(own) == ["i2i", "i2i_changed", "i2i_same"] for own in metrics.values())
    same, changed = (metrics["prcc"][name]["valid_queries"] for name in ("i2i_same", "i2i_changed"))
    assert same + changed == metrics["prcc"]["i2i"]["queries"]
    assert "i2i_changed" in capsys.readouterr().out
