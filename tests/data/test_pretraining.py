"""Sets of millions of images: their formats and compiled tables, against the plain reading of the same small files."""

import json
import math
import multiprocessing
import os
import pickle

import numpy as np
import pytest
import torch
from pretraining_files import WRITERS, drawn, pack, write_webperson

from t2ireid_plugin.data import large_table
from t2ireid_plugin.data.dataset import CaptionDataset
from t2ireid_plugin.data.item_table import OUTFIT, PATH, PID
from t2ireid_plugin.data.pretraining import PRETRAINING
from t2ireid_plugin.data.sampling import LargeOrder, SampleKey, SeededBatches, shard_order
from t2ireid_plugin.data.shards import read_from_shard
from t2ireid_plugin.data.transforms import TestTransform
from t2ireid_plugin.errors import DataError

TRANSFORM = TestTransform(32, 16, [0.5] * 3, [0.5] * 3)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


assert WRITERS.keys() == PRETRAINING.keys()


def build(name, root, **options):
    return CaptionDataset(root, spec=PRETRAINING[name], verbose=False, **options)


@pytest.mark.parametrize("name", PRETRAINING)
@pytest.mark.parametrize("chunk", [3, 20_000])
def test_a_format_is_read_as_by_json_load(name, chunk, synthetic, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(large_table, "_CHUNK", chunk)
    expected = WRITERS[name](tmp_path, *drawn(synthetic))
    dataset = build(name, tmp_path, mode="train", transform=TRANSFORM)
    items = list(dataset.train)
    assert len(items) == len(expected) == dataset.counts["train"].captions
    people = {}
    for path, pid, camid, dsetid, caption, *_ in items:
        assert people.setdefault(pid, expected[tmp_path / path, caption]) == expected[tmp_path / path, caption]
        assert (camid, dsetid) == (0, 0)
    assert sorted(people) == list(range(len(set(expected.values()))))
    assert dataset.num_train_pids == len(people) == len(dataset.train.columns[:, PID].unique())
    images = {path for path, _ in expected}
    assert dataset.counts["train"][:2] == (len(images), len(people))
    assert len(dataset.train.columns[:, PATH].unique()) == len(images)
    assert set(dataset.train.paths()) == set(map(str, images))
    assert (dataset.train.columns[:, OUTFIT] == -1).all()
    assert dataset[SampleKey(5, 0)]["img"].shape == (3, 32, 16)
    assert dataset.train[5][5:] != ("", "")  # derived from the caption
    copy = pickle.loads(pickle.dumps(dataset.train))  # as data workers get it where they are not forked
    assert copy == dataset.train
    assert set(dataset.train.captions()) == dataset.train.all_texts() == {text for _, text in expected}


def test_the_table_is_compiled_once_and_again_when_the_annotation_changes(synthetic, tmp_path, capsys) -> None:
    write_webperson(tmp_path, *drawn(synthetic))
    first = build("webperson", tmp_path).train
    assert "Compiling" in capsys.readouterr().out
    again = build("webperson", tmp_path).train
    assert "Compiling" not in capsys.readouterr().out
    assert again == first
    assert again.digest() == first.digest()
    file = tmp_path / "WebPerson" / "100w.json"
    file.write_text(json.dumps([*json.loads(file.read_text()), {"0/0_é.jpg": {"caption1": "One.", "caption2": ""}}]))
    changed = build("webperson", tmp_path).train
    assert "Compiling" in capsys.readouterr().out
    assert len(changed) == len(first) + 1  # the empty caption is left out
    assert changed.left_out == (1, 0)
    assert changed.digest() != first.digest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"id": 1, "file_path": "a.jpg", "captions": ["A"]}, 7', r"element 1: not of this set's"),
        ('[{"id": 1, "file_path": "a.jpg"}]', r"element 0: not of this set's format \(KeyError\('captions'\)\)"),
        ('[{"id": 1, "file_path": "a.jpg", "captions": "A man."}]', r"element 0: captions 'A man\.' must be a list"),
        ('[{"id": "1", "file_path": "a.jpg", "captions": []}]', "element 0: id '1' must be an integer"),
        ('[{"id": 1, "file_path": "../a.jpg", "captions": []}]', "element 0: '../a.jpg' leaves the folder of images"),
        ('[{"id": 1, "file_path": "", "captions": []}]', "element 0: '' must be a path"),
        ('[{"id": 1, "file_path": "a.jpg", "captions": [" "]}]', "synthpedes: the annotation has no images with"),
        ("{", "element 0: "),
        ('[{"id": 1, "file_path": "a.jpg", "captions": ["A"]}', r"element 1: 'the end of the file' in place of"),
        ("text", "json', it must begin with"),
    ],
)
def test_bad_annotations_are_named(content, message, tmp_path) -> None:
    folder = tmp_path / "SYNTH-PEDES"
    folder.mkdir()
    (folder / "synthpedes_dataset.json").write_text(content)
    with pytest.raises(DataError, match=message):
        build("synthpedes", tmp_path)
    assert not list((tmp_path / "cache").rglob("columns"))  # nothing is left behind


