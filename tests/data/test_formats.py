"""Benchmarks whose annotations have formats of their own, written here as their publishers write them."""

import itertools
import json
import random
import shutil
from pathlib import Path

import pytest
import torch

from t2ireid_plugin.cli import main
from t2ireid_plugin.data.benchmarks import BENCHMARKS
from t2ireid_plugin.data.dataset import CaptionDataset
from t2ireid_plugin.data.formats import read_iiitd
from t2ireid_plugin.data.item_table import OUTFIT, PID
from t2ireid_plugin.data.transforms import TestTransform
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.modeling.instructions import split_caption
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel


def build(name, root, **options):
    return CaptionDataset(root, spec=BENCHMARKS[name], verbose=False, **options)


def rows_of(synthetic):
    base = synthetic.root / "CUHK-PEDES"
    return base / "imgs", json.loads((base / "reid_raw.json").read_text())


def link(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)


def write_pab(root, imgs, rows):
    """JSON lines; training rows have one caption and are in several files, test rows have a list."""
    folder = root / "PAB" / "annotation"
    files = {"train": [[], [], []], "test": [[]]}
    for number, row in enumerate(row for row in rows if row["split"] != "val"):
        image = f"{row['split']}/imgs_0/goal/{number}.jpg"
        link(imgs / row["file_path"], root / "PAB" / image)
        train = row["split"] == "train"
        own = {
            "image": image,
            "caption": row["captions"][0] if train else row["captions"][:1],
            "image_id": f"0_{number}",
        }
        extra = {"hard_i": "imgs_0/full/0.jpg", "hard_c": "Another.", "hard_i_id": "9_9", "normal": "Walking"}
        files[row["split"]][number % len(files[row["split"]])].append(own | (extra if train else {}))
    for split, names in {"train": ["attr_0", "attr_2", "attr_10"], "test": ["attr"]}.items():
        (folder / split).mkdir(parents=True)
        for name, own in zip(names, files[split]):
            (folder / split / f"{name}.json").write_text("".join(json.dumps(row) + "\n" for row in own))
    (folder / "test" / "ucc.json").write_text("".join(json.dumps(row) + "\n" for row in files["test"][0][:10]))


def write_orbench(root, imgs, rows):
    """Training rows with a caption each; the test file lists a gallery and queries by kind."""
    train, gallery, texts = [], [], []
    ids = {"train": {}, "test": {}}
    for number, row in enumerate(row for row in rows if row["split"] != "val"):
        own = ids[row["split"]]
        pid = own.setdefault(row["id"], len(own) + 1)
        path = f"vis/{pid:04}/{number}.jpg" if row["split"] == "train" else f"vis/{900 + pid:04}/{number}.jpg"
        link(imgs / row["file_path"], root / "ORBench" / path)
        if row["split"] == "train":
            train.append({"id": pid, "file_path": path, "caption": row["captions"][0]})
        else:
            gallery.append([pid, path])
            texts += [[pid, text] for text in row["captions"][: number % 2]]  # every second photo has none
    (root / "ORBench" / "train_annos.json").write_text(json.dumps(train))
    test = {"RGB_GALLERY": gallery, "TEXT": texts, "NIR+TEXT": [[1, "nir/0001/0.jpg", "a man"]]}
    (root / "ORBench" / "test_gallery_and_queries.json").write_text(json.dumps(test))
    return gallery, texts


def write_ufine3c(root, imgs, rows):
    new = []
    for number, row in enumerate(row for row in rows if row["split"] == "test"):
        link(imgs / row["file_path"], root / "UFine3C" / "images" / f"{number}.jpg")
        own = {"id": row["id"], "source": "UFine6926", "split": "test", "file_path": f"images/{number}.jpg"}
        new.append(own | {"captions": [*row["captions"], f"{row['captions'][0]} Seen from afar."]})
    (root / "UFine3C" / "UFine3C_Annotations.json").write_text(json.dumps(new))


