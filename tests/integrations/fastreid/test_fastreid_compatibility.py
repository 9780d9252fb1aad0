"""`enable_compatibility`, step by step in a fresh process, since this one has called it already."""

import json
import subprocess
import sys

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
    "True if a step of FastReID's optimizer changes a weight."
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

steps = {"after_import": here()}
try:
    plugin.register()
except ImportError as error:
    steps["refused"] = f"{type(error).__name__}: {error}"
steps["after_register"] = here()
collections.Mapping = collections.abc.Mapping
steps["imports_fixed_by_hand"] = trains()
plugin.enable_compatibility()
steps["enabled"] = trains()
plugin.register()
plugin.enable_compatibility()
plugin.register()
steps["again"] = trains()
print(json.dumps(steps))
"""


def test_register_needs_it_and_fastreids_optimizer_changes_no_weight_without_it() -> None:
    """On PyTorch 2, with working imports and without any message; importing our integration patches nothing."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", STEPS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    steps = json.loads(done.stdout.splitlines()[-1])
    assert steps["after_import"] == steps["after_register"] == [False, False]
    assert steps["refused"].startswith("DependencyError: FastReID: the source cannot be imported")
    assert "enable_compatibility() first" in steps["refused"]
    assert not steps["imports_fixed_by_hand"]
    assert steps["enabled"]
    assert steps["again"]


def test_all_parts_are_in_fastreids_registries() -> None:
    for name in ("build_t2ireid_backbone", "build_t2ireid_encoder"):
        assert callable(BACKBONE_REGISTRY.get(name))
    for name in ("T2IReIDHead", "DisentangleHead"):
        assert callable(REID_HEADS_REGISTRY.get(name))
    assert callable(META_ARCH_REGISTRY.get("T2IReIDBaseline"))
    for name in BENCHMARKS:
        assert DATASET_REGISTRY.get(name).eval_split == "test"
        assert DATASET_REGISTRY.get(f"{name}_val").eval_split == "val"
