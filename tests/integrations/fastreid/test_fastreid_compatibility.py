"""`enable_compatibility`, step by step in a process of its own, since this one has called it long ago."""

import json
import subprocess
import sys

import pytest
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY

from t2ireid_plugin.data.benchmarks import BENCHMARKS

STEPS = """
import collections, collections.abc, json, sys
import torch
from t2ireid_plugin.integrations import fastreid as plugin

def trains():
    "Whether a step of what FastReID's trainer builds changes a weight."
    import fastreid.engine.defaults
    from fastreid.config import get_cfg
    model = torch.nn.Linear(3, 2)
    before = model.weight.clone()
    optimizer, _ = fastreid.engine.defaults.build_optimizer(get_cfg(), model)
    optimizer.zero_grad()
    model(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    return not torch.equal(before, model.weight)

def here():
    return [hasattr(collections, "Mapping"), "fastreid.engine" in sys.modules]

found = {"after_import": here()}
try:
    plugin.register()
except ImportError as error:
    found["refused"] = f"{type(error).__name__}: {error}"
found["after_register"] = here()
collections.Mapping = collections.abc.Mapping
found["imports_mended_by_hand"] = trains()
plugin.enable_compatibility()
found["enabled"] = trains()
plugin.register()
plugin.enable_compatibility()
plugin.register()
found["again"] = trains()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", STEPS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_integration_changes_nothing(found) -> None:
    assert found["after_import"] == [False, False]
    assert found["after_register"] == [False, False]


def test_without_it_the_integration_says_what_to_call(found) -> None:
    assert found["refused"].startswith("DependencyError: FastReID's source does not import")
    assert "enable_compatibility() before it" in found["refused"]


def test_fastreids_own_optimizer_trains_nothing_without_it(found) -> None:
    """Why it must be called even by those who have mended the imports: on PyTorch 2 nothing moves, without a word."""
    assert not found["imports_mended_by_hand"]
    assert found["enabled"]


def test_it_may_be_called_again(found) -> None:
    assert found["again"]


def test_everything_is_in_fastreids_registries() -> None:
    assert callable(BACKBONE_REGISTRY.get("build_t2ireid_backbone"))
    assert callable(REID_HEADS_REGISTRY.get("T2IReIDHead"))
    assert callable(META_ARCH_REGISTRY.get("T2IReIDBaseline"))
    for name in BENCHMARKS:
        assert DATASET_REGISTRY.get(name).eval_split == "test"
        assert DATASET_REGISTRY.get(f"{name}_val").eval_split == "val"