def test_pab(synthetic, tmp_path):
    imgs, rows = rows_of(synthetic)
    write_pab(tmp_path, imgs, rows)
    train = [row for row in rows if row["split"] == "train"]
    test = [row for row in rows if row["split"] == "test"]
    dataset = build("pab", tmp_path, val_share=0)
    assert dataset.counts["train"] == (len(train), len(train), len(train))  # each image is an identity
    assert sorted(item[4] for item in dataset.train) == sorted(row["captions"][0] for row in train)
    assert [item[4] for item in dataset.query] == [row["captions"][0] for row in test]
    assert dataset.gallery.distinct(PID) == len(test)
    ucc = build("pab_ucc", tmp_path)
    assert ucc.counts["test"] == (10, 10, 10)
    assert ucc.counts["train"].images == 0


def test_a_line_of_pab_that_is_no_object_is_named(synthetic, tmp_path):
    write_pab(tmp_path, *rows_of(synthetic))
    file = tmp_path / "PAB" / "annotation" / "train" / "attr_2.json"
    file.write_text(file.read_text() + '{"image": \n')
    lines = len(file.read_text().splitlines())
    with pytest.raises(DataError, match=rf"attr_2\.json', line {lines}: .*; each line must be a JSON object"):
        build("pab", tmp_path)


def test_orbench(synthetic, tmp_path):
    gallery, texts = write_orbench(tmp_path, *rows_of(synthetic))
    dataset = build("orbench", tmp_path, val_share=0)
    assert len(dataset.gallery) == len(gallery)  # photos without a text are in the gallery too
    assert sorted((item[1] - 10_000, item[4]) for item in dataset.query) == sorted(map(tuple, texts))
    assert len(texts) < len(gallery)
    described = {item[0].rpartition("ORBench/")[2]: item[1] for item in dataset.query}
    assert all([pid - 10_000, path] in gallery for path, pid in described.items())
    assert dataset.counts["train"].images == sum(row["split"] == "train" for row in rows_of(synthetic)[1])


def test_rgbtpedes(synthetic, tmp_path):
    """Names of the thermal or of any other folder lead to the RGB photo; empty captions are dropped."""
    imgs, rows = rows_of(synthetic)
    new = []
    for number, row in enumerate(rows):
        link(imgs / row["file_path"], tmp_path / "RGBT-PEDES" / "RGB" / f"{number}.jpg")
        own = {"split": row["split"], "id": row["id"], "file_path": f"some/folder/{number}.jpg"}
        new.append(own | {"captions": [*row["captions"], ""], "no_color_caption": ["a man"] * 3})
    (tmp_path / "RGBT-PEDES" / "caption_2_no_color.json").write_text(json.dumps(new))
    dataset = build("rgbtpedes", tmp_path)
    assert sum(counts.captions for counts in dataset.counts.values()) == sum(len(row["captions"]) for row in rows)
    assert all(Path(path).parent.name == "RGB" for path in dataset.train.paths())


def test_iiitd20k(tmp_path):
    """The order in the file is the identity, and decides the split; both extensions occur."""
    folder = tmp_path / "IIITD-20K-Dataset" / "IIITD-20K"
    folder.mkdir(parents=True)
    for name in ("a.jpeg", "b.jpg"):
        (folder / name).touch()
    content = {
        str(number): {"Image ID": "ab"[number % 2], "Description 1": f"one {number}", "Description 2": f"two {number}"}
        for number in range(20_000)
    }
    file = folder.parent / "Filtered.json"
    file.write_text(json.dumps(content))
    rows = read_iiitd(file)
    assert [row["id"] for row in rows] == list(range(20_000))
    splits = [row["split"] for row in rows]
    assert splits == ["train"] * 15_000 + ["val"] * 2_500 + ["test"] * 2_500
    assert rows[17_501] == {"split": "test", "id": 17_501, "file_path": "b.jpg", "captions": ["one 17501", "two 17501"]}
    file.write_text(json.dumps({"0": {"Image ID": "c", "Description 1": "", "Description 2": ""}}))
    with pytest.raises(DataError, match=r"Filtered\.json', entry 0: no 'c', or no such image in IIITD-20K/"):
        read_iiitd(file)
    formatted = [{"split": "test", "id": 0, "file_path": "IIITD-20K/a.jpeg", "captions": ["one"]}]
    file.write_text(json.dumps(formatted))
    assert read_iiitd(file) == formatted


