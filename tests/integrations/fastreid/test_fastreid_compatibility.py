"""`enable_compatibility`, each time in a process of its own, since this one has called it long ago."""

import subprocess
import sys

TRAINS = """
import torch
from fastreid.config import get_cfg
from fastreid.engine.defaults import build_optimizer  # what FastReID's trainer calls
model = torch.nn.Linear(3, 2)
before = model.weight.clone()
optimizer, _ = build_optimizer(get_cfg(), model)
optimizer.zero_grad()
model(torch.ones(4, 3)).sum().backward()
optimizer.step()
print("trained" if not torch.equal(before, model.weight) else "untouched")
"""
STATE = """
import collections, sys
print(hasattr(collections, "Mapping"), "torch._six" in sys.modules, "fastreid.engine" in sys.modules)
"""
PLUGIN = "from t2ireid_plugin.integrations import fastreid as plugin\n"


def python(code):
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_importing_the_integration_changes_nothing() -> None:
    assert python(PLUGIN + STATE) == "False False False"


def test_without_it_the_integration_says_what_to_call() -> None:
    code = "try:\n    plugin.register()\nexcept ImportError as error:\n    print(type(error).__name__, error)"
    said = python(PLUGIN + code)
    assert said.startswith("DependencyError FastReID's source does not import")
    assert "enable_compatibility() before it" in said


def test_fastreids_own_optimizer_trains_nothing_without_it() -> None:
    """Why it must be called even by those who have mended the imports: on PyTorch 2 nothing moves, without a word."""
    only_imports = "import collections, collections.abc\ncollections.Mapping = collections.abc.Mapping\n"
    assert python(only_imports + TRAINS) == "untouched"
    assert python(PLUGIN + "plugin.enable_compatibility()\n" + TRAINS) == "trained"


def test_it_may_be_called_again() -> None:
    again = "plugin.enable_compatibility()\nplugin.register()\n" * 2
    assert python(PLUGIN + again + TRAINS) == "trained"


def test_everything_is_in_fastreids_registries() -> None:
    from fastreid.data.datasets import DATASET_REGISTRY
    from fastreid.modeling.backbones import BACKBONE_REGISTRY
    from fastreid.modeling.heads import REID_HEADS_REGISTRY
    from fastreid.modeling.meta_arch import META_ARCH_REGISTRY

    from t2ireid_plugin.data.benchmarks import BENCHMARKS

    assert callable(BACKBONE_REGISTRY.get("build_t2ireid_backbone"))
    assert callable(REID_HEADS_REGISTRY.get("T2IReIDHead"))
    assert callable(META_ARCH_REGISTRY.get("T2IReIDBaseline"))
    for name in BENCHMARKS:
        assert DATASET_REGISTRY.get(name).eval_split == "test"
        assert DATASET_REGISTRY.get(f"{name}_val").eval_split == "val"