@pytest.mark.parametrize("name", PRETRAINING)
def test_shards_have_the_same_images_and_captions_as_folders(name, synthetic, tmp_path) -> None:
    expected = WRITERS[name](tmp_path, *drawn(synthetic))
    folders = build(name, tmp_path, mode="train", transform=TRANSFORM)
    pixels = {(item[0], item[4]): folders[n]["img"] for n, item in enumerate(folders.train)}
    folder = tmp_path / PRETRAINING[name].folder
    pack(folder, 25)
    shards = build(name, tmp_path, mode="train", transform=TRANSFORM)
    assert len(shards.train) == len(expected) == sum(shards.train.shards)
    assert len(shards.train.shards) == math.ceil(shards.counts["train"].images / 25)
    own = [item[0].partition(".tar/") for item in shards.train]
    assert [shard for shard, *_ in own] == sorted(shard for shard, *_ in own)  # each shard's items follow each other
    for number, (shard, _, inside) in enumerate(own):
        assert os.path.dirname(shard) == str(folder / "shards")
        item = shards[SampleKey(number, 0)]
        assert torch.equal(item["img"], pixels.pop((str(folder / inside), item["caption"])))
    assert not pixels
    assert shards.train.digest() != folders.train.digest()  # the order of training differs


def _wrong_reads(files) -> int:
    return sum(read_from_shard(path) != content for _ in range(50) for path, content in files.items())


def test_forked_workers_read_a_shard_that_is_open_already(synthetic, tmp_path) -> None:
    write_webperson(tmp_path, *drawn(synthetic))
    pack(tmp_path / "WebPerson", 60)
    files = {path: read_from_shard(path) for path in {item[0] for item in build("webperson", tmp_path).train}}
    with multiprocessing.get_context("fork").Pool(2) as workers:
        assert workers.map(_wrong_reads, [files] * 2, chunksize=1) == [0, 0]


def test_an_image_that_cannot_be_read_gives_way_to_the_next(synthetic, tmp_path) -> None:
    write_webperson(tmp_path, *drawn(synthetic))
    dataset = build("webperson", tmp_path, mode="train", transform=TRANSFORM)
    dataset.replace_bad_images()
    bad = dataset.train[10][0]
    os.unlink(bad)
    other = next(n for n in range(11, 14) if dataset.train[n][0] != bad)
    for seed in (1, 2):
        item = dataset[SampleKey(10, seed)]
        assert item["bad_image"].startswith(f"missing image '{bad}'")
        assert (item["impath"], item["pid"], item["caption"]) == tuple(dataset.train[other][k] for k in (0, 1, 4))


def test_wrong_shards_are_named(synthetic, tmp_path) -> None:
    write_webperson(tmp_path, *drawn(synthetic))
    folder = tmp_path / "WebPerson"
    pack(folder, 25)
    tar, listed = folder / "shards" / "aaaab.tar", folder / "shards" / "aaaab.txt"
    names = listed.read_text()
    listed.unlink()
    with pytest.raises(DataError, match=r"has no list of its names; write it: tar -tf"):
        build("webperson", tmp_path)
    listed.write_text(names + names.splitlines()[0])
    with pytest.raises(DataError, match="the lists name a file twice"):
        build("webperson", tmp_path)
    listed.write_text(names.replace(".jpg", ".jpeg", 3))  # as if packed without three of the images
    dataset = build("webperson", tmp_path, mode="train", transform=TRANSFORM)
    assert dataset.train.left_out == (0, 3)
    tar.write_bytes(b"not a tar file")
    item = next(n for n, row in enumerate(dataset.train) if row[0].startswith(str(tar)))
    with pytest.raises(DataError, match=r"missing image .*its shard is not an uncompressed tar file"):
        dataset[item]
    for file in listed.parent.glob("*.txt"):
        file.write_text("elsewhere.jpg\n".replace("else", file.stem))
    with pytest.raises(DataError, match="none of its 60 images is in the shards"):
        build("webperson", tmp_path)


