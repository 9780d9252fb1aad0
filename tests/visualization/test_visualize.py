"""`--visualize` as a user has it: by the command, on a trained model."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from t2ireid_plugin import run as job
from t2ireid_plugin.cli import main
from t2ireid_plugin.data.transforms import TestTransform
from t2ireid_plugin.engine.build import build_run
from t2ireid_plugin.evaluation.protocols import IMAGE_QUERY_PROTOCOLS, PROTOCOLS
from t2ireid_plugin.synthetic.parts import drawn_photos, part_masks
from t2ireid_plugin.utils import fonts
from t2ireid_plugin.visualization.visualize import visualize

NUMBER = 3
EVIL = '<script>alert(1)</script>&"'


@pytest.fixture(scope="module")
def test_words(tiny_settings, tiny_run):
    """`test_words(folder, **settings)`: the command that tests the trained tiny model and visualizes."""

    def words(folder, **settings):
        weights = {"model__load_weights": tiny_run.folder / "best.pth", "test__pictures": NUMBER, "test__bootstrap": 50}
        return ["test", "--visualize", *tiny_settings(folder, **{**weights, **settings})]

    return words


@pytest.fixture(scope="module")
def drawn(test_words, tmp_path_factory):
    """The folder of pictures of all protocols, and the run's folder."""
    folder = tmp_path_factory.mktemp("visualize") / "log"
    assert main(test_words(folder, test__protocols=f"[{','.join(PROTOCOLS)}]")) == 0
    return folder / "visualize_cuhkpedes"


@pytest.fixture(scope="module")
def rows(synthetic):
    file = synthetic.root / "CUHK-PEDES" / "reid_raw.json"
    return [row for row in json.loads(file.read_text(encoding="utf-8")) if row["split"] == "test"]


def test_the_files(drawn, rows):
    captions = [row["id"] for row in rows for _ in row["captions"]]
    images = [row["id"] for row in rows]
    expected = {"report.html", "cmc.png", "attention_shares.json"}
    for protocol in PROTOCOLS:
        pids = images if protocol in IMAGE_QUERY_PROTOCOLS else captions
        for number in np.linspace(0, len(pids) - 1, NUMBER).round().astype(int):
            expected.add(f"ranked_{protocol}/{number:06}_pid{pids[number]:04}.png")
            if protocol == "t2i":
                expected.add(f"attention/{number:06}_pid{pids[number]:04}.png")
        expected |= {f"failures_{protocol}.png", f"similarities_{protocol}.png"}
    assert {str(path.relative_to(drawn)) for path in drawn.rglob("*") if path.is_file()} == expected
    for name in expected:
        if name.endswith(".png"):
            with Image.open(drawn / name) as picture:
                picture.load()


def test_the_page_has_it_all(drawn, rows, read_page):
    found = read_page(drawn / "report.html")
    results = json.loads((drawn.parent / "results.json").read_text())
    for protocol, metrics in results["metrics"]["cuhkpedes"].items():
        row = found.texts.index(protocol)
        cells = [text for text in found.texts[row : row + 20] if text.strip()]
        assert cells[1] == f"{100 * metrics['R@1']:.2f}"
        assert cells[2] == "{:.1f} to {:.1f}".format(*(100 * end for end in metrics["interval95"]["R@1"]))
    assert results["command"] in found.words
    assert (drawn.parent / "config.yaml").read_text(encoding="utf-8").strip() in found.words
    sources = [attributes["src"] for tag, attributes in found.tags if tag == "img"]
    alts = [alt for alt, _ in found.images()]
    assert len(sources) == len(alts)
    for name in ("CMC", *(f"Similarities, {protocol}" for protocol in PROTOCOLS)):
        assert alts.count(name) == 1
    captions = [caption for row in rows for caption in row["captions"]]
    for number in np.linspace(0, len(captions) - 1, NUMBER).round().astype(int):
        assert captions[number] in alts  # the attention's picture
        assert captions[number] in found.texts  # the ranked list's heading
    # Each list of photos has its query's photo and ten answers, and perhaps one more.
    lists = len([1 for tag, attributes in found.tags if attributes.get("class") == "list"])
    assert NUMBER * len(PROTOCOLS) <= lists <= 2 * NUMBER * len(PROTOCOLS)
    of_texts = len([1 for tag, attributes in found.tags if attributes.get("class") == "found"])
    figures = len([1 for tag, _ in found.tags if tag == "figure"])
    assert 11 * (lists - of_texts) + of_texts <= figures <= 12 * (lists - of_texts) + of_texts


