"""Every command and snippet of both READMEs runs, as printed, on small data in the same places."""

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

REPOSITORY = Path(__file__).parents[1]
READMES = ("README.md", "README.zh-CN.md")
PROGRAMS = {"t2ireid": ["-m", "t2ireid_plugin"], "python": []}
# Shortens a sixty-epoch training and a measurement.
QUICK = "train.max_epoch 1 train.batch_size 16 data.workers 0 test.pictures 1 use_gpu False"
BENCHMARK = "--images 2 --rounds 1 --rows 50"


def blocks(readme: str, language: str) -> list[str]:
    text = (REPOSITORY / readme).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, synthetic, encoders, benchmark_root, tiny_run) -> Path:
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
    (folder / "log").mkdir()
    (folder / "log" / "demo").symlink_to(tiny_run.folder)
    return folder


def run(command: list[str], folder: Path) -> str:
    return run_python(command, folder).stdout


def test_both_readmes_have_the_same_commands() -> None:
    for language in ("bash", "python"):
        first, second = ([re.sub(r"#.*", "", block) for block in blocks(name, language)] for name in READMES)
        assert first == second


@pytest.mark.slow
def test_commands_and_snippets_run(workplace) -> None:
    """In the order of the page: train, resume, test again, then load what was trained."""
    commands = [line for block in blocks("README.md", "bash")[2:] for line in block.strip().splitlines()]
    assert len(commands) == 7
    for command in commands:
        program, *arguments = shlex.split(command)
        if "train_net.py" in command:
            output = run([*arguments, *QUICK.split()], workplace)
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
    program, *arguments = shlex.split(blocks("README.md", "bash")[0])
    assert program == "pip"
    copy = tmp_path / "clone"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy)
    shutil.copytree(REPOSITORY / "t2ireid_plugin", copy / "t2ireid_plugin")
    options = ["--dry-run", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    page = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)` \(", page.split("Optional extras:")[1].split("\n\n")[0])
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
    """The demo's commands are those that tests/test_run.py runs at small size."""
    assert blocks("README.md", "bash")[1].split("\n")[:2] == ["make demo", "make test"]
    planned = subprocess.run(["make", "-n", "demo"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert "prepare synthetic data/synthetic" in planned
    assert "tools/train_net.py --config-file configs/t2i_synthetic_cpu.yaml --resume --visualize" in planned
    parts = r"about (\d+) minutes .*: drawing people (\d+), training (\d+), test and pictures (\d+)"
    ((total, *minutes),) = re.findall(parts, planned)
    assert int(total) == sum(map(int, minutes))