def test_itcpr(two_outfits, tmp_path, capsys):
    """A photo may be in several queries, and searched as well; each instance is searched by its own query."""
    shutil.copytree(two_outfits / "ITCPR", tmp_path / "ITCPR")
    file = tmp_path / "ITCPR" / "query.json"
    queries, gallery = (json.loads((file.parent / f"{name}.json").read_text()) for name in ("query", "gallery"))
    again = {**queries[0], "instance_id": str(queries[1]["instance_id"]), "caption": "Wearing a red coat."}
    distractor = {**{key: queries[2][key] for key in ("file_path", "datasets", "person_id")}, "instance_id": -1}
    file.write_text(json.dumps([*queries, again]))
    file.with_name("gallery.json").write_text(json.dumps([*gallery, distractor]))
    dataset = build("itcpr", tmp_path)
    found = [(item[0].rpartition("ITCPR/")[2], item[1], item[4]) for item in dataset.query]
    assert found == [(q["file_path"], int(q["instance_id"]), q["caption"]) for q in [*queries, again]]
    searched = [(item[0].rpartition("ITCPR/")[2], item[1]) for item in dataset.gallery]
    assert searched == [(row["file_path"], row["instance_id"]) for row in [*gallery, distractor]]
    assert dataset.counts["test"][::2] == (len(gallery) + 1, len(queries) + 1)
    assert set(dataset.references.paths()) == {item[0] for item in dataset.query}
    assert main(["prepare", "check", str(tmp_path), "--dataset", "itcpr", "--out", str(tmp_path / "check")]) == 0
    report = capsys.readouterr().out
    assert f"test       {len(gallery) + 1}" in report
    assert "contradicted" not in report


def test_syncpr(two_outfits):
    """By a loop over the triplets: who is whose match, and which words ask for which photo."""
    triplets = json.loads((two_outfits / "SynCPR" / "SynCPR.json").read_text())
    dataset = build("syncpr", two_outfits, val_share=0)
    photos = {}
    for i, (path, pid, _, _, caption, _, clothing) in enumerate(dataset.train):
        outfit = dataset.train.columns[i, OUTFIT].item()
        assert path not in photos
        photos[path.rpartition("SynCPR/")[2]] = (pid, outfit), caption, clothing
    targets = {}
    for triplet in triplets:
        (before, old, _), (after, new, words) = (photos[triplet[f"{k}_image_path"]] for k in ("reference", "target"))
        assert before[0] == after[0]
        assert {before[1], after[1]} == {0, 1}
        assert (old, new, words) == tuple(triplet[k] for k in ("reference_caption", "target_caption", "edit_caption"))
        targets.setdefault(triplet["cpr_id"], {})[triplet["target_image_path"]] = after
    for own in targets.values():
        (look,) = set(own.values())
        assert {path for path, (other, *_) in photos.items() if other == look} == set(own)
    assert dataset.num_train_pids == 24
    assert build("syncpr", two_outfits, val_share=0.25).counts["val"].ids == 6


def test_a_photo_of_syncpr_that_is_no_target_has_its_caption_alone(two_outfits, tmp_path):
    (tmp_path / "SynCPR").mkdir()
    (tmp_path / "SynCPR" / "test1").symlink_to(two_outfits / "SynCPR" / "test1")
    (triplet, *_) = json.loads((two_outfits / "SynCPR" / "SynCPR.json").read_text())
    file = tmp_path / "SynCPR" / "SynCPR.json"
    file.write_text(json.dumps([triplet]))
    target, reference = build("syncpr", tmp_path, val_share=0).train
    assert (target[4], target[6]) == (triplet["target_caption"], triplet["edit_caption"])
    assert reference[4] == triplet["reference_caption"]
    assert reference[6] == split_caption(reference[4])[1]
    file.write_text(json.dumps([triplet, {**triplet, "target_caption": None}]))
    with pytest.raises(
        DataError, match=r"SynCPR\.json', triplet 1: TypeError.*it must have reference_caption, target_"
    ):
        build("syncpr", tmp_path)


