import contextlib

import numpy as np
import pytest
from PIL import Image

from t2ireid_plugin.evaluation.protocols import PROTOCOLS, SENTENCES
from t2ireid_plugin.visualization import html
from t2ireid_plugin.visualization.plots import plot_cmc, plot_file, plot_for_page, plot_similarities
from t2ireid_plugin.visualization.ranked_lists import Hit, RankedList
from t2ireid_plugin.visualization.report import Run, attention_section, examples_section, protocol_section, write_report

from ..search.serve.browser import CHROMIUM, Browser

EVIL = "<script>alert(1)</script>&\"'><img src=http://evil.example/x onerror=alert(2)>"


@pytest.fixture
def photo(tmp_path):
    """A photo in a folder with a hostile name."""
    folder = tmp_path / "a&b <i>"
    folder.mkdir()
    Image.new("RGB", (40, 80), (20, 40, 200)).save(folder / "photo.png")
    return str(folder / "photo.png")


def ranked(photo, text=EVIL, hit_text="", first=None):
    entry = ("", hit_text) if hit_text else (photo, "")
    hits = [Hit(*entry, 1, 0.75, False), Hit(*entry, 2, -0.5, first is None)]
    return RankedList(12, 7, text, photo, False, hits, first or hits[1])


def section(name, *lists, failures=()):
    similarities = plot_for_page(plot_similarities(np.array([0, 3]), np.array([2, 1])))
    return protocol_section(name, {"First answer right": lists}, failures, similarities)


METRICS = {
    "R@1": 0.5,
    "mAP": 0.25,
    "queries": 1200,
    "valid_queries": 1200,
    "gallery": 600,
    "interval95": {"R@1": [0.4, 0.625]},
}


@pytest.fixture
def write(tmp_path, read_page):
    """`write(**changes)`: the page of a small run, as read by `read_page`."""

    def run(sections=(), notes=(), first="", title="a run", metrics=None, facts=None, config="a: 1"):
        about = Run(metrics or {"t2i": METRICS}, {"cuhkpedes": {"test": {"images": 3074}}}, facts or {}, config)
        cmc = plot_for_page(plot_cmc({"t2i": np.array([0.5, 1])}))
        write_report(tmp_path / "report.html", title, about, first, cmc, sections, notes)
        return read_page(tmp_path / "report.html")

    return run


def test_markup_in_captions_paths_and_configuration_is_escaped(photo, write):
    page = write(
        sections=[
            section(EVIL, ranked(photo), ranked(photo, hit_text=EVIL), failures=[ranked(photo)]),
            attention_section([(EVIL, plot_file(plot_cmc({"a": np.ones(1)}), "png"))], note=EVIL),
        ],
        notes=[EVIL],
        title=EVIL,
        metrics={"t2i": METRICS, EVIL: METRICS},
        facts={EVIL: EVIL},
        config=f"model:\n  name: {EVIL}",
    )
    # Title twice, note, table, section and its link, the lists' texts and hits, attention, the facts, configuration.
    assert page.words.count(EVIL) == 2 + 1 + 1 + 2 + 3 + 2 + 1 + 2 + 1
    assert f"Similarities, {EVIL}" in [alt for alt, _ in page.images()]
    assert f"model:\n  name: {EVIL}" in page.words
    assert EVIL in [alt for alt, _ in page.images()]
    assert "a&b <i>/photo.png" in [alt for alt, _ in page.images()]


def test_a_list_is_shown_with_its_frames_ranks_and_scores(photo, write):
    beyond = Hit(photo, "", 153, 0.25, True)
    page = write(sections=[section("t2i", ranked(photo, "A man.", first=beyond))])
    classes = [attributes["class"] for tag, attributes in page.tags if tag == "figure"]
    assert classes == ["query", "wrong", "wrong", "beyond right"]
    assert "query 12 · person 7 · first match at rank 153: a&b <i>/photo.png" in page.words
    for words in ("A man.", "✗ 1", "0.750", "✗ 2", "−0.500", "✓ 153", "0.250"):
        assert words in page.texts
    thumbnails = [picture for alt, picture in page.images() if alt == "a&b <i>/photo.png"]
    assert len(thumbnails) == 4
    assert all(picture.size == (72, 144) for picture in thumbnails)
    assert np.abs(np.asarray(thumbnails[0]).astype(int) - (20, 40, 200)).max() < 12


