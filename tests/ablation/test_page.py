"""docs/ablations.md names what is there."""

import re
import shlex

import pytest

from t2ireid_plugin.ablation.grid import configuration, plan, read_grid
from t2ireid_plugin.engine.build import check_config


def test_the_page_is_about_the_files_of_this_repository(repository):
    text = (repository / "docs" / "ablations.md").read_text(encoding="utf-8")
    commands = [shlex.split(line) for line in re.search(r"```bash\n(.*?)```", text, re.DOTALL)[1].splitlines()]
    ablate = next(words for words in commands if "tools/ablate.py" in words)
    for option in ("--config-file", "--grid"):
        assert (repository / ablate[ablate.index(option) + 1]).is_file()
    rows = re.findall(r"^\| (\w+) \| \d \|", text, flags=re.MULTILINE)
    assert len(rows) >= 10
    assert set(rows) <= set(read_grid(repository / ablate[ablate.index("--grid") + 1]).rows)


@pytest.mark.parametrize(("config", "grid"), [("drawn", "grid"), ("changes", "disentangle")])
def test_every_row_of_the_grids_can_be_trained(repository, config, grid):
    folder = repository / "configs" / "ablation"
    for run in plan(read_grid(folder / f"{grid}.yaml"), folder / f"{config}.yaml", [], [1], "log"):
        check_config(configuration(run))
