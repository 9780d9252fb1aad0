"""docs/ablations.md names what is there, and its commands and snippets work."""

import argparse
import re
import shlex

import pytest

from t2ireid_plugin.ablation.grid import configuration, plan, read_grid
from t2ireid_plugin.ablation.options import add_arguments
from t2ireid_plugin.engine.build import check_config


@pytest.fixture(scope="module")
def page(repository):
    return (repository / "docs" / "ablations.md").read_text(encoding="utf-8")


def commands(page, program):
    """The words of each command of a kind, without the program."""
    lines = [line for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    return [shlex.split(line.removeprefix(program)) for line in lines if line.startswith(program)]


def test_the_commands_are_understood_and_their_grids_can_be_trained(page, repository, monkeypatch):
    monkeypatch.chdir(repository)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    trained = {}
    for words in commands(page, "python tools/ablate.py"):
        options = parser.parse_args(words)
        runs = plan(read_grid(options.grid), options.config_file, options.opts, options.seeds, options.out)
        for one in runs:
            check_config(configuration(one))
        trained[str(options.out)] = {(one.row, one.seed) for one in runs}
    assert set(trained) == {"log/ablation", "log/second", "log/disentangle"}
    assert all({seed for _, seed in runs} == {1, 2, 3} or out == "log/ablation" for out, runs in trained.items())


def test_the_drawn_people_are_those_of_the_configurations(page, repository):
    drawn = {words[0] for words in commands(page, "t2ireid prepare synthetic")}
    used = {configuration(one).data.root for config, grid in GRIDS for one in runs_of(repository, config, grid)}
    probed = {
        words[words.index("--probe") + 2] for words in commands(page, "python tools/ablate.py") if "--probe" in words
    }
    assert drawn == used | probed


GRIDS = (("drawn", "grid"), ("drawn", "second"), ("changes", "disentangle"))


def runs_of(repository, config, grid):
    folder = repository / "configs" / "ablation"
    return plan(read_grid(folder / f"{grid}.yaml"), folder / f"{config}.yaml", [], [1], "log")


def test_every_row_of_the_tables_is_a_row_of_a_grid(page, repository):
    rows = set(re.findall(r"^\| (\w+) \| \d \|", page, flags=re.MULTILINE))
    assert len(rows) >= 15
    assert rows <= {one.row for config, grid in GRIDS for one in runs_of(repository, config, grid)}


def test_the_snippets_run(page, tiny_run, tmp_path, monkeypatch, capsys):
    """On a tiny run in place of the demo's, and one round in place of seven."""
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