def write_track4(root, imgs, rows, queries=20):
    """The renamed test set: photos and queries by random names, queries in an order of their own."""
    folder = root / "PAB" / "name-masked_test-set"
    source = random.Random(0)
    names = ["".join(source.choices("ABCXYZ0189", k=15)) for _ in range(len(rows) + queries)]
    for name, row in zip(names, rows):
        link(imgs / row["file_path"], folder / "gallery" / f"{name}.jpg")
    texts = [{"query_index": name, "caption": row["captions"][0]} for name, row in zip(names[len(rows) :], rows)]
    (folder / "query_text.json").write_text("".join(json.dumps(row) + "\n" for row in texts))
    order = source.sample(texts, len(texts))
    (folder / "query_index.txt").write_bytes("".join(f"{row['query_index']}\r\n" for row in order).encode())
    return [row["caption"] for row in order], sorted(names[: len(rows)])


def test_answers_to_track_4(tiny_run, synthetic, tmp_path, capsys):
    """The file, read back, is a ranking by the model's own embeddings, one query after the other."""
    imgs, rows = rows_of(synthetic)
    captions, names = write_track4(tmp_path, imgs, [row for row in rows if row["split"] == "test"])
    file = tmp_path / "answer.txt"
    words = ["data.root", str(tmp_path), "data.targets", "pab_track4", "data.save_dir", str(tmp_path / "log")]
    assert main(["test", str(tiny_run.folder), *words, "test.answer_file", str(file)]) == 0
    assert f"Answers to pab_track4 are in '{file}'" in capsys.readouterr().out
    assert json.loads((tmp_path / "log" / "test" / "pab_track4" / "results.json").read_text())["metrics"] == {}
    lines = file.read_bytes().decode().split("\r\n")
    assert lines.pop() == ""
    model = T2IReIDModel.from_checkpoint(tiny_run.folder / "best.pth").eval()
    dataset = build("pab_track4", tmp_path, transform=TestTransform(*model.preprocess), mode="gallery")
    with torch.no_grad():
        gallery = {Path(photo["impath"]).stem: model.encode_gallery(photo["img"][None])[0] for photo in dataset}
        assert sorted(gallery) == names
        for caption, line in zip(captions, lines, strict=True):
            query = model.encode_query(caption)
            scores = {name: float(torch.nn.functional.cosine_similarity(query, gallery[name], 0)) for name in gallery}
            best = line.split(" ")
            assert len(best) == len(set(best)) == 10
            worst = min(scores[name] for name in best)
            assert all(scores[name] < worst + 1e-5 for name in gallery if name not in best)
            assert all(scores[a] > scores[b] - 1e-5 for a, b in itertools.pairwise(best))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"data.targets": "pab_track4"},
            "data.targets: pab_track4 has no public labels to evaluate with; set test.answ",
        ),
        ({"test.answer_file": "a.txt"}, "test.answer_file: 'a.txt' is for the answers to pab_track4, and data.targets"),
        (
            {"data.targets": "pab_track4", "test.answer_file": "nowhere/a.txt"},
            "test.answer_file: there is no folder for 'nowhere/a.txt'",
        ),
    ],
)
def test_answers_are_for_sets_without_labels(tiny_run, capsys, settings, message):
    assert main(["test", str(tiny_run.folder), *(word for pair in settings.items() for word in pair)]) == 2
    assert message in capsys.readouterr().err


