"""Every command and snippet of the README and of docs/data.md runs, as printed, on small data in the same places."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from preloaded import run_python

import t2ireid_plugin
from t2ireid_plugin.cli import main

REPOSITORY = Path(__file__).parents[1]
PAGES = ("README.md", "docs/data.md")
PROGRAMS = {"t2ireid": ["-m", "t2ireid_plugin"], "python": []}
# Shortens a sixty-epoch training of large images and a measurement.
QUICK = "train.max_epoch 1 train.batch_size 16 data.workers 0 data.height 96 data.width 32 use_gpu False"
QUICK += " test.pictures 1 test.bootstrap 0"
BENCHMARK = "--images 2 --rounds 1 --rows 50"


def blocks(readme: str, language: str) -> list[str]:
    text = (REPOSITORY / readme).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, synthetic, encoders, benchmark_root, tiny_settings) -> Path:
    """A folder with the files in the places that the README names."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("tools", "configs"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / "reid-data").mkdir()
    (folder / "reid-data" / "CUHK-PEDES").symlink_to(synthetic.root / "CUHK-PEDES")
    for name, inner in (("icfgpedes", "ICFG-PEDES"), ("rstpreid", "RSTPReid")):
        (folder / "reid-data" / inner).symlink_to(benchmark_root(name) / inner)
    (folder / "weights").mkdir()
    for name in ("vit", "bert"):
        (folder / "weights" / name).symlink_to(getattr(encoders, name))
    shutil.copytree(synthetic.root, folder / "data" / "synthetic")  # a search adds its index to the photos
    # A search writes its model as ONNX files, soon if it has few parts.
    plain = {"model__disentangle__type": "none", "data__id_instruction": "caption"}
    assert main(["train", *tiny_settings(folder / "log" / "demo", **plain)]) == 0
    return folder


def run(command: list[str], folder: Path) -> str:
    return run_python(command, folder).stdout


@pytest.mark.slow
def test_commands_and_snippets_run(workplace) -> None:
    """In the order of the page: search, check, train, test again, then load what was trained."""
    lines = [line for page in PAGES for block in blocks(page, "bash") for line in block.strip().splitlines()]
    commands = [line for line in lines if line.startswith(tuple(PROGRAMS)) and "venv" not in line]
    assert len(commands) == 7
    for command in commands:
        program, *arguments = shlex.split(command)
        if "train_net.py" in command or arguments[0] == "train":
            output = run([*PROGRAMS[program], *arguments, *QUICK.split()], workplace)
            assert re.search(r"R@1 +R@5 +R@10 +mAP +mINP", output)
        else:
            few = BENCHMARK.split() if "benchmark.py" in command else []
            assert run([*PROGRAMS[program], *arguments, *few], workplace)
    snippets = blocks("README.md", "python")
    assert len(snippets) == 3
    for snippet in snippets:
        assert run(["-c", snippet], workplace).strip()


@pytest.mark.slow
def test_the_package_installs_with_the_extras_that_the_page_names(tmp_path) -> None:
    """By the page's command on a copy; dry, without dependencies and build isolation, as a test has no network."""
    program, *arguments = shlex.split(blocks("README.md", "bash")[0].splitlines()[-1])
    assert program == "pip"
    copy = tmp_path / "clone"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy)
    shutil.copytree(REPOSITORY / "t2ireid_plugin", copy / "t2ireid_plugin")
    options = ["--dry-run", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    page = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)` \(", page.split("Optional extras")[1].split("\n\n")[0])
    assert "dev" in named
    for target in (arguments[-1], f"{arguments[-1]}[{','.join(named)}]"):
        words = [sys.executable, "-m", "pip", *arguments[:-1], target, *options]
        done = subprocess.run(words, cwd=copy, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert f"Would install t2ireid-plugin-{t2ireid_plugin.__version__}" in done.stdout
        assert "does not provide the extra" not in done.stderr


def test_the_citation_has_the_version_of_the_package() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == t2ireid_plugin.__version__


def test_make_targets() -> None:
    """The demo's commands are those that tests/test_run.py runs at small size; it installs no tools of development."""

    def planned(*words: str) -> str:
        command = ["make", "--dry-run", "--always-make", *words]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout

    demo = planned("demo")
    assert "prepare synthetic data/synthetic --train-ids 2000" in demo
    assert "tools/train_net.py --config-file configs/t2i_synthetic_cpu.yaml --resume --visualize" in demo
    assert "[dev]" not in demo
    assert "--editable '.[dev]'" in planned("test")
    assert "--train-ids 500" in planned("demo", "PEOPLE=500")
    (expression,) = re.findall(r"about \$\(\((.*)\)\) minutes", demo)
    assert f"It takes {eval(expression):g} minutes on two CPU cores" in (REPOSITORY / "README.md").read_text("utf-8")
