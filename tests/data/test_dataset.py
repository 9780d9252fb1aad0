import json
import os
import re
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchreid import data as torchreid_data
from torchreid import metrics as torchreid_metrics

from t2ireid_plugin.data import transforms as transforms_module
from t2ireid_plugin.data.benchmarks import BENCHMARKS, Counts
from t2ireid_plugin.data.dataset import CaptionDataset, warn_of_shared_images
from t2ireid_plugin.data.sampling import SampleKey
from t2ireid_plugin.data.transforms import TestTransform, TrainTransform
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.modeling.instructions import split_caption

SPEC = BENCHMARKS["cuhkpedes"]


def build(root, **options):
    return CaptionDataset(root, spec=SPEC, verbose=False, **options)


@pytest.fixture(scope="module")
def rows(synthetic):
    return json.loads((synthetic.root / "CUHK-PEDES" / "reid_raw.json").read_text())


def of_split(rows, split):
    return [row for row in rows if row["split"] == split]


def test_a_training_item_is_a_caption_with_its_image(synthetic, rows):
    dataset = build(synthetic.root)
    train = of_split(rows, "train")
    label = {pid: i for i, pid in enumerate(sorted({row["id"] for row in train}))}
    camera = {name: i for i, name in enumerate(sorted({row["file_path"].split("/")[0] for row in rows}))}
    images = synthetic.root / "CUHK-PEDES" / "imgs"
    expected = [
        (str(images / row["file_path"]), label[row["id"]], camera[row["file_path"].split("/")[0]], 0, *texts)
        for row in train
        for texts in zip(row["captions"], row["id_captions"], row["cloth_captions"], strict=True)
    ]
    assert dataset.train == expected
    assert len(dataset) == len(expected) == 24 * 4 * 2
    assert dataset.num_train_pids == 24


@pytest.mark.parametrize(("options", "split"), [({}, "test"), ({"eval_split": "val"}, "val")])
def test_official_protocol(synthetic, rows, options, split):
    """Every caption of the split is a query, every image is in the gallery once, no query has a camera."""
    dataset = build(synthetic.root, **options)
    expected = of_split(rows, split)
    assert [item[4] for item in dataset.query] == [text for row in expected for text in row["captions"]]
    assert [item[1] for item in dataset.query] == [row["id"] for row in expected for _ in row["captions"]]
    assert {item[2] for item in dataset.query} == {-1}
    images = synthetic.root / "CUHK-PEDES" / "imgs"
    assert [item[0] for item in dataset.gallery] == [str(images / row["file_path"]) for row in expected]
    assert [item[1] for item in dataset.gallery] == [row["id"] for row in expected]
    assert min(item[2] for item in dataset.gallery) >= 0


def test_derived_datasets_equal_those_read_anew(synthetic):
    test, val = build(synthetic.root), build(synthetic.root, eval_split="val", mode="query")
    derived = test.with_eval_split("val").with_mode("query", None)
    assert (derived.train, derived.query, derived.gallery) == (val.train, val.query, val.gallery)
    assert derived.data == val.data == val.query
    assert test.query != val.query  # unchanged
    assert test.train == val.train


@pytest.mark.parametrize("spelling", ["same", "other", "symbolic link", "hard link"])
def test_repeated_rows_change_neither_items_nor_counts(cuhk, spelling):
    """Every caption stays one query and every file one gallery entry, so all metrics stay."""
    once = build(cuhk.root)
    for row in list(cuhk.rows):
        name = {"same": row["file_path"], "other": row["file_path"].replace("/", "\\")}.get(
            spelling, f"links/{row['file_path'].replace('/', '_')}"
        )
        if spelling.endswith("link"):
            cuhk.image("links").mkdir(exist_ok=True)
            link = os.symlink if spelling.startswith("symbolic") else os.link
            link(cuhk.image(row["file_path"]), cuhk.image(name))
        cuhk.rows.append({**row, "file_path": name, "captions": row["captions"][::-1]})
    again = build(cuhk.save())
    for split in ("train", "val", "test"):
        assert again.counts[split] == once.counts[split]
    # The folder of the links is another camera's in this dataset, so cameras have other numbers.
    for part in ("train", "query", "gallery"):
        assert [item[:2] + item[3:] for item in getattr(again, part)] == [
            item[:2] + item[3:] for item in getattr(once, part)
        ]


def test_content_of_items(cuhk):
    train = build(cuhk.root)[5]
    names = ("img", "pid", "camid", "impath", "dsetid", "outfit", "index", "caption", "id_text", "cloth_text")
    assert set(train) == {*names}
    assert train["index"] == 5
    with Image.open(train["impath"]) as image:
        assert train["img"].size == image.size
        mean = np.asarray(image).mean()
    transformed = build(cuhk.root, transform=lambda image: torch.tensor(np.asarray(image)).float().mean())[5]
    assert float(transformed["img"]) == pytest.approx(mean, rel=1e-5)
    gallery, query = (build(cuhk.root, mode=mode)[0] for mode in ("gallery", "query"))
    assert (gallery["caption"], gallery["id_text"], gallery["cloth_text"]) == ("", "", "")
    assert "img" in gallery
    assert query["caption"]
    assert "img" not in query


