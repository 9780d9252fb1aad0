import numpy as np
import pytest
from PIL import Image

from t2ireid_plugin.visualization import html
from t2ireid_plugin.visualization.attention import Interval, PartShare
from t2ireid_plugin.visualization.plots import plot_cmc, plot_similarities
from t2ireid_plugin.visualization.ranked_lists import Answer, Hit, Query, RankedList
from t2ireid_plugin.visualization.report import Attention, Run, Section, write_report

EVIL = "<script>alert(1)</script>&\"'><img src=http://evil.example/x onerror=alert(2)>"


@pytest.fixture
def photo(tmp_path):
    """A photo in a folder with a hostile name."""
    folder = tmp_path / "a&b <i>"
    folder.mkdir()
    Image.new("RGB", (40, 80), (20, 40, 200)).save(folder / "photo.png")
    return str(folder / "photo.png")


def ranked(photo, text=EVIL, answer_text="", first=None):
    answer = Answer(text=answer_text) if answer_text else Answer(photo=photo)
    hits = [Hit(answer, 1, 0.75, False), Hit(answer, 2, -0.5, first is None)]
    return RankedList(12, 7, Query(text, photo, False), hits, first or hits[1])


def section(name, *lists, failures=()):
    return Section(name, lists, failures, plot_similarities([0, 3], [2, 1]))


METRICS = {"R@1": 0.5, "mAP": 0.25, "queries": 1200, "gallery": 600, "interval95": {"R@1": [0.4, 0.625]}}


@pytest.fixture
def write(tmp_path, read_page):
    """`write(**changes)`: the page of a small run, read and found harmless."""

    def run(sections=(), attention=None, notes=(), title="a run", metrics=None, told=None, config="a: 1"):
        facts = Run(metrics or {"t2i": METRICS}, {"cuhkpedes": {"test": {"images": 3074}}}, told or {}, config)
        cmc = plot_cmc({"t2i": [0.5, 1]})
        write_report(tmp_path / "report.html", title, facts, sections, cmc, attention or Attention(), notes)
        return read_page(tmp_path / "report.html")

    return run


def test_whatever_stands_in_a_caption_a_path_or_the_configuration_is_words(photo, write):
    found = write(
        sections=[section(EVIL, ranked(photo), ranked(photo, answer_text=EVIL), failures=[ranked(photo)])],
        attention=Attention([(EVIL, plot_cmc({"a": [1]}))], note=EVIL),
        notes=[EVIL],
        title=EVIL,
        metrics={EVIL: METRICS},
        told={EVIL: EVIL},
        config=f"model:\n  name: {EVIL}",
    )
    # Title twice, note, table, section and its plot, the lists' texts and answers, attention, the facts, configuration.
    assert found.words.count(EVIL) == 2 + 1 + 1 + 2 + 3 + 2 + 1 + 2 + 1
    assert f"model:\n  name: {EVIL}" in found.words
    assert EVIL in [alt for alt, _ in found.images()]
    assert "a&b <i>/photo.png" in [alt for alt, _ in found.images()]


def test_the_page_forbids_itself_scripts_and_the_network(write, tmp_path):
    found = write()
    (policy,) = [tag["content"] for _, tag in found.tags if tag.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "script-src" not in rules
    assert "unsafe" not in policy


def test_a_list_is_shown_with_its_frames_ranks_and_scores(photo, write):
    beyond = Hit(Answer(photo=photo), 153, 0.25, True)
    found = write(sections=[section("t2i", ranked(photo, "A man.", first=beyond))])
    classes = [attributes["class"] for tag, attributes in found.tags if tag == "figure"]
    assert classes == ["asked", "wrong", "wrong", "apart right"]
    assert "query 12 · person 7 · first right answer at rank 153: a&b <i>/photo.png" in found.words
    for words in ("A man.", "✗ 1", "0.750", "✗ 2", "−0.500", "✓ 153", "0.250"):
        assert words in found.texts
    thumbnails = [picture for alt, picture in found.images() if alt == "a&b <i>/photo.png"]
    assert len(thumbnails) == 4
    assert all(picture.size == (72, 144) for picture in thumbnails)
    assert np.abs(np.asarray(thumbnails[0]).astype(int) - (20, 40, 200)).max() < 12


def test_texts_that_were_found_are_a_list(photo, write):
    found = write(sections=[section("i2t", ranked(photo, "", answer_text="A woman."))])
    assert [attributes["class"] for tag, attributes in found.tags if tag == "li"] == ["wrong", "right"]
    assert found.texts.count("A woman.") == 2


def test_metrics_are_shown_in_percent_with_their_intervals(write):
    found = write(metrics={"t2i": METRICS, "t2i+rerank": {"R@1": 0.125, "queries": 1200}})
    cells = [text for text in found.texts if text.strip()]
    row = cells.index("t2i")
    assert cells[row : row + 6] == ["t2i", "50.00", "40.0 to 62.5", "25.00", "1,200", "600"]
    row = cells.index("t2i+rerank")
    assert cells[row : row + 3] == ["t2i+rerank", "12.50", "1,200"]


def test_shares_of_attention(write):
    low, high = Interval(0.25, 0.125, 0.375), Interval(-0.5, -0.75, -0.25)
    found = write(attention=Attention(shares=[PartShare("head", 0.03, low, low, high)], photos=1200))
    cells = [text for text in found.texts if text.strip()]
    row = cells.index("head")
    assert cells[row : row + 5] == ["head", "3.00", "25.00", "12.50 to 37.50", "25.00"]
    assert cells[row + 6 : row + 8] == ["−50.00", "−75.00 to −25.00"]
    assert "1,200 drawn photos" in found.words


def test_counts_and_the_configuration_are_there(write):
    found = write(told={"command": "t2ireid test x"}, config="data:\n  root: somewhere\n")
    for words in ("cuhkpedes, test", "3,074", "t2ireid test x", "data:\n  root: somewhere"):
        assert words in found.words


def test_no_failure_is_said(photo, write):
    assert "No query failed." in write(sections=[section("t2i", ranked(photo))]).words


def test_the_same_run_is_the_same_file(photo, write, tmp_path):
    write(sections=[section("t2i", ranked(photo))])
    first = (tmp_path / "report.html").read_bytes()
    write(sections=[section("t2i", ranked(photo))])
    assert (tmp_path / "report.html").read_bytes() == first


def test_words_are_one_line_that_can_be_written_down():
    assert html.words("a\nb \x00\ud800<") == "a b \ufffd\ufffd&lt;"
    assert html.lines("a:\n    b: <") == "a:\n    b: &lt;"