# Order


def naive_order(sizes, batch_size, groups, lanes):
    """`shard_order` one item at a time, with the same draws."""
    items, first = [], 0
    members = [list(range(sum(sizes[:shard]), sum(sizes[: shard + 1]))) for shard in range(len(sizes))]
    for shard in torch.randperm(len(sizes)).tolist():
        items += [members[shard][place] for place in torch.randperm(sizes[shard]).tolist()]
    lanes = max(n for n in range(1, lanes + 1) if lanes % n == 0 and batch_size % n == 0)
    if len(items) < 100 * groups * batch_size:
        groups = 1
    length = (len(items) // (groups * batch_size)) * batch_size // lanes
    queues = [
        [items[(group * lanes + lane) * length + n] for n in range(length)]
        for group in range(groups)
        for lane in range(lanes)
    ]
    result = []
    while queues and queues[0] and first < len(items):
        for group in range(groups):
            for queue in queues[group * lanes : (group + 1) * lanes]:
                result += [queue.pop(0) for _ in range(batch_size // lanes)]
        first += 1
    return result


@pytest.mark.parametrize(
    ("sizes", "batch_size", "groups", "lanes"),
    [
        ([5, 0, 9, 3, 30], 4, 1, 2),
        ([700, 650, 3, 800], 4, 4, 16),
        ([40, 41, 39], 6, 8, 16),
        ([250] * 9, 3, 2, 8),
        ([3, 2], 8, 8, 16),
    ],
)
def test_the_order_of_shards_equals_a_loop(sizes, batch_size, groups, lanes) -> None:
    torch.manual_seed(7)
    order = shard_order(sizes, batch_size, groups, lanes).tolist()
    torch.manual_seed(7)
    assert order == naive_order(sizes, batch_size, groups, lanes)
    assert len(set(order)) == len(order) > sum(sizes) - groups * batch_size


def test_each_shard_is_read_by_one_worker_of_one_process_at_a_time() -> None:
    """Two processes with four workers each: hardly any shard is in two of them, and few are read at a time."""
    sizes, batch_size = [500] * 256, 32
    shard_of = np.repeat(np.arange(256), 500)
    shares = [SeededBatches(LargeOrder(128_000, batch_size, sizes), batch_size, share=(rank, 2)) for rank in (0, 1)]
    parts = [[[shard_of[key.item] for key in batch] for batch in share] for share in shares]
    readers = {}
    for rank, batches in enumerate(parts):
        assert len(batches) == 128_000 // 32 // 8 * 8
        for number, batch in enumerate(batches):
            for shard in batch:
                readers.setdefault(shard, set()).add((rank, number % 4))
        at_a_time = [len({shard for batch in batches[k : k + 8] for shard in batch}) for k in range(0, 4000, 80)]
        assert max(at_a_time) <= 2 * 8 * 16 / 2
    assert np.mean([len(found) for found in readers.values()]) < 1.6  # a lane ends within half of the shards


@pytest.mark.parametrize("shards", [(), [40, 90, 70]])
def test_a_large_order_resumes_at_any_step_and_is_split_among_processes(shards) -> None:
    def batches(share=(0, 1)):
        return SeededBatches(LargeOrder(200, 12, shards), 12, seed=3, share=share)

    whole, resumed = batches(), batches()
    epochs = [list(whole) for _ in range(2)]
    assert epochs[0] != epochs[1]
    for epoch, expected in enumerate(epochs):
        assert len(expected) == 200 // 12
        assert len({key.item for batch in expected for key in batch}) == 12 * len(expected)
        for step in (0, 1, 7, len(expected)):
            resumed.start_at(epoch, step)
            assert list(resumed) == expected[step:]
    for expected, first, second in zip(epochs[0], batches((0, 2)), batches((1, 2)), strict=True):
        assert [*first, *second] == expected
