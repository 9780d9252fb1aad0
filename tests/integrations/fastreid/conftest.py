"""Tests against FastReID's real source: `make test-fastreid FASTREID_SRC=path`.

FastReID is not an installable package: without FASTREID_SRC, and if it is not importable, nothing in this folder is
collected. tests/integrations/test_without_fastreid.py needs no FastReID.
"""

import importlib.util
import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

if "FASTREID_SRC" in os.environ:
    source = Path(os.environ["FASTREID_SRC"]).resolve()
    if not (source / "fastreid" / "__init__.py").is_file():
        raise pytest.UsageError(f"FASTREID_SRC={source} holds no folder 'fastreid' with FastReID's source")
    sys.path.insert(0, str(source))
    # For the processes that tests start.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")])

_spec = importlib.util.find_spec("fastreid")
HAS_FASTREID = _spec is not None and _spec.origin is not None
collect_ignore_glob = [] if HAS_FASTREID else ["test_*.py"]

if HAS_FASTREID:
    from t2ireid_plugin.integrations.fastreid import add_t2ireid_config, enable_compatibility, register

    enable_compatibility()
    register()

# The encoders of tests/conftest.py's TINY.
TINY_YAML = """
_BASE_: {base}
MODEL:
  BACKBONE: {{FEAT_DIM: {feat_dim}}}
T2IREID:
  VIT_CONFIG: {{image_size: [32, 16], patch_size: 8, hidden_size: 32, num_hidden_layers: 1, intermediate_size: 32,
    num_attention_heads: 2}}
  {text}
INPUT:
  SIZE_TRAIN: [32, 16]
  SIZE_TEST: [32, 16]
DATALOADER: {{NUM_INSTANCE: 4}}
SOLVER: {{IMS_PER_BATCH: 32, MAX_EPOCH: 2, WARMUP_ITERS: 2, CHECKPOINT_PERIOD: 1}}
TEST: {{EVAL_PERIOD: 1}}
"""
TINY_BERT = "BERT_CONFIG: {vocab_size: 300, hidden_size: 32, num_hidden_layers: 1, intermediate_size: 32}"


@pytest.fixture(autouse=True)
def _closed_logs():
    """FastReID's handlers write to what was standard output when they were made, which is the test's."""
    yield
    log = logging.getLogger("fastreid")
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()


@pytest.fixture(scope="session")
def configs(repository):
    return repository / "configs" / "fastreid"


@pytest.fixture(scope="session")
def text_image_yaml(configs, tmp_path_factory):
    """The drawn people's configuration with the tiny encoders of the engine's tests."""
    file = tmp_path_factory.mktemp("fastreid") / "text_image.yml"
    file.write_text(TINY_YAML.format(base=configs / "synthetic_cpu.yml", feat_dim=32, text=TINY_BERT))
    return file


@pytest.fixture(scope="session")
def image_yaml(configs, tmp_path_factory):
    """Market-1501's configuration with the tiny image encoder."""
    file = tmp_path_factory.mktemp("fastreid") / "image.yml"
    text = TINY_YAML.format(base=configs / "market1501.yml", feat_dim=256, text="")
    text = text.replace("MODEL:\n", "MODEL:\n  DEVICE: cpu\n").replace(
        "T2IREID:\n", "T2IREID:\n  VIT_PRETRAINED: ''\n  ENCODER_LR_FACTOR: 1.0\n"
    )
    file.write_text(text.replace("DATALOADER: {NUM_INSTANCE: 4}", "DATALOADER: {NUM_INSTANCE: 4, NUM_WORKERS: 0}"))
    return file


@pytest.fixture(scope="session")
def make_cfg():
    """`make_cfg(file, KEY, VALUE, ...)`: FastReID's configuration with our keys, merged and frozen."""
    from fastreid.config import get_cfg

    def make(file, *words):
        cfg = get_cfg()
        add_t2ireid_config(cfg)
        cfg.merge_from_file(str(file))
        cfg.merge_from_list(list(words))
        cfg.freeze()
        return cfg

    return make


@pytest.fixture(scope="session")
def run_tool():
    """`run_tool(root, file, *flags, KEY, VALUE)`: the tool's work in this process, and FastReID's results."""
    from fastreid.engine import default_argument_parser

    from t2ireid_plugin.integrations.fastreid.command import run

    def run_on(root, file, *words):
        torch.manual_seed(0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FASTREID_DATASETS", str(root))
            patch.setattr("fastreid.data.build._root", str(root))  # read from the environment when it was imported
            return run(default_argument_parser().parse_args(["--config-file", str(file), *map(str, words)]))

    return run_on


@pytest.fixture(scope="session")
def market(reid_data):
    """The drawn people as Market-1501, in the folder that FastReID looks in; and the numbers of photos."""
    root = reid_data / "market1501"
    base = root / "Market-1501-v15.09.15"
    return SimpleNamespace(root=root, **{folder.name: len(list(folder.iterdir())) for folder in base.iterdir()})


@pytest.fixture(scope="session")
def text_image_run(run_tool, synthetic, text_image_yaml, tmp_path_factory):
    """A finished text-image training: its `folder`, FastReID's `results`, and the `yaml` and data `root` of it."""
    folder = tmp_path_factory.mktemp("run") / "log"
    results = run_tool(synthetic.root, text_image_yaml, "OUTPUT_DIR", folder)
    return SimpleNamespace(folder=folder, results=results, yaml=text_image_yaml, root=synthetic.root)


@pytest.fixture(scope="session")
def image_run(run_tool, market, image_yaml, tmp_path_factory):
    """A finished training of images alone, likewise."""
    folder = tmp_path_factory.mktemp("run") / "log"
    results = run_tool(market.root, image_yaml, "OUTPUT_DIR", folder)
    return SimpleNamespace(folder=folder, results=results, yaml=image_yaml, root=market.root)