@pytest.mark.parametrize("mode", ["train", "gallery"])
def test_images_in_memory_are_equal_and_read_once(synthetic, mode, monkeypatch):
    transform = TestTransform(32, 16, [0.5] * 3, [0.5] * 3)
    plain, kept = (build(synthetic.root, mode=mode, transform=transform) for _ in range(2))
    kept.keep_images()
    for index in range(0, len(plain), 5):
        assert torch.equal(kept[index]["img"], plain[index]["img"])
    monkeypatch.setattr(transforms_module, "read_pixels", lambda path: pytest.fail(f"{path} read again"))
    for index in range(0, len(plain), 5):
        assert kept[index]["img"].shape == (3, 32, 16)


def test_flipping_an_image_swaps_left_and_right_in_its_texts(cuhk):
    row = cuhk.add("train", 20, "Market/0020.png", ["A bag on his left arm."])
    shades = np.repeat(np.linspace(0, 255, 8).astype(np.uint8)[None, :, None], 16, 0).repeat(3, 2)  # dark on the left
    Image.fromarray(shades).save(cuhk.image(row["file_path"]))
    row["id_captions"], row["cloth_captions"] = ["左手"], ["right arm"]
    transform = TrainTransform(16, 8, [0.5] * 3, [0.5] * 3, ["random_flip"])
    dataset = build(cuhk.save(), transform=transform)
    seen = set()
    for seed in range(20):
        item = dataset[SampleKey(len(dataset) - 1, seed)]
        mirrored = bool(item["img"][0, 0, 0] > item["img"][0, 0, -1])
        seen.add((mirrored, item["caption"], item["id_text"], item["cloth_text"]))
    assert seen == {
        (False, "A bag on his left arm.", "左手", "right arm"),
        (True, "A bag on his right arm.", "右手", "left arm"),
    }


def test_missing_identity_and_clothing_texts_are_split_from_the_caption(cuhk):
    cuhk.add("test", 3, "CUHK01/0003.png", ["A tall man with short hair is wearing a red jacket."])
    *_, caption, id_text, cloth_text = build(cuhk.save()).query[-1]
    assert caption == "A tall man with short hair is wearing a red jacket."
    assert (id_text, cloth_text) == split_caption(caption)


def test_joining_keeps_identities_cameras_and_datasets_distinct(cuhk, new_cuhk, tmp_path):
    other = new_cuhk(tmp_path / "other")
    for pid, split in ((1, "train"), (2, "train"), (5, "test")):
        other.add(split, pid, f"CUHK01/{pid}.png")
    first, second = build(cuhk.root), build(other.save())
    assert [item[1] for item in first.train] == [1, 1, 1, 1, 0, 0, 0, 0]  # ids 11 and 7 in the file, numbered in order
    joined = first + second
    assert type(joined) is CaptionDataset
    assert joined.train[: len(first.train)] == first.train
    path, pid, camid, dsetid, caption, *_ = joined.train[len(first.train)]
    original = second.train[0]
    assert (path, caption) == (original[0], original[4])
    assert pid == original[1] + 2  # two people before
    assert camid == original[2] + first.num_train_cams
    assert dsetid == 1
    assert (joined.num_train_pids, joined.num_train_cams, joined.num_datasets) == (4, 3, 2)
    assert joined[len(first.train)]["caption"] == original[4]
    assert joined.query == first.query
    assert first.train == build(cuhk.root).train  # unchanged
    assert len(sum([first, second, first]).train) == 2 * len(first.train) + len(second.train)


def test_what_would_falsify_a_dataset_is_refused(cuhk):
    dataset = build(cuhk.root)
    plain = torchreid_data.ImageDataset([("a.jpg", 0, 0)], [("b.jpg", 1, 0)], [("c.jpg", 1, 1)], verbose=False)
    with pytest.raises(DataError, match="cuhkpedes has captions and cannot be joined with ImageDataset"):
        dataset + plain
    with pytest.raises(DataError, match=r"data\.combineall would train on the test identities"):
        build(cuhk.root, combineall=True)


@pytest.mark.parametrize(("missing", "mode"), [("train", "train"), ("test", "query"), ("test", "gallery")])
def test_an_empty_split_is_refused_where_it_is_used(cuhk, missing, mode):
    cuhk.rows = [row for row in cuhk.rows if row["split"] != missing]
    message = f"cuhkpedes: the annotation has no images of the split '{missing}'$"
    with pytest.raises(DataError, match=message):
        build(cuhk.save(), mode=mode)
    dataset = build(cuhk.root)
    with pytest.raises(DataError, match=message):
        dataset.with_mode(mode, None)
    other = "query" if missing == "train" else "train"
    assert len(dataset.with_mode(other, None)) == len(build(cuhk.root, mode=other)) > 0
    assert dataset.counts[missing] == (0, 0, 0)