def test_ranked_lists_begin_right_as_often_as_r1_says(test_words, tmp_path, read_page):
    """With all queries drawn, the metrics follow from the page."""
    assert main(test_words(tmp_path, test__pictures=64)) == 0
    found = read_page(tmp_path / "visualize_cuhkpedes" / "report.html")
    metrics = json.loads((tmp_path / "results.json").read_text())["metrics"]["cuhkpedes"]["t2i"]
    text = (tmp_path / "visualize_cuhkpedes" / "report.html").read_text(encoding="utf-8")
    examples, failures = text.split("<h3>Worst failures</h3>")
    firsts = [int(rank) for rank in re.findall(r"first right answer at rank (\d+)", examples)]
    assert len(firsts) == 64
    for k in (1, 5, 10):
        assert np.mean(np.array(firsts) <= k) == pytest.approx(metrics[f"R@{k}"])
    failed = [int(rank) for rank in re.findall(r"first right answer at rank (\d+)", failures)]
    assert failed == sorted([rank for rank in firsts if rank > 1], reverse=True)
    begin = [attributes["class"] for tag, attributes in found.tags if tag == "figure"]
    begin = [begin[i + 1] for i, name in enumerate(begin) if name == "asked"][:64]
    assert begin.count("right") == firsts.count(1)


def test_shares_of_attention_are_those_of_the_checkpoint_s_view(drawn, synthetic, tiny_run, test_words, tmp_path):
    """Share by share from the model itself, with the transform that the checkpoint names."""
    shares = json.loads((drawn / "attention_shares.json").read_text())
    assert shares["photos"] == 32
    state = torch.load(tiny_run.folder / "best.pth", weights_only=True)
    transform = TestTransform(**state["preprocess"])
    engine = build_run(job_cfg(test_words(tmp_path)), tiny_run.folder / "best.pth")
    model = engine.model.eval()
    assert (transform.height, transform.width) == (32, 16)
    means = {"head": [], "garments": []}
    for photo in drawn_photos(synthetic.root):
        image = transform.tensor(transform.load(synthetic.root / "CUHK-PEDES" / "imgs" / photo.file_path))
        with torch.no_grad():
            tokens = model.visual_encoder(image[None]).last_hidden_state
            weights = model.disentangle.attention_weights(tokens)[0].mean(dim=(1, 2))[0, 1:]  # without the class token
        attention = (weights / weights.sum()).reshape(4, 2).numpy()
        masks = part_masks(photo.labels)
        for part, found in means.items():
            # The same mask, pixel by pixel: each pixel has its patch's attention over the patch's pixels.
            height, width = masks[part].shape
            fine = np.kron(masks[part], np.ones((4, 2)))
            cover = fine.reshape(4, height, 2, width).mean(axis=(1, 3))
            found.append((attention * cover).sum())
    for part, found in means.items():
        assert shares["parts"][part]["identity"]["mean"] == pytest.approx(np.mean(found), abs=1e-5)
    for values in shares["parts"].values():
        assert values["difference"]["mean"] == pytest.approx(values["identity"]["mean"] - values["clothing"]["mean"])
        assert values["identity"]["low"] <= values["identity"]["mean"] <= values["identity"]["high"]
    whole = [name for name in shares["parts"] if name != "garments"]
    for branch in ("identity", "clothing"):
        assert sum(shares["parts"][name][branch]["mean"] for name in whole) == pytest.approx(1, abs=1e-5)


def job_cfg(words):
    from t2ireid_plugin.config import load_cfg

    return load_cfg(words[3], words[4:])


def test_nothing_is_overwritten_and_training_visualizes_too(tiny_settings, tmp_path, capsys):
    words = tiny_settings(tmp_path, train__max_epoch=1, test__pictures=1, test__bootstrap=0)
    assert main(["train", "--visualize", *words]) == 0
    first = {path: path.read_bytes() for path in (tmp_path / "visualize_cuhkpedes").rglob("*") if path.is_file()}
    assert first
    assert main(["train", "--eval-only", "--visualize", *words]) == 0
    assert (tmp_path / "visualize_cuhkpedes-2" / "report.html").is_file()
    assert all(path.read_bytes() == content for path, content in first.items())
    printed = capsys.readouterr().out
    for name in ("visualize_cuhkpedes", "visualize_cuhkpedes-2"):
        assert f"'{tmp_path / name / 'report.html'}'" in printed


