"""docs/codebases.md against the sources of other codebases: `make test-codebases STRONG_SRC=DIR TRANSREID_SRC=DIR`."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

# Small images and models, little augmentation, six epochs.
QUICK = """
INPUT.SIZE_TRAIN [64,32] INPUT.SIZE_TEST [64,32] INPUT.PADDING 2 INPUT.RE_PROB 0.0 DATALOADER.NUM_WORKERS 0
SOLVER.IMS_PER_BATCH 24 SOLVER.LOG_PERIOD 1 SOLVER.MAX_EPOCHS 6 SOLVER.EVAL_PERIOD 6 SOLVER.CHECKPOINT_PERIOD 6
SOLVER.BASE_LR 0.001
"""
OF_EACH = {
    "STRONG_SRC": "MODEL.DEVICE cpu MODEL.IF_LABELSMOOTH off MODEL.NAME resnet18 SOLVER.WARMUP_ITERS 1",
    "TRANSREID_SRC": "MODEL.TRANSFORMER_TYPE t2ireid_osnet_x1_0 MODEL.PRETRAIN_CHOICE no SOLVER.OPTIMIZER_NAME AdamW",
}
HEADINGS = {"STRONG_SRC": "reid-strong-baseline", "TRANSREID_SRC": "TransReID"}


@pytest.fixture
def flat_market(reid_data, tmp_path):
    """A folder with market1501/bounding_box_train and the like, where these codebases look for them."""
    (tmp_path / "reid-data").mkdir()
    (tmp_path / "reid-data" / "market1501").symlink_to(reid_data / "market1501" / "Market-1501-v15.09.15")
    return tmp_path / "reid-data"


@pytest.mark.slow
@pytest.mark.parametrize("variable", HEADINGS)
def test_the_page_ports_a_codebase(variable, repository, flat_market, tmp_path) -> None:
    if variable not in os.environ:
        pytest.skip(f"needs {variable}")
    page = (repository / "docs" / "codebases.md").read_text(encoding="utf-8")
    section = page.split(f"\n## {HEADINGS[variable]}\n")[1].split("\n## ")[0]
    copy = tmp_path / "source"
    shutil.copytree(os.environ[variable], copy, ignore=shutil.ignore_patterns(".git"))
    for change in re.findall(r"```diff\n(.*?)```", section, flags=re.DOTALL):
        subprocess.run(["patch", "--strip=1", "--fuzz=0"], input=change, text=True, cwd=copy, check=True)
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), copy / "resnet50.pth")
    (copy / "reid-data").symlink_to(flat_market)
    (command,) = re.findall(r"```bash\npython (.*?)\n```", section)
    settings = shlex.split(f"{QUICK} {OF_EACH[variable]}")
    path = os.pathsep.join([str(repository), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *shlex.split(command), *settings],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    losses = {epoch: float(loss) for epoch, loss in re.findall(r"Epoch\[(\d+)\].* Loss: ([0-9.]+)", done.stdout)}
    print(losses)  # of the last step of each epoch, averaged over it
    assert len(losses) == 6
    assert losses["6"] < losses["1"]
    assert re.search(r"mAP: [0-9.]+%", done.stdout)
    assert list(Path(copy / "log").glob("*.pt*"))