def test_a_query_of_track_4_without_text_is_named(synthetic, tmp_path):
    imgs, rows = rows_of(synthetic)
    _, names = write_track4(tmp_path, imgs, rows[:20])
    for name in names[8:]:
        (tmp_path / "PAB" / "name-masked_test-set" / "gallery" / f"{name}.jpg").unlink()
    with pytest.raises(DataError, match=r"has 8 photos for 20 queries; unpack gallery\.zip there"):
        build("pab_track4", tmp_path)
    order = tmp_path / "PAB" / "name-masked_test-set" / "query_index.txt"
    order.write_text("NOBODY\n")
    with pytest.raises(DataError, match=r"must have a caption for each query_index in '.*index\.txt': KeyError\('NOB"):
        build("pab_track4", tmp_path)


def test_captions_may_be_null_except_in_train(cuhk):
    cuhk.add("test", 77, "distractor.png")
    cuhk.rows[-1]["captions"] = None
    dataset = build("cuhkpedes", cuhk.save())
    assert any(item[1] == 77 for item in dataset.gallery)
    assert all(item[1] != 77 for item in dataset.query)
    cuhk.rows[0]["captions"] = None
    with pytest.raises(DataError, match="expected a list of at least one text"):
        build("cuhkpedes", cuhk.save())


def test_checking_and_testing_on_test_sets(tiny_run, synthetic, tmp_path, capsys):
    """UFine3C has test images only, and its publishers report mSD."""
    write_ufine3c(tmp_path, *rows_of(synthetic))
    write_orbench(tmp_path, *rows_of(synthetic))
    assert main(["prepare", "check", str(tmp_path), "--dataset", "ufine3c", "--out", str(tmp_path / "check")]) == 0
    assert "empty" not in capsys.readouterr().out
    run = shutil.copytree(tiny_run.folder, tmp_path / "run")
    out = tmp_path / "out"
    words = ["data.root", str(tmp_path), "data.targets", "ufine3c,orbench", "data.save_dir", str(out)]
    assert main(["test", str(run), *words, "test.pictures", "0", "test.bootstrap", "0"]) == 0
    table = capsys.readouterr().out
    metrics = json.loads((out / "test" / "ufine3c+orbench" / "results.json").read_text())["metrics"]
    found = metrics["ufine3c"]["t2i"]
    assert 0 < found["mSD"] < 1
    assert f"mSD {100 * found['mSD']:.2f} (as the authors' published file" in table
    assert "mSD" not in metrics["orbench"]["t2i"]
    assert metrics["orbench"]["t2i"]["gallery"] == 32


@pytest.mark.slow
def test_testing_on_itcpr(tiny_run, two_outfits, tmp_path, capsys):
    """By text alone, image alone, both: 16 queries whose photos are not among the 48 that are searched."""
    words = ["data.root", str(two_outfits), "data.targets", "itcpr", "data.save_dir", str(tmp_path)]
    protocols = ["test.protocols", "[t2i, ti2i, composed]", "test.pictures", "4", "test.bootstrap", "0"]
    assert main(["test", str(tiny_run.folder), *words, *protocols]) == 0
    metrics = json.loads((tmp_path / "test" / "itcpr" / "results.json").read_text())["metrics"]["itcpr"]
    baselines = ("words", "photo", "sum", "pair")
    assert list(metrics) == ["t2i", "ti2i", "ti2i_photo", "ti2i_sum", "composed", *(f"composed_{b}" for b in baselines)]
    for own in metrics.values():
        assert (own["queries"], own["valid_queries"], own["gallery"]) == (16, 16, 48)
    # Captions of ITCPR are about clothes alone, so whole captions and clothing texts are the same.
    for name, other in (("t2i", "composed_words"), ("ti2i_photo", "composed_photo")):
        assert metrics[name]["mAP"] == metrics[other]["mAP"]
    assert (tmp_path / "test" / "itcpr" / "ranked_itcpr.png").is_file()
    assert "itcpr" in capsys.readouterr().out
    quick = ["test.pictures", "1", "test.bootstrap", "0", "--visualize"]
    assert main(["test", str(tiny_run.folder), *words, "test.protocols", "t2i", *quick]) == 0
    assert (tmp_path / "test" / "itcpr" / "visualize_itcpr" / "report.html").is_file()