@pytest.fixture
def copied(synthetic, tmp_path):
    """A copy of the drawn people that may be changed."""
    shutil.copytree(synthetic.root, tmp_path / "data")
    return tmp_path / "data"


def change(root, caption):
    file = root / "CUHK-PEDES" / "reid_raw.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    first = next(row for row in rows if row["split"] == "test")
    first["captions"][0] = caption
    file.write_text(json.dumps(rows), encoding="utf-8")


def test_photos_have_no_parts_and_a_hostile_caption_is_shown_as_it_is(copied, test_words, tmp_path, read_page):
    (copied / "CUHK-PEDES" / "attributes.json").unlink()
    change(copied, EVIL)
    assert main(test_words(tmp_path / "log", data__root=copied)) == 0
    folder = tmp_path / "log" / "visualize_cuhkpedes"
    found = read_page(folder / "report.html")
    assert EVIL in found.texts
    assert EVIL in [alt for alt, _ in found.images()]
    assert "drawn photos" not in found.words
    assert not (folder / "attention_shares.json").exists()
    assert len(list((folder / "attention").iterdir())) == NUMBER


def test_people_that_were_drawn_otherwise_are_a_note(copied, test_words, tmp_path, read_page):
    (copied / "CUHK-PEDES" / "synthetic.json").write_text("{}")
    assert main(test_words(tmp_path / "log", data__root=copied)) == 0
    found = read_page(tmp_path / "log" / "visualize_cuhkpedes" / "report.html")
    assert "drawn by another version" in found.words
    assert "drawn photos" not in found.words


def test_branches_without_attention_over_patches_are_a_note(test_words, tmp_path, read_page):
    assert main(test_words(tmp_path, model__disentangle__tokens="mean")) == 0
    folder = tmp_path / "visualize_cuhkpedes"
    assert "There are no maps: disentangle.tokens 'mean'" in read_page(folder / "report.html").words
    assert not (folder / "attention").exists()


def test_chinese_without_a_font_is_told(copied, test_words, tmp_path, read_page, monkeypatch):
    change(copied, "一名身穿红色外套的男子。")
    monkeypatch.setattr(fonts, "CHINESE_FONTS", ())
    assert main(test_words(tmp_path / "log", data__root=copied)) == 0
    found = read_page(tmp_path / "log" / "visualize_cuhkpedes" / "report.html")
    assert "fonts-noto-cjk" in found.words
    assert "一名身穿红色外套的男子。" in found.texts


def test_without_pictures_there_are_figures_only(test_words, tmp_path, read_page):
    assert main(test_words(tmp_path, test__pictures=0)) == 0
    folder = tmp_path / "visualize_cuhkpedes"
    assert not (tmp_path / "ranked_cuhkpedes.png").exists()
    assert not list(folder.glob("ranked_*/*"))
    assert (folder / "attention_shares.json").is_file()
    assert [alt for alt, _ in read_page(folder / "report.html").images()] == ["CMC", "Similarities, t2i"]


def test_the_whole_matrix_is_never_asked_for(test_words, tmp_path, monkeypatch):
    """Of 64 queries and 32 images no more than two rows at once are multiplied, besides the drawn queries."""
    from t2ireid_plugin.visualization import ranked_lists as retrieval

    monkeypatch.setattr(retrieval, "_CELLS", 64)
    sizes, multiply = [], torch.Tensor.__matmul__

    def spy(first, second):
        result = multiply(first, second)
        if first.shape[-1] == second.shape[0] == 256:
            sizes.append(result.numel())
        return result

    def watched(*arguments):
        monkeypatch.setattr(torch.Tensor, "__matmul__", spy)
        return visualize(*arguments)

    monkeypatch.setattr(job, "visualize", watched)
    assert main(test_words(tmp_path)) == 0
    assert len(sizes) > 32
    assert max(sizes) <= max(64, NUMBER * 32)


def test_a_number_of_pictures_below_zero_is_refused(test_words, tmp_path, capsys):
    assert main(test_words(tmp_path, test__pictures=-1)) == 2
    assert "test.pictures: -1 must be at least 0" in capsys.readouterr().err
