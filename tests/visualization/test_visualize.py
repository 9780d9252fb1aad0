"""``--visualize`` by the command, on a trained model, and `visualize` with changed targets."""

import datetime
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from t2ireid_plugin.cli import main
from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.data.transforms import TestTransform
from t2ireid_plugin.engine.build import build_run
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.evaluation.protocols import IMAGE_QUERY_PROTOCOLS, PROTOCOLS
from t2ireid_plugin.modeling.checkpoint import Checkpoint
from t2ireid_plugin.synthetic.parts import drawn_photos, part_masks
from t2ireid_plugin.utils import fonts, language
from t2ireid_plugin.utils.language import use_language
from t2ireid_plugin.visualization import visualize as module
from t2ireid_plugin.visualization.ranked_lists import example_positions
from t2ireid_plugin.visualization.report import Run
from t2ireid_plugin.visualization.visualize import Target, visualize

NUMBER = 2
NAMES = [name for name in PROTOCOLS if not name.startswith("composed")]  # the people wear one outfit


@pytest.fixture(scope="module")
def drawn(tiny_settings, tiny_run, tmp_path_factory):
    """The folder of pictures of all protocols, drawn by the command, with plots as SVG."""
    folder = tmp_path_factory.mktemp("visualize") / "log"
    settings = {"model__load_weights": tiny_run.folder / "best.pth", "test__pictures": NUMBER, "test__bootstrap": 50}
    settings |= {"test__protocols": ",".join(NAMES), "test__picture_format": "svg"}
    words = tiny_settings(folder, full=True, **settings)
    assert main(["test", "--visualize", *words]) == 0
    return folder / "test" / "cuhkpedes" / "visualize_cuhkpedes"


@pytest.fixture(scope="module")
def rows(synthetic):
    file = synthetic.root / "CUHK-PEDES" / "reid_raw.json"
    return [row for row in json.loads(file.read_text(encoding="utf-8")) if row["split"] == "test"]


@pytest.fixture(scope="module")
def tested(tiny_settings, tiny_run, synthetic, tmp_path_factory):
    """The trained `model`, its `transform`, the `target` and `metrics` of t2i."""
    words = tiny_settings(tmp_path_factory.mktemp("tested"), full=True)
    engine = build_run(load_cfg(words[1], words[2:]), Checkpoint.read(tiny_run.folder / "best.pth"))
    results = engine.evaluate_protocols(["cuhkpedes"], ["t2i"])
    captions, images = (engine.test_loader["cuhkpedes"][side].dataset.data for side in ("query", "gallery"))
    target = Target("cuhkpedes", captions, images, results, drawn_root=synthetic.root)
    transform = engine.datamanager.transform_te
    return SimpleNamespace(model=engine.model, transform=transform, target=target, metrics=results[0].metrics)


@pytest.fixture
def draw(tested, tmp_path, read_page):
    """`draw(number, **changes)`: the page of t2i's target with changed fields, and its folder."""

    def draw(number=NUMBER, **changes):
        target = tested.target._replace(**changes)
        path = visualize(tmp_path, target, tested.model, tested.transform, Run({"t2i": tested.metrics}, {}), number)
        return read_page(path), path.parent

    return draw


def test_files_of_the_command(drawn, rows, read_page):
    captions = [row["id"] for row in rows for _ in row["captions"]]
    images = [row["id"] for row in rows]
    expected = {"report.html", "cmc.svg", "attention_shares.json"}
    plotted = [alt for alt, _ in read_page(drawn / "report.html").images() if alt.startswith("Similarities")]
    assert "Similarities, t2i" in plotted
    assert "Similarities, i2t" not in plotted  # the same pairs
    for number in np.linspace(0, len(captions) - 1, NUMBER).round().astype(int):
        expected.add(f"attention/{number:06}_pid{captions[number]:04}.png")
    for protocol in NAMES:
        pids = images if protocol in IMAGE_QUERY_PROTOCOLS else captions
        ranked = {path.name for path in (drawn / f"ranked_{protocol}").iterdir()}
        assert len(ranked) == NUMBER
        assert all(name == f"{int(name[:6]):06}_pid{pids[int(name[:6])]:04}.png" for name in ranked)
        expected |= {f"ranked_{protocol}/{name}" for name in ranked}
        expected.add(f"failures_{protocol}.png")
        if f"Similarities, {protocol}" in plotted:
            expected.add(f"similarities_{protocol}.svg")
    assert {str(path.relative_to(drawn)) for path in drawn.rglob("*") if path.is_file()} == expected
    for name in expected:
        if name.endswith(".png"):
            with Image.open(drawn / name) as picture:
                picture.load()
        if name.endswith(".svg"):
            assert ElementTree.parse(drawn / name).getroot().tag.endswith("svg")


