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
@pytest.mark.usefixtures("preloaded_processes")
def test_it_fills_the_tables_and_leaves_the_rest_of_the_page(page, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(everything.sweep, "GALLERIES", (20, 40))
    # The parts that start processes have tests of their own.
    memory = {"bare": 80, "literal": 100, "ours": 80, "cached": 40}
    monkeypatch.setattr(
        everything.model, "_measured", lambda name, _: {"bytes": memory[name], "parameters": 5, "kept": 7}
    )
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
    for name in PARTS:
        assert "|" in part(after, name)
    assert "images/performance.png" in part(after, "sweep")
    assert (page.parent / "images" / "performance.png").read_bytes().startswith(b"\x89PNG")
    strip = re.compile(r"(<!-- measured: \w+ -->).*?(<!-- end)", flags=re.DOTALL)
    assert strip.sub(r"\1\2", after) == strip.sub(r"\1\2", before)
    figures, printed = json.loads((tmp_path / "all.json").read_text())["all"], capsys.readouterr().out
    check_model(figures["model"], printed)
    ours = figures["model"]["parts"]["encode_image, 1 images"]["ours"]["to_bare"]["median"]
    assert f"{ours:.3f} (" in part(after, "model")
    points = figures["sweep"]["points"]
    assert [p["at"] for axis in ("batch", "gallery") for p in points[axis]] == [1, 2, 4, 8, 0.02, 0.04]
    assert all(p["seconds"] > 0 for row in points.values() for p in row)
    assert figures["data"]["dataset"]["images"] == 40
    for row in figures["data"]["transforms"]:
        assert row["what"] in printed


def check_model(figures, printed):
    assert "outputs of this package and of the literal transcription differ by" in printed
    assert figures["difference"] < 1e-4
    texts = ["encode_image, 1 images", "encode_text, 2 captions", "encode_text, one query", "training step, 2 pairs"]
    assert list(figures["parts"]) == texts
    for name, contenders in figures["parts"].items():
        assert list(contenders) == ["bare", "literal", "ours", "cached"][: 4 if "training" in name else 3]
        assert all(row["seconds"]["cpu"] > 0 for row in contenders.values())
        assert contenders["bare"]["to_bare"]["median"] == contenders["literal"]["to_literal"]["median"] == 1
    for to, expected in (("to_literal", [0.8, 1, 0.8, 0.4]), ("to_bare", [1, 1.25, 1, 0.5])):
        assert [row[to]["median"] for row in figures["memory"].values()] == expected


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
