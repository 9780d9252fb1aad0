"""configs/recipes on tiny towers, and docs/recipes.md."""

from pathlib import Path

import pytest

from t2ireid_plugin.config import CONFIGS, load_cfg
from t2ireid_plugin.engine.checks import check_config, check_recipe

NAMES = sorted(path.stem for path in (CONFIGS / "recipes").glob("*.yaml"))
PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_can_work_and_has_a_row(name) -> None:
    cfg = load_cfg(f"recipes/{name}")
    check_config(cfg)
    check_recipe(cfg)
    assert cfg.data.save_dir == f"log/{name}"
    assert f"| `{name}` |" in PAGE.read_text(encoding="utf-8")
