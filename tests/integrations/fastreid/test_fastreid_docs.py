"""Commands and snippets on FastReID in docs/frameworks.md run unchanged on small data."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import fastreid
import pytest
import torch

from t2ireid_plugin.cli import main as t2ireid
from t2ireid_plugin.integrations.fastreid.command import main as train_fastreid

REPOSITORY = Path(__file__).parents[3]
TEXT = (REPOSITORY / "docs" / "frameworks.md").read_text(encoding="utf-8")
PAGE = TEXT.split("\n## FastReID\n")[1].split("\n## ")[0]
# Short trainings.
FEW = "--train-ids 24 --val-ids 8 --test-ids 8 --photos 4"
SHORT = (
    "SOLVER.MAX_EPOCH {epochs} SOLVER.WARMUP_ITERS 0 SOLVER.IMS_PER_BATCH 32 TEST.EVAL_PERIOD 1 "
    "SOLVER.CHECKPOINT_PERIOD 1 DATALOADER.NUM_WORKERS 0 MODEL.DEVICE cpu"
)
TINY = (
    "MODEL.BACKBONE.FEAT_DIM 32 INPUT.SIZE_TRAIN [32,16] INPUT.SIZE_TEST [32,16] "
    "T2IREID.VIT_CONFIG.image_size [32,16] T2IREID.VIT_CONFIG.patch_size 8 T2IREID.VIT_CONFIG.num_hidden_layers 1 "
    "T2IREID.VIT_CONFIG.hidden_size 32 T2IREID.VIT_CONFIG.intermediate_size 32 "
    "T2IREID.BERT_CONFIG.hidden_size 32 T2IREID.BERT_CONFIG.intermediate_size 32 T2IREID.BERT_CONFIG.vocab_size 300"
)
FOLDERS = "T2IREID.VIT_PRETRAINED weights/vit INPUT.SIZE_TRAIN [32,32] INPUT.SIZE_TEST [32,32]"
TINY_RESNET = (
    "MODEL.BACKBONE.PRETRAIN False MODEL.BACKBONE.DEPTH 18x MODEL.BACKBONE.FEAT_DIM 512 "
    "INPUT.SIZE_TRAIN [64,32] INPUT.SIZE_TEST [64,32]"
)
TEXT_FOLDERS = f"{FOLDERS} T2IREID.BERT_BASE_PATH weights/bert MODEL.BACKBONE.FEAT_DIM 32"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, synthetic, encoders, market, tiny_run) -> Path:
    """A folder with the files that the page expects."""
    folder = tmp_path_factory.mktemp("fastreid_docs")
    (folder / "fast-reid").symlink_to(Path(fastreid.__file__).parents[1])
    for name in ("tools", "configs"):
        (folder / name).symlink_to(REPOSITORY / name)
    for name in ("reid-data", "weights", "log"):
        (folder / name).mkdir()
    (folder / "reid-data" / "CUHK-PEDES").symlink_to(synthetic.root / "CUHK-PEDES")
    (folder / "reid-data" / "Market-1501-v15.09.15").symlink_to(market.root / "Market-1501-v15.09.15")
    for name in ("vit", "bert"):
        (folder / "weights" / name).symlink_to(getattr(encoders, name))
    (folder / "log" / "demo_vit").symlink_to(tiny_run.folder)
    return folder


@pytest.fixture
def at_work(workplace, monkeypatch):
    """In this process; `at_work(data)` sets where FastReID looks for data."""
    monkeypatch.chdir(workplace)

    def look(data: str) -> None:
        monkeypatch.setenv("FASTREID_DATASETS", data)
        monkeypatch.setattr("fastreid.data.build._root", data)

    return look


def words(line: str, more: str = "", epochs: int = 1) -> list[str]:
    """The arguments of a command line."""
    program, *rest = shlex.split(line)
    return [*(rest[1:] if program == "python" else rest), *more.format(epochs=epochs).split()]


@pytest.fixture(scope="module")
def drawn(workplace) -> subprocess.CompletedProcess[str]:
    """The first block, run by a shell."""
    export, draw, train = blocks("bash")[0].strip().splitlines()
    path = f"export PYTHONPATH=$PYTHONPATH:{REPOSITORY}:{os.environ['PYTHONPATH']}"
    draw = draw.replace("t2ireid", f"{sys.executable} -m t2ireid_plugin")
    train = train.replace("python", sys.executable, 1)
    lines = [export, path, f"{draw} {FEW}", f"{train} {SHORT.format(epochs=1)} {TINY}"]
    return subprocess.run(["bash", "-ec", "\n".join(lines)], cwd=workplace, capture_output=True, text=True, check=False)


def test_the_synthetic_example_runs_in_a_shell(drawn, workplace) -> None:
    assert drawn.returncode == 0, drawn.stdout[-2000:] + drawn.stderr[-4000:]
    assert "cuhkpedes_val" in drawn.stdout
    assert (workplace / "log" / "fastreid_synthetic" / "model_final.pth").is_file()


def test_full_configurations_train_resume_and_evaluate(at_work, workplace) -> None:
    export, train, resume, test, images, resnet = blocks("bash")[1].strip().splitlines()
    assert "FASTREID_DATASETS=reid-data" in export
    at_work("reid-data")
    assert train_fastreid(words(train, f"{SHORT} {TEXT_FOLDERS}")) == 0
    assert train_fastreid(words(resume, f"{SHORT} {TEXT_FOLDERS}", epochs=2)) == 0
    resumed = torch.load(workplace / "log" / "fastreid_cuhkpedes" / "model_final.pth", weights_only=True)
    assert resumed["epoch"] == 1  # of 0 and 1
    assert train_fastreid(words(test)) == 0
    assert train_fastreid(words(images, f"{SHORT} {FOLDERS}")) == 0
    assert train_fastreid(words(resnet, f"{SHORT} {TINY_RESNET}")) == 0
    for name in ("fastreid_market1501", "fastreid_market1501_resnet50"):
        assert (workplace / "log" / name / "model_final.pth").is_file()


@pytest.mark.usefixtures("drawn")
def test_checkpoints_are_evaluated_by_the_other_framework(at_work, tiny_settings) -> None:
    """With the first block's checkpoint."""
    _, there, back = blocks("bash")[2].strip().splitlines()
    at_work("data/synthetic")
    own = dict(zip(*[iter(tiny_settings("log/again")[2:])] * 2))
    own["data.root"] = "data/synthetic"
    assert t2ireid([*words(there), *(word for pair in own.items() for word in pair)]) == 0
    assert train_fastreid(words(back, f"{SHORT} {TINY}")) == 0


