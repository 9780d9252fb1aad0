"""Imports at start-up, by the names of loaded modules: independent of the load on the machine."""

import json
import os
import subprocess
import sys

import pytest

HEAVY = {
    *("torch", "torchvision", "torchreid", "transformers", "tokenizers"),
    *("matplotlib", "sklearn", "scipy", "cv2", "numpy"),
}
ASK = "import json, sys; print(json.dumps(sorted(set(sys.modules) & set({heavy!r}))))"


def loaded(script, repository, *arguments):
    """The modules of `HEAVY` that a fresh process has loaded after `script`, and its output."""
    whole = f"{script}\n{ASK.format(heavy=sorted(HEAVY))}"
    done = subprocess.run(
        [sys.executable, "-c", whole, *arguments],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(repository), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed, _, last = done.stdout.rstrip("\n").rpartition("\n")
    return set(json.loads(last)), printed, done.stderr


def test_importing_the_package_loads_no_heavy_module(repository):
    modules, printed, errors = loaded("import t2ireid_plugin", repository)
    assert modules == set()
    assert printed == errors == ""


HELP = """
import sys
from t2ireid_plugin.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert end.code == 0, end
"""


LIGHT = [[], ["train"], ["probe"], ["prepare"], ["prepare", "synthetic"], ["ablate"], ["export"]]
LAZY = [["compare"], ["prepare", "table"], ["prepare", "check"]]  # their modules define their options


@pytest.mark.slow
@pytest.mark.parametrize("words", [*LIGHT, *LAZY], ids=" ".join)
def test_help_loads_no_heavy_module(repository, words):
    modules, printed, _ = loaded(HELP, repository, *words, "--help")
    assert printed.startswith("usage: t2ireid")
    assert not modules & ({"transformers", "matplotlib", "sklearn"} if words in LAZY else HEAVY)


REGISTERED = """
try:
    data.datasets.init_image_dataset("none")
except ValueError as error:
    assert str(error).count("'cuhkpedes'") == str(error).count("'cuhkpedes_val'") == 1, error
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        "import t2ireid_plugin\nfrom torchreid import data",
        "from torchreid import data\nimport t2ireid_plugin",
        "import t2ireid_plugin\nimport torchreid\nt2ireid_plugin.register()\nfrom torchreid import data",
        "from t2ireid_plugin.data.dataset import CaptionDataset\nfrom torchreid import data",
    ],
)
def test_datasets_are_registered_in_any_order_of_imports(repository, script):
    modules, _, errors = loaded(f"{script}\n{REGISTERED}", repository)
    assert "torchreid" in modules
    assert "transformers" not in modules  # not before a model is built
    assert ("Cython" in errors) == script.startswith("from torchreid")  # the warning comes before our import


@pytest.mark.slow
def test_public_names_are_loaded_on_access(repository):
    script = """
import t2ireid_plugin
from t2ireid_plugin import T2IReIDModel, T2IReIDOutput, get_cfg
assert T2IReIDModel.__module__ == "t2ireid_plugin.modeling.t2ireid"
assert T2IReIDOutput._fields[0] == "image_embeds"
assert get_cfg().model.freeze_text is True
assert set(t2ireid_plugin.__all__) <= set(dir(t2ireid_plugin))
for name in t2ireid_plugin.__all__:
    getattr(t2ireid_plugin, name)
try:
    t2ireid_plugin.T2IReID
except AttributeError as error:
    assert "T2IReID" in str(error)
else:
    raise AssertionError
"""
    modules, _, _ = loaded(script, repository)
    assert "transformers" not in modules


@pytest.mark.slow
def test_torchreids_loader_and_spec_are_unchanged(repository):
    """And nothing is left in the import system."""
    script = """
import sys
import t2ireid_plugin
def finders():
    return [finder for finder in sys.meta_path if type(finder).__module__.startswith("t2ireid_plugin")]
assert len(finders()) == 1
import importlib.util
import inspect
spec = importlib.util.find_spec("torchreid")  # without importing it
assert spec.loader.is_package("torchreid")
assert len(finders()) == 1
import torchreid
from torchreid import models
assert "t2ireid_vit_mamba" in getattr(models, "__model_factory")
spec.loader.exec_module(importlib.util.module_from_spec(spec))  # a second module of the same spec
assert finders() == []
assert torchreid.__loader__ is torchreid.__spec__.loader
assert not type(torchreid.__loader__).__module__.startswith("t2ireid_plugin"), torchreid.__loader__
assert "__version__" in inspect.getsource(torchreid)
"""
    loaded(script, repository)


@pytest.mark.slow
def test_a_failed_import_can_be_repeated(repository, tmp_path):
    package = tmp_path / "fickle.py"
    package.write_text("import os\nif 'FICKLE' not in os.environ: raise RuntimeError('not yet')\n")
    script = f"""
import os, sys
sys.path.insert(0, {str(tmp_path)!r})
from t2ireid_plugin.utils.import_hook import when_imported
done = []
when_imported("absent_for_sure", lambda: done.append("absent"))
when_imported("fickle", lambda: done.append("fickle"))
for name, kind in (("absent_for_sure", ModuleNotFoundError), ("fickle", RuntimeError)):
    for _ in range(2):
        try:
            __import__(name)
        except kind:
            assert done == []
        else:
            raise AssertionError(name)
os.environ["FICKLE"] = "1"
import fickle
assert done == ["fickle"]
when_imported("fickle", lambda: done.append("at once"))
assert done == ["fickle", "at once"]
"""
    loaded(script, repository)
