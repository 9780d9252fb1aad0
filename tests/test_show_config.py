"""Packaged configurations and settings as text; the package that pip builds, in an empty folder."""

import inspect
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import yaml

from t2ireid_plugin import config
from t2ireid_plugin.cli import main
from t2ireid_plugin.config import load_cfg, to_dict


def printed(capsys, *words) -> str:
    capsys.readouterr()
    assert main(list(words)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--config-file", "t2i_clip_mamba", "train.lr", "1e-5", "data.sources", "cuhkpedes,icfgpedes"],
        ["--config-file", "market1501_t2ireid", "data.save_dir", "log: 'a' # b"],
    ],
)
def test_the_printed_settings_are_yaml_of_the_merged_configuration(capsys, words) -> None:
    file, opts = (words[1], words[2:]) if words else (None, [])
    assert yaml.safe_load(printed(capsys, "config", *words)) == to_dict(load_cfg(file, opts))


def test_every_comment_of_the_defaults_is_printed_once(capsys) -> None:
    source = inspect.getsource(config)
    defaults = source.partition("_DEFAULTS: dict[str, Any] = {\n")[2].partition("\n}\n")[0]
    comments = re.findall(r"# .*", defaults)
    assert re.findall(r"# .*", printed(capsys, "config")) == comments


def test_the_reference_page_is_what_the_command_prints(capsys, repository) -> None:
    page = (repository / "docs" / "config.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    assert block == printed(capsys, "config")


def test_each_configuration_has_a_line(capsys, repository) -> None:
    lines = printed(capsys, "configs").splitlines()[1:]
    names = [line.split()[0] for line in lines]
    files = [path.relative_to(repository / "configs") for path in (repository / "configs").rglob("*.y*ml")]
    assert sorted(names) == sorted(path.with_suffix("").as_posix() for path in files)
    line = next(line for line in lines if line.startswith("t2i_vit_mamba "))
    assert line.split(maxsplit=1)[1] == "Full-size model on CUHK-PEDES"
    assert all(len(line.split()) > 2 for line in lines)


BUILD = """
import sys
from pathlib import Path
from setuptools import build_meta
print(getattr(build_meta, sys.argv[1])(sys.argv[2]))
"""


def build(what, source, out):
    done = subprocess.run(
        [sys.executable, "-c", BUILD, what, out], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_sdist_and_wheel_have_the_configurations(repository, tmp_path) -> None:
    """The wheel is built from the sdist, as pip does, and used from an empty folder."""
    source, empty = tmp_path / "source", tmp_path / "empty"
    empty.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("t2ireid_plugin", "configs"):
        shutil.copytree(repository / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(repository / name, source)
    shutil.unpack_archive(build("build_sdist", source, tmp_path), tmp_path / "sdist")
    (unpacked,) = (tmp_path / "sdist").iterdir()
    with zipfile.ZipFile(build("build_wheel", unpacked, tmp_path)) as wheel:
        wheel.extractall(tmp_path / "installed")
    words = [sys.executable, "-m", "t2ireid_plugin.cli", "config", "--config-file", "ablation/drawn"]
    environment = {"PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(words, cwd=empty, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout) == to_dict(load_cfg(repository / "configs" / "ablation" / "drawn.yaml"))
