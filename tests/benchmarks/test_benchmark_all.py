"""``tools/benchmark.py all`` and the page that it fills."""

import json
import re
import shutil

import pytest

from benchmarks import everything
from benchmarks.everything import PARTS, TABLES, replace_part
from benchmarks.main import main


def part(text, name):
    return re.search(f"<!-- measured: {name} -->\n(.*?)\n<!-- end: {name} -->", text, flags=re.DOTALL)[1]


@pytest.fixture
def page(repository, tmp_path):
    (tmp_path / "docs").mkdir()
    return shutil.copy(repository / "docs" / "performance.md", tmp_path / "docs" / "performance.md")


@pytest.mark.slow
def test_it_fills_the_tables_and_leaves_the_rest_of_the_page(page, tmp_path, monkeypatch):
    monkeypatch.setattr(everything.sweep, "GALLERIES", (20,))
    # The parts that start processes have tests of their own.
    memory = {"bytes": 1, "parameters": 1, "kept": 1}
    monkeypatch.setattr(everything.model, "_measured", lambda *_: memory)
    monkeypatch.setattr(everything.startup, "_start", lambda name: (2.0 + (name != "python"), 3.0))
    trained = {"seconds": 2.0, "bare_seconds": 1.0, "waits": 0.5, "bytes": 3e6}
    monkeypatch.setattr(everything.training, "in_subprocess", lambda *_, **__: trained)
    before = page.read_text()
    small = {
        "model": ["--size", "tiny", "--rounds", "1", "--images", "1", "--texts", "2", "--batch", "2"],
        "train": ["--size", "tiny", "--settings", "train.precision fp32", "train.precision bf16"],
        "sweep": ["--size", "tiny", "--rounds", "1"],
        "startup": ["--rounds", "1"],
        "ranking": ["--size", "40x30x10", "--repeats", "1", "--against", "draft"],
        "data": ["--images", "2", "--rounds", "1", "--rows", "40"],
    }
    words = [f"{name}:{word}" for name, options in small.items() for word in options]
    assert main(["all", "--page", str(page), "--with", *words, "--json", str(tmp_path / "all.json")]) == 0
    after = page.read_text()
    for name in (*PARTS, "machine"):
        assert "|" in part(after, name) or name == "machine"
    assert "images/performance.png" in part(after, "sweep")
    assert (page.parent / "images" / "performance.png").is_file()
    strip = re.compile(r"(<!-- measured: \w+ -->).*?(<!-- end)", flags=re.DOTALL)
    assert strip.sub(r"\1\2", after) == strip.sub(r"\1\2", before)
    figures = json.loads((tmp_path / "all.json").read_text())["all"]
    ours = figures["model"]["parts"]["encode_image, 1 images"]["ours"]["to_bare"]["median"]
    assert f"{ours:.3f} (" in part(after, "model")


def test_a_page_without_marks_is_refused_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(everything.model, "run", lambda options: pytest.fail("measured"))
    page = tmp_path / "page.md"
    assert main(["all", "--page", str(page)]) == 2
    assert f"no page '{page}'" in capsys.readouterr().err
    page.write_text("<!-- measured: model -->\n")
    assert main(["all", "--page", str(page)]) == 2
    assert "<!-- end: model -->" in capsys.readouterr().err


def test_every_part_has_a_table_and_a_place(repository):
    assert TABLES.keys() == PARTS.keys()
    text = (repository / "docs" / "performance.md").read_text()
    for name in (*PARTS, "machine"):
        assert replace_part(text, name, r"\1 stays as it is").count(r"\1 stays as it is") == 1


def test_the_commands_on_the_page_parse(repository):
    text = (repository / "docs" / "performance.md").read_text()
    commands = re.findall(r"python tools/benchmark.py ([^`\n]+)", text)
    assert len(commands) == 5
    for command in commands:
        with pytest.raises(SystemExit) as end:
            main([*command.split(), "--help"])
        assert end.value.code == 0