def test_the_snippet_trains_with_fastreids_trainer(at_work, capsys) -> None:
    (snippet,) = blocks("python")
    quick = [*f"{SHORT} {FOLDERS}".format(epochs=1).split(), "OUTPUT_DIR", "log/snippet"]
    at_work("reid-data")
    exec(snippet.replace('market1501.yml"]', f'market1501.yml", *{quick}]'), {})
    assert "Rank-1" in capsys.readouterr().out


def test_the_page_lists_the_registered_parts() -> None:
    from fastreid.data.datasets import DATASET_REGISTRY
    from fastreid.modeling.backbones import BACKBONE_REGISTRY
    from fastreid.modeling.heads import REID_HEADS_REGISTRY
    from fastreid.modeling.meta_arch import META_ARCH_REGISTRY

    registries = {
        "BACKBONE_REGISTRY": BACKBONE_REGISTRY,
        "REID_HEADS_REGISTRY": REID_HEADS_REGISTRY,
        "META_ARCH_REGISTRY": META_ARCH_REGISTRY,
        "DATASET_REGISTRY": DATASET_REGISTRY,
    }
    rows = re.findall(r"^\| `(\w+_REGISTRY)` \| (.*?) \|", PAGE, flags=re.MULTILINE)
    assert {name for name, _ in rows} == set(registries)
    for registry, names in rows:
        for name in re.findall(r"`([a-zA-Z0-9]\w+)`", names):
            assert registries[registry].get(name)
