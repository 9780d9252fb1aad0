"""docs/ablations.md and docs/separating.md: their commands, tables and snippets agree with the grids."""

import argparse
import re
import shlex

import pytest

from t2ireid_plugin.ablation.grid import plan, read_grid
from t2ireid_plugin.cli import add_ablate_options
from t2ireid_plugin.engine.checks import check_config, check_recipe


@pytest.fixture(scope="module")
def page(repository):
    return (repository / "docs" / "ablations.md").read_text(encoding="utf-8")


def commands(page, program):
    """Arguments of each command that starts with `program`."""
    lines = [line for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    return [shlex.split(line.removeprefix(program)) for line in lines if line.startswith(program)]


def planned(words):
    """Runs that a command with the arguments `words` plans."""
    parser = argparse.ArgumentParser()
    add_ablate_options(parser)
    options = parser.parse_args(words)
    return plan(read_grid(options.grid, options.rows), options.config_file, options.opts, options.seeds, options.out)


def test_commands_are_valid_and_plan_the_rows_and_seeds_of_the_tables_that_follow_them(page, repository, monkeypatch):
    """Tables follow their command, up to the next one; the page's first command is the whole grid and has none."""
    monkeypatch.chdir(repository)
    _, *parts = re.split(r"^(t2ireid ablate .*)$", page, flags=re.MULTILINE)
    (whole, _), *others = zip(parts[::2], parts[1::2], strict=True)
    assert "--rows" not in whole
    runs = planned(shlex.split(whole.removeprefix("t2ireid ablate")))
    recipes = {run.recipe.replace(str(run.folder), "") for run in runs if run.seed == 1}
    assert 3 * len(recipes) == len(runs)  # no two rows are the same
    for run in runs:
        check_config(run.cfg)
    assert len(others) == 3
    for command, text in others:
        runs = planned(shlex.split(command.removeprefix("t2ireid ablate")))
        for run in runs:
            check_config(run.cfg)
        check_tables(text, runs)


def check_tables(text, runs):
    """Every table of recipes in `text` has the rows of the runs, each with the number of their seeds."""
    seeds = {run.seed for run in runs}
    tables = re.findall(r"^\| recipe \| seeds \|.*\n\| --- .*\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
    assert tables
    for table in tables:
        rows = re.findall(r"^\| (\w+)(?: \(\w+\))? \| (\d) \|", table, flags=re.MULTILINE)
        assert rows == [(row, str(len(seeds))) for row in dict.fromkeys(run.row for run in runs)]


def test_the_tables_of_the_page_on_separating_are_those_of_its_commands(repository, monkeypatch):
    monkeypatch.chdir(repository)
    page = (repository / "docs" / "separating.md").read_text(encoding="utf-8")
    parts = re.split(r"^t2ireid ablate (.*)$", page, flags=re.MULTILINE)[1:]
    assert len(parts) >= 2
    roots = set()
    for words, text in zip(parts[::2], parts[1::2], strict=True):
        runs = planned(shlex.split(words))
        roots |= {run.cfg.data.root for run in runs}
        for run in runs:
            check_config(run.cfg)
            check_recipe(run.cfg)
        check_tables(text, runs)
    assert {words[0] for words in commands(page, "t2ireid prepare synthetic")} == roots


def test_the_drawn_folders_are_those_of_the_configurations(page, repository):
    drawn = {words[0] for words in commands(page, "t2ireid prepare synthetic")}
    used = {run.cfg.data.root for config, grid in GRIDS for run in runs_of(repository, config, grid)}
    probed = {words[words.index("--probe") + 2] for words in commands(page, "t2ireid ablate") if "--probe" in words}
    assert drawn == used | probed


GRIDS = (("drawn", "grid"), ("drawn", "second"))


def runs_of(repository, config, grid):
    folder = repository / "configs" / "ablation"
    return plan(read_grid(folder / f"{grid}.yaml"), folder / f"{config}.yaml", [], [1], "log")


@pytest.mark.slow
def test_the_snippets_run(page, tiny_run, tmp_path, monkeypatch, capsys):
    """On a tiny run instead of the demo's, and one round instead of seven."""
    (tmp_path / "log" / "ablation" / "demo").mkdir(parents=True)
    (tmp_path / "log" / "ablation" / "demo" / "seed1").symlink_to(tiny_run.folder)
    monkeypatch.chdir(tmp_path)
    pulls, cost = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(compile(pulls, "docs/ablations.md", "exec"), {})
    assert len(re.findall(r"^(?:info_nce|sdm) at tau .*: median ", capsys.readouterr().out, flags=re.MULTILINE)) == 6
    exec(
        compile(cost.replace("range(7)", "range(1)").replace("randn(4, ", "randn(1, "), "docs/ablations.md", "exec"), {}
    )
    assert re.search(r"^window: .* of all", capsys.readouterr().out, flags=re.MULTILINE)