def test_examples_stand_above_the_metrics_below_their_headings(photo, write):
    first = examples_section({f"Right {EVIL}": [ranked(photo, "A man.")], "Wrong": [ranked(photo, "A woman.")]})
    page = write(first=first, sections=[section("t2i")])
    assert "For 50.0 % of 1,200 sentences, the first of 600 photos shows the right person." in page.words
    order = [page.texts.index(text) for text in (f"Right {EVIL}", "A man.", "Wrong", "A woman.")]
    metrics = len(page.texts) - 1 - page.texts[::-1].index("Metrics")  # the heading; the link stands above
    assert order == sorted(order)
    assert page.texts.index("Metrics") < order[0]
    assert order[-1] < metrics
    assert examples_section({}) == ""


def test_contents_link_to_each_section_and_each_protocol_has_a_sentence(write):
    assert SENTENCES.keys() == PROTOCOLS.keys()
    same = protocol_section("i2t", {}, (), "t2i")
    page = write(sections=[section("t2i"), same, attention_section()])
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == ["#metrics", "#t2i", "#i2t", "#attention", "#run"]
    for words in (SENTENCES["t2i"], SENTENCES["i2t"], "The similarities are those of t2i, plotted above."):
        assert page.texts.count(words) == 1
    assert [alt for alt, _ in page.images()] == ["CMC", "Similarities, t2i"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (chromium or google-chrome on PATH)")
def test_on_a_phone_no_metric_is_cut_off(photo, write, tmp_path):
    metrics = {**METRICS, "R@5": 0.5, "R@10": 0.5, "mINP": 0.125}
    metrics["interval95"] = {key: [0.25, 1.0] for key in ("R@1", "R@5", "R@10", "mAP", "mINP")}
    write(metrics={"t2i": metrics}, sections=[section("t2i", ranked(photo))], config="x" * 500)
    right = "[...document.querySelectorAll('td, small, img')].map((node) => node.getBoundingClientRect().right)"
    column = "[...document.querySelectorAll('td')].map((cell) => getComputedStyle(cell, '::before').content)"
    with contextlib.closing(Browser(tmp_path / "profile")) as browser:
        browser.show(390, 844, "dark")
        browser.open((tmp_path / "report.html").as_uri(), "true")
        assert browser.run(f"Math.max(...{right})") <= 390
        assert browser.run("document.documentElement.scrollWidth") <= 390
        assert {'"mAP"', '"mINP"'} <= set(browser.run(column))
        browser.show(1280, 800, "light")
        assert '"mAP"' not in browser.run(column)


def test_texts_metrics_shares_and_the_run(photo, write, tmp_path):
    low, high = {"mean": 0.25, "low": 0.125, "high": 0.375}, {"mean": -0.5, "low": -0.75, "high": -0.25}
    shares = {"head": {"area": 0.03, "identity": low, "clothing": low, "difference": high}}
    changes = {
        "sections": [
            section("i2t", ranked(photo, "", hit_text="A woman.")),
            attention_section(shares=shares, photos=1200),
        ],
        "metrics": {"t2i": METRICS, "t2i+rerank": {"R@1": 0.125, "queries": 1200}},
        "facts": {"command": "t2ireid test x"},
        "config": "data:\n  root: somewhere\n",
    }
    page = write(**changes)
    assert [attributes["class"] for tag, attributes in page.tags if tag == "li"] == ["wrong", "right"]
    assert page.texts.count("A woman.") == 2
    cells = [text for text in page.texts if text.strip()]
    for row in (
        ["t2i", "50.00", "40.00 to 62.50", "25.00", "1,200", "600"],
        ["t2i+rerank", "12.50", "1,200"],
        ["head", "3.00", "25.00", "12.50 to 37.50", "25.00", "12.50 to 37.50", "−50.00", "−75.00 to −25.00"],
        ["cuhkpedes, test", "3,074"],
        ["command", "t2ireid test x"],
    ):
        start = cells.index(row[0])
        assert cells[start : start + len(row)] == row
    for words in ("1,200 drawn photos", "No query failed", "data:\n  root: somewhere"):
        assert words in page.words
    first = (tmp_path / "report.html").read_bytes()
    write(**changes)
    assert (tmp_path / "report.html").read_bytes() == first


def test_escaped_text_is_printable():
    assert html.escape_line("a\nb \x00\ud800<") == r"a b \x00\ud800&lt;"
    assert html.escape_lines("a:\n    b: <") == "a:\n    b: &lt;"
