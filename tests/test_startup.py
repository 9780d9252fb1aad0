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
import json, sys
from t2ireid_plugin.cli import main
for words in json.loads(sys.argv[1]):
    try:
        main([*words, "--help"])
    except SystemExit as end:
        assert end.code == 0, end
"""


LIGHT = [[], ["train"], ["probe"], ["prepare"], ["prepare", "synthetic"], ["ablate"], ["export"]]
LIGHT += [["search"], ["index"], ["index", "build"]]
LAZY = [["compare"], ["prepare", "table"], ["prepare", "check"], ["serve"]]  # their modules define their options


@pytest.mark.slow
@pytest.mark.parametrize(
    ("commands", "unwanted"),
    [(LIGHT, HEAVY), (LAZY, {"transformers", "matplotlib", "sklearn"})],
    ids=["light", "lazy"],
)
def test_help_loads_no_heavy_module(repository, commands, unwanted):
    """All in one process, so that one import would show in the end."""
    modules, printed, _ = loaded(HELP, repository, json.dumps(commands))
    for words in commands:
        assert f"usage: {' '.join(['t2ireid', *words])} " in printed
    assert not modules & unwanted


WRONG = """
import contextlib, io, json, sys
from t2ireid_plugin.cli import main
for words, message in json.loads(sys.argv[1]):
    error = io.StringIO()
    with contextlib.redirect_stderr(error):
        assert main(words) == 2, words
    assert message in error.getvalue(), (words, error.getvalue())
"""


def test_wrong_names_sizes_and_paths_are_reported_before_pytorch_is_imported(repository, synthetic, tmp_path):
    """All in one process, so that one import would show in the end."""
    folder = tmp_path / "vit"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "vit", "image_size": 32, "patch_size": 16}')
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    (tmp_path / "latin.yaml").write_bytes("model: {name: Müller}".encode("latin-1"))
    synthetic_cpu = ["--config-file", "configs/t2i_synthetic_vit_cpu.yaml", "data.root", str(synthetic.root)]
    market = ["--config-file", "configs/market1501_t2ireid.yaml"]
    wrong = [
        (["--config-file", "gone.yaml"], "no configuration file 'gone.yaml'"),
        (["--config-file", str(tmp_path / "latin.yaml")], "not UTF-8"),
        (["--config-file", "configs/t2i_vit_mamba.yaml", "data.root", "/nowhere"], "'/nowhere' does not exist"),
        ([*synthetic_cpu, "data.sources", "cuhk"], "data.sources: unknown 'cuhk'; valid: cuhkpedes"),
        ([*synthetic_cpu, "data.transforms", "flip"], "data.transforms: unknown 'flip'; valid: random_flip"),
        ([*synthetic_cpu, "loss.terms.infonce.weight", "1"], "loss: unknown 'infonce'; valid: info_nce"),
        ([*synthetic_cpu, "test.protocols", "[t2i, t2t]"], "test.protocols: unknown 't2t'; valid: t2i"),
        ([*synthetic_cpu, "test.evaluator", "mine"], "test.evaluator: unknown 'mine'; valid: exact"),
        ([*synthetic_cpu, "model.fusion.type", "mamba"], "model.fusion.type: unknown 'mamba'; valid: enhanced_mamba"),
        ([*synthetic_cpu, "model.disentangle.tokens", "some"], "disentangle.tokens: unknown 'some'; valid: all"),
        ([*synthetic_cpu, "model.disentangle.pool", "max"], "disentangle.pool: unknown 'max'; valid: mean"),
        ([*synthetic_cpu, "train.precision", "fp8"], "train.precision: unknown 'fp8'; valid: fp32"),
        ([*synthetic_cpu, "sampler.train_sampler", "mine"], "unknown 'mine'; valid: RandomSampler, "),
        ([*synthetic_cpu, "adam.beta1", "1"], "adam.beta1: 1.0 must be at least 0 and below 1"),
        ([*synthetic_cpu, "model.load_weights", "gone.pth"], "model.load_weights: no checkpoint at 'gone.pth'"),
    ]
    wrong_for_training = [  # a test takes the encoders of its checkpoint
        ([*synthetic_cpu, "data.height", "100"], "data.height 100, data.width 48: images of 100 x 48 pixels"),
        (
            [*synthetic_cpu, "model.disentangle.pool=stripes", "model.disentangle.stripes=9"],
            "disentangle.stripes: 9 is more than the image's 8 rows of patches",
        ),
        ([*synthetic_cpu, "model.vit_config.patch_size", "0"], "vit_pretrained: patch_size 0 must be a whole number"),
        ([*synthetic_cpu, "model.bert_config.num_attention_heads", "0"], "bert_base_path: num_attention_heads 0 must"),
        ([*synthetic_cpu, "model.vit_pretrained", "./gone"], "vit_pretrained: no folder './gone'"),
        ([*synthetic_cpu, "model.vit_pretrained", str(folder)], "is a git-lfs pointer"),
    ]
    wrong_for_images = [
        (["data.transforms", "drop_words"], "data.transforms: unknown 'drop_words'; valid: random_flip"),
        (["test.dist_metric", "l1"], "test.dist_metric: unknown 'l1'; valid: euclidean"),
    ]
    gone = [([command, "gone"], "no run or checkpoint at 'gone'") for command in ("test", "probe")]
    gone += [(["export", "gone", str(tmp_path / "out")], "no run or checkpoint at 'gone'")]
    ablate = ["ablate", "--out", str(tmp_path / "out"), *synthetic_cpu[:2], "--grid"]
    (tmp_path / "grid.yaml").write_text("rows: {plain: {test: {evaluator: mine}}}")
    grids = [
        ([*ablate, str(tmp_path / "gone.yaml")], "gone.yaml"),
        ([*ablate, str(tmp_path / "grid.yaml"), "--opts", *synthetic_cpu[2:]], "row 'plain': test.evaluator: unknown"),
    ]
    texts = [([command, *words], message) for command in ("train", "test", "probe") for words, message in wrong]
    texts += [(["train", *words], message) for words, message in wrong_for_training]
    images = [(["train", *market, *words], message) for words, message in wrong_for_images]
    modules, _, _ = loaded(WRONG, repository, json.dumps([*gone, *grids, *texts, *images]))
    assert modules <= {"numpy"}


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
        "from torchreid import data\nimport t2ireid_plugin",
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
    """Nothing that waits for it is left in the import system, and datasets are registered once."""
    script = f"""
import sys
import t2ireid_plugin
def finders():
    own = [finder for finder in sys.meta_path if type(finder).__module__.startswith("t2ireid_plugin")]
    return [finder for finder in own if finder.name == "torchreid"]
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
from torchreid import data
t2ireid_plugin.register()
{REGISTERED}
"""
    modules, _, _ = loaded(script, repository)
    assert "transformers" not in modules


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