def test_page_of_the_command(drawn, rows, read_page):
    page = read_page(drawn / "report.html")
    results = json.loads((drawn.parent / "results.json").read_text())
    name = drawn.parents[2].name
    (title,) = {text for text in page.texts if text.startswith(f"{name} · cuhkpedes · ")}
    datetime.datetime.strptime(title.rpartition(" · ")[2], "%Y-%m-%d %H:%M")
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == [f"#{anchor}" for anchor in ("metrics", *results["metrics"]["cuhkpedes"], "attention", "run")]
    for protocol, metrics in results["metrics"]["cuhkpedes"].items():
        row = page.texts.index(protocol, page.texts.index("R@1"))
        cells = [text for text in page.texts[row : row + 20] if text.strip()]
        assert cells[1] == f"{100 * metrics['R@1']:.2f}"
        assert cells[2] == "{:.2f} to {:.2f}".format(*(100 * end for end in metrics["interval95"]["R@1"]))
    assert results["command"] in page.words
    assert (drawn.parent / "config.yaml").read_text(encoding="utf-8").strip() in page.words
    alts = [alt for alt, _ in page.images()]
    for name in ("CMC", "Similarities, t2i", "Similarities, identity"):
        assert alts.count(name) == 1
    captions = [caption for row in rows for caption in row["captions"]]
    for number in np.linspace(0, len(captions) - 1, NUMBER).round().astype(int):
        assert captions[number] in alts  # the attention's picture
    lists = len([1 for tag, attributes in page.tags if attributes.get("class") == "list"])
    assert NUMBER * len(NAMES) <= lists <= 2 * NUMBER * len(NAMES)


def test_ranked_lists_agree_with_the_first_ranks(draw, tested):
    page, folder = draw(4)
    examples, failures = (folder / "report.html").read_text(encoding="utf-8").split("<h3>Worst failures: ")
    ranks, failed = (
        [int(rank) for rank in re.findall(r"first match at rank (\d+)", part)] for part in (examples, failures)
    )
    first_rank = tested.target.results[0].first_rank
    right, wrong = example_positions(tested.target.results[0], 4)
    chosen = [*right, *wrong]
    assert re.findall(r"query (\d+) ·", examples) == [str(number) for number in chosen]
    assert ranks == first_rank[chosen].tolist()
    assert examples.index("query") < examples.index('<h2 id="metrics">')
    pids = tested.target.results[0].pids
    worst = sorted((first_rank[pids == pid].max() for pid in np.unique(pids)), reverse=True)
    assert failed == [rank for rank in worst[:4] if rank > 1]
    classes = [attributes["class"] for tag, attributes in page.tags if tag == "figure"]
    first_hits = [classes[i + 1] for i, name in enumerate(classes) if name == "query"][:4]
    assert [name == "right" for name in first_hits] == [rank == 1 for rank in ranks]