def test_images_in_train_and_test_are_reported(cuhk, new_cuhk, tmp_path, caplog):
    """Copies under other names too, as some sets take photos from the same source as others."""
    other = new_cuhk(tmp_path / "other")
    other.add("train", 1, "CUHK01/1.png")
    other.add("train", 2, "CUHK01/2.png")
    shutil.copy(cuhk.image("cam_a/0003_0.png"), other.image("CUHK01/1.png"))
    warn_of_shared_images([build(other.save())], {"cuhkpedes": build(cuhk.root), "cuhkpedes_val": build(other.root)})
    assert [record.getMessage() for record in caplog.records] == [
        f"cuhkpedes: gallery images that are training images too: 1, such as '{cuhk.image('cam_a/0003_0.png')}', which "
        f"is '{other.image('CUHK01/1.png')}'; its metrics are too high"
    ]


def test_summary_marks_counts_that_differ_from_the_official_ones(cuhk, capsys):
    official = {"train": Counts(4, 2, 8), "val": Counts(2, None, 4), "test": Counts(3_074, 1_000, 6_156)}
    CaptionDataset(cuhk.root, spec=replace(SPEC, official=official))
    heading, _, train, val, test = capsys.readouterr().out.splitlines()
    assert heading == "=> Loaded cuhkpedes (evaluating on test)"
    assert re.fullmatch(r" *train +4 +2 +8 +4 / 2 / 8", train)
    assert re.fullmatch(r" *val +2 +1 +4 +2 / \? / 4", val)
    assert re.fullmatch(r" *test +2 +1 +4 +3,074 / 1,000 / 6,156 +<- differs", test)


# With torchreid's own data manager, samplers and evaluator


def manager(root, **options):
    settings = {"height": 32, "width": 16, "workers": 0, "use_gpu": False, "batch_size_train": 12}
    return torchreid_data.ImageDataManager(
        root=str(root), sources="cuhkpedes", targets=["cuhkpedes", "cuhkpedes_val"], **{**settings, **options}
    )


def test_torchreids_manager_and_identity_sampler(synthetic):
    data = manager(synthetic.root, train_sampler="RandomIdentitySampler", num_instances=4)
    assert data.num_train_pids == 24
    seen = Counter()
    for batch in data.train_loader:
        assert batch["img"].shape == (12, 3, 32, 16)
        assert sorted(Counter(batch["pid"].tolist()).values()) == [4, 4, 4]
        seen.update(zip(batch["pid"].tolist(), batch["impath"], batch["caption"], strict=True))
    items = {(pid, path, caption) for path, pid, _, _, caption, *_ in data.train_loader.dataset.train}
    assert set(seen) <= items  # each caption came with its own image and identity
    assert max(seen.values()) == 1
    assert len(seen) >= 0.8 * len(items)


def test_torchreids_camera_sampler(synthetic):
    batch = next(iter(manager(synthetic.root, train_sampler="RandomDomainSampler", num_cams=2).train_loader))
    assert len(batch["caption"]) == 12
    assert sorted(Counter(batch["camid"].tolist()).values()) == [6, 6]


def test_torchreids_test_loaders(synthetic, rows):
    data = manager(synthetic.root, batch_size_test=10)
    for name, split in (("cuhkpedes", "test"), ("cuhkpedes_val", "val")):
        captions = [caption for batch in data.test_loader[name]["query"] for caption in batch["caption"]]
        assert captions == [text for row in of_split(rows, split) for text in row["captions"]]
        pids = [pid for batch in data.test_loader[name]["gallery"] for pid in batch["pid"].tolist()]
        assert pids == [row["id"] for row in of_split(rows, split)]


def test_no_query_loses_its_own_image(synthetic):
    """With the camera of its photo, torchreid's evaluator would exclude the photo from the query's gallery."""
    dataset = build(synthetic.root)
    q_paths, q_pids, q_camids = (np.array([item[i] for item in dataset.query]) for i in range(3))
    g_paths, g_pids, g_camids = (np.array([item[i] for item in dataset.gallery]) for i in range(3))
    distances = (q_paths[:, None] != g_paths[None, :]).astype(np.float32)  # each text matches its own photo alone
    cmc, _ = torchreid_metrics.evaluate_rank(distances, q_pids, g_pids, q_camids, g_camids, max_rank=5)
    assert cmc[0] == 1.0
    own_cameras = np.array([dict(zip(g_paths, g_camids, strict=True))[path] for path in q_paths])
    cmc, _ = torchreid_metrics.evaluate_rank(distances, q_pids, g_pids, own_cameras, g_camids, max_rank=5)
    assert cmc[0] < 0.5
