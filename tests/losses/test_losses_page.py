"""docs/losses.md against the terms."""

import inspect
import re

import pytest
import torch
import yaml

from t2ireid_plugin.losses import LOSSES, LossInputs, LossTerms
from t2ireid_plugin.losses.terms import SUPPLIED


@pytest.fixture(scope="module")
def page(repository):
    return (repository / "docs" / "losses.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rows(page):
    """The cells after the term's name: value, inputs, arguments, source."""
    lines = re.findall(r"^\| `(\w+)` \|(.*)\|$", page, flags=re.MULTILINE)
    return {name: line.split("|") for name, line in lines}


def test_every_term_has_a_row(rows):
    assert set(rows) == set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_a_row_lists_inputs_and_arguments_of_its_term(rows, name):
    _, reads, arguments, _ = rows[name]
    assert set(re.findall(r"`(\w+)`", reads)) == set(LOSSES[name].needs)
    documented = {key: yaml.safe_load(value) for key, value in re.findall(r"`(\w+)` \(([^)]+)\)", arguments)}
    documented = {key: float(value) if value == "1e-8" else value for key, value in documented.items()}
    parameters = inspect.signature(LOSSES[name]).parameters
    assert documented == {key: p.default for key, p in parameters.items() if key not in SUPPLIED}


def test_the_example_term_works(page):
    (snippet,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    try:
        exec(compile(snippet, "docs/losses.md", "exec"), {"__name__": "page"})
        terms = LossTerms({"compact": {"weight": 0.5, "power": 1.0}})
    finally:
        LOSSES.pop("compact", None)
    image, text = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    pids = torch.tensor([0, 1])
    total, values = terms(LossInputs(pids, photos=pids, image_embeds=image, id_text_embeds=text))
    assert values["compact"] == pytest.approx(1.0)  # distances 0 and 2
    assert total == pytest.approx(0.5)


def test_the_example_recipe_is_valid(page):
    (recipe,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    LossTerms(yaml.safe_load(recipe)["loss"]["terms"])