def test_attention_shares_are_the_models(drawn, synthetic, tiny_run, tested):
    """Share by share from the model itself, with the checkpoint's transform."""
    shares = json.loads((drawn / "attention_shares.json").read_text())
    assert shares["photos"] == 32
    state = torch.load(tiny_run.folder / "best.pth", weights_only=True)
    transform = TestTransform(**state["preprocess"])
    model = tested.model.eval()
    assert (transform.height, transform.width) == (32, 16)
    means = {"head": [], "garments": []}
    for row, labels in drawn_photos(synthetic.root):
        image = transform.tensor(transform.load(synthetic.root / "CUHK-PEDES" / "imgs" / row["file_path"]))
        with torch.no_grad():
            tokens = model.visual_encoder(image[None]).last_hidden_state
            weights = model.disentangle.attention_weights(tokens)[0].mean(dim=(1, 2))[0, 1:]  # without the class token
        attention = (weights / weights.sum()).reshape(4, 2).numpy()
        masks = part_masks(labels)
        for part, values in means.items():
            # The same mask, pixel by pixel: each pixel has its patch's attention over the patch's pixels.
            height, width = masks[part].shape
            fine = np.kron(masks[part], np.ones((4, 2)))
            cover = fine.reshape(4, height, 2, width).mean(axis=(1, 3))
            values.append((attention * cover).sum())
    for part, values in means.items():
        assert shares["parts"][part]["identity"]["mean"] == pytest.approx(np.mean(values), abs=1e-5)
    whole = [name for name in shares["parts"] if name != "garments"]
    for branch in ("identity", "clothing"):
        assert sum(shares["parts"][name][branch]["mean"] for name in whole) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_training_visualizes_and_nothing_is_overwritten(tiny_settings, tmp_path, capsys):
    words = tiny_settings(tmp_path, test__pictures=1)
    assert main(["train", "--visualize", *words]) == 0
    tested = tmp_path / "test" / "cuhkpedes"
    folders = [tmp_path / "visualize_cuhkpedes", tested / "visualize_cuhkpedes", tested / "visualize_cuhkpedes-2"]
    first = {path: path.read_bytes() for path in folders[0].rglob("*") if path.is_file()}
    assert first
    for _ in range(2):
        assert main(["train", "--eval-only", "--visualize", *words]) == 0
    assert all(path.read_bytes() == content for path, content in first.items())
    printed = capsys.readouterr().out
    assert main(["train", "--resume", "--visualize", *words]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Open in a browser: {(folders[0] / 'report.html').as_uri()}"
    assert all(f"Open in a browser: {(folder / 'report.html').as_uri()}\n" in printed for folder in folders)
    assert all((folder / "report.html").is_file() for folder in folders)


def test_photographs_with_captions_that_need_a_font(draw, tested, monkeypatch):
    monkeypatch.setattr(fonts, "CHINESE_FONTS", ())
    caption = "一名身穿红色外套的男子。"
    (*first, _, id_text, cloth_text), *others = tested.target.captions
    page, folder = draw(drawn_root=None, captions=[(*first, caption, id_text, cloth_text), *others])
    assert caption in page.texts
    assert caption in [alt for alt, _ in page.images()]
    assert "fonts-noto-cjk" in page.words
    assert "drawn photos" not in page.words
    assert not (folder / "attention_shares.json").exists()
    assert len(list((folder / "attention").iterdir())) == NUMBER


def test_people_drawn_by_another_version_are_noted(draw, synthetic, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(synthetic.root, root)
    (root / "CUHK-PEDES" / "synthetic.json").write_text('{"format": 0}')
    page, _ = draw(drawn_root=root)
    assert "drawn by another version" in page.words
    assert "drawn photos" not in page.words


def test_a_model_without_attention_over_patches_is_noted(draw, tested, monkeypatch):
    def refuse(*_):
        raise ConfigError("disentangle.tokens 'mean' has no attention over patches")

    monkeypatch.setattr(tested.model.disentangle, "attention_weights", refuse)
    page, folder = draw()
    assert "No attention maps: disentangle.tokens 'mean'" in page.words
    assert not (folder / "attention").exists()


def test_zero_pictures_leave_the_plots_and_shares(draw, tested, monkeypatch):
    lengths, plot = [], module.plot_cmc
    monkeypatch.setattr(module, "plot_cmc", lambda curves: lengths.extend(map(len, curves.values())) or plot(curves))
    page, folder = draw(0)
    assert lengths == [tested.metrics["gallery"]]  # of 50 at most
    assert not list(folder.glob("ranked_*/*"))
    assert (folder / "attention_shares.json").is_file()
    assert [alt for alt, _ in page.images()] == ["CMC", "Similarities, t2i"]


def test_a_chinese_page(draw, tested):
    with use_language("zh"):
        page, _ = draw(1)
    assert {"lang": "zh-CN"} in [attributes for tag, attributes in page.tags if tag == "html"]
    translations = json.loads(Path(language.__file__).with_name("chinese.json").read_text(encoding="utf-8"))
    for english in translations:
        assert english not in page.texts
    for words in (
        "指标",
        "注意力",
        "头部",
        translations["Each caption searches all photos; this is the benchmarks' official protocol."],
    ):
        assert words in page.texts


def test_a_negative_number_of_pictures_is_refused(tiny_settings, tmp_path, capsys):
    assert main(["test", "--visualize", *tiny_settings(tmp_path, test__pictures=-1)]) == 2
    assert "test.pictures: -1 must be at least 0" in capsys.readouterr().err
