"""ARCHITECTURE.md: every folder is described, imports go one way, and the recipes work as printed."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from preloaded import run_python

from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.engine.checks import check_config
from t2ireid_plugin.evaluation.metrics import evaluate_task
from t2ireid_plugin.evaluation.protocols import PROTOCOLS, Embeddings
from t2ireid_plugin.losses import LOSSES, LossInputs, LossTerms

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")
PACKAGE = REPOSITORY / "t2ireid_plugin"
SNIPPETS = {
    name: block.split("```python\n")[1].split("```")[0]
    for name, block in re.findall(r"^## Add an? (\w+)\n(.*?)(?=^## |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL)
    if "```python" in block
}


def test_every_folder_is_described() -> None:
    """A package within a folder has a row of its own, or the folder's row names it; every row exists."""
    rows = dict(re.findall(r"^\| `([^`]+?)/?` \| (.+) \|$", PAGE, flags=re.MULTILINE))
    for folder in {path.parent.relative_to(REPOSITORY) for path in PACKAGE.glob("*/**/*.py")}:
        parent = re.sub(r"\W", "", rows.get(folder.parent.as_posix(), "")).lower()
        assert folder.as_posix() in rows or folder.name in parent, f"{folder}: not on the page"
    assert not [row for row in rows if not (REPOSITORY / row).exists()]


def imported_rooms(file: Path) -> set[str]:
    """Folders and top-level modules of the package that a file imports when it is loaded or run."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "t2ireid_plugin":
            names |= {f"t2ireid_plugin.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("t2ireid_plugin.")}


def test_imports_go_in_the_direction_that_the_page_draws() -> None:
    """The package's own `__init__.py` is exempt: it loads the names that users import from it on first use."""
    drawn = PAGE.split("## Imports")[1].split("```")[1].replace("\n", " ")
    floors = [re.findall(r"\w+", floor) for floor in drawn.split("←")]
    level = {name: number for number, floor in enumerate(floors) for name in floor}
    for file in sorted(PACKAGE.rglob("*.py")):
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room not in level:
            assert room in ("__init__", "__main__"), f"{file}: not on the page"
            continue
        for other in imported_rooms(file) - {room}:
            floor = level.get(other, len(floors))  # names of the package's `__init__.py` lie above all
            assert floor <= level[room], f"{file} imports {other}"
            assert not (room == "modeling" and floor == level[room]), f"{file} imports {other}"


def test_a_new_loss(tiny_settings, tmp_path) -> None:
    try:
        exec(compile(SNIPPETS["loss"], "ARCHITECTURE.md", "exec"), {"__name__": "page"})
        settings = tiny_settings(tmp_path, loss__terms__cosine_gap__weight=0.5, loss__terms__cosine_gap__power=2)
        cfg = load_cfg(settings[1], settings[2:])
        check_config(cfg)
        terms = LossTerms({"cosine_gap": dict(cfg.loss.terms["cosine_gap"])})
    finally:
        LOSSES.pop("cosine_gap", None)
    image, text = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    pids = torch.tensor([0, 1])
    total, values = terms(LossInputs(pids, photos=pids, image_embeds=image, id_text_embeds=text))
    assert values["cosine_gap"] == pytest.approx(2.0)  # gaps 0 and 2, squared
    assert total == pytest.approx(1.0)


def test_a_new_protocol() -> None:
    try:
        exec(compile(SNIPPETS["protocol"], "ARCHITECTURE.md", "exec"), {"__name__": "page"})
        protocol = PROTOCOLS.pop("caption_by_clothing")
    finally:
        PROTOCOLS.pop("caption_by_clothing", None)
    images = torch.eye(3)
    labels = np.array([0, 1, 2])
    # Captions equal the clothing embedding of another image, except the first.
    embeddings = Embeddings(images, labels, labels, labels, captions=images[[0, 2, 1]], cloth_images=images)
    metrics = evaluate_task(protocol.build_task(embeddings, 0.5), ranks=(1, 3)).metrics
    assert set(protocol.needs) <= set(Embeddings._fields)
    assert metrics["R@1"] == pytest.approx(1 / 3)
    assert metrics["R@3"] == pytest.approx(1.0)


@pytest.mark.slow
def test_a_new_dataset(synthetic, tmp_path) -> None:
    """In a process of its own, since torchreid keeps registered names."""
    drawn = synthetic.root / "CUHK-PEDES"
    (tmp_path / "MyPEDES").mkdir()
    (tmp_path / "MyPEDES" / "imgs").symlink_to(drawn / "imgs")
    rows = json.loads((drawn / "reid_raw.json").read_text(encoding="utf-8"))
    rows = [{**row, "split": row["split"].replace("val", "train")} for row in rows]
    (tmp_path / "MyPEDES" / "annotation.json").write_text(json.dumps(rows), encoding="utf-8")
    read = """
from torchreid import data
names = ["mypedes", "mypedes_val"]
manager = data.ImageDataManager(root=".", sources="mypedes", targets=names, workers=0, use_gpu=False)
print([manager.num_train_pids, *(len(manager.test_loader[name]["gallery"].dataset) for name in names)])
"""
    printed = run_python(["-c", SNIPPETS["dataset"] + read], tmp_path).stdout.splitlines()[-1]
    held_out = round(0.05 * (synthetic.train_ids + synthetic.val_ids))
    trained = synthetic.train_ids + synthetic.val_ids - held_out
    assert json.loads(printed) == [trained, synthetic.test_ids * synthetic.photos, held_out * synthetic.photos]
