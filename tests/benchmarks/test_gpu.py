"""``benchmarks/gpu.py`` on the CPU, with tiny sizes."""

import argparse
import json
import os
import re
import shlex
import subprocess
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_parts import common, correctness
from benchmarks.gpu_parts.common import PRECISIONS, Setup, attempt, precision, row
from t2ireid_plugin.losses import LOSSES


@pytest.fixture
def setup(tmp_path):
    return Setup("cpu", True, tmp_path, float("inf"))


@pytest.fixture
def page(repository, tmp_path):
    text = (repository / "docs" / "performance.md").read_text(encoding="utf-8")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "performance.md").write_text(text, encoding="utf-8")
    return tmp_path / "docs" / "performance.md"


@pytest.mark.slow
def test_the_command_of_the_page_measures_everything(page, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"python benchmarks/gpu\.py (.+)", page.read_text(encoding="utf-8"))
    assert gpu.main([*shlex.split(command), "--quick", "--device", "cpu"]) == 0
    figures = json.loads((tmp_path / "log" / "gpu" / "gpu.json").read_text(encoding="utf-8"))
    assert list(figures["parts"]) == list(gpu.PARTS)
    rows = [row for own in figures["parts"].values() for row in own]
    assert not [row for row in rows if row["note"].startswith("failed")]
    assert all(row["value"] is not None or row["note"].startswith("left out") for row in rows)
    errors = [row for row in figures["parts"]["correctness.agreement"] if row["most"] is not None]
    assert len(errors) > 40
    assert not [row for row in errors if row["value"] > row["most"]]
    assert [row["value"] for row in figures["parts"]["correctness.resume"]] == [0]
    text = (tmp_path / "log" / "gpu" / "gpu.md").read_text(encoding="utf-8")
    assert all(row["what"] in text for row in rows)
    assert text.strip() in page.read_text(encoding="utf-8")
    assert (tmp_path / "log" / "gpu" / "gpu.png").read_bytes().startswith(b"\x89PNG")
    assert "Self CPU" in (tmp_path / "log" / "gpu" / "profile.txt").read_text(encoding="utf-8")
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[1:-1]] == list(gpu.PARTS)


def test_a_failure_is_a_row_and_the_others_are_measured(setup, monkeypatch, capsys):
    def fails():
        raise RuntimeError("CUDA error: misaligned address\nmore")

    rows = list(attempt(setup, "first", fails)) + list(attempt(setup, "second", lambda: [row("second", 1.0)]))
    assert rows == [row("first", note="failed: RuntimeError: CUDA error: misaligned address"), row("second", 1.0)]
    late = setup._replace(deadline=0.0)
    assert list(attempt(late, "third", fails)) == [row("third", note="left out: the time of this part is up")]
    monkeypatch.setattr(correctness, "agreement", lambda setup: fails())
    (found,) = gpu.rows_of("correctness.agreement", "cpu", True, str(setup.folder))
    assert found["note"].startswith("failed: RuntimeError: CUDA error")


@pytest.mark.parametrize("ends", ["with status 0", "with status 1", "at the end of its time"])
def test_on_a_gpu_a_part_is_a_process_whose_rows_survive_it(tmp_path, monkeypatch, ends):
    """In place of the script a program that prints a row, starts another one and waits for it.

    Its time is up as soon as the other one runs.
    """
    program = tmp_path / "part.py"
    program.write_text(
        "import json, subprocess, sys\n"
        "given = json.loads(sys.argv[2])\n"
        f"print(json.dumps({row('a', 1.0)!r}), flush=True)\n"
        "print('{\"what\" is not a row', file=sys.stderr)\n"
        f"if 'time' in {ends!r}:\n"
        "    other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "    open(given['folder'] + '/pid', 'w').write(str(other.pid))\n"
        "    other.wait()\n"
        f"sys.exit({int('status 1' in ends)})\n"
    )
    monkeypatch.setattr(gpu, "__file__", str(program))
    started = tmp_path / "pid"

    class Part(subprocess.Popen):
        def wait(self, timeout=None):
            while "time" in ends and timeout == 600 and not (started.exists() and started.read_text()):
                time.sleep(0.01)
            return super().wait(0.1 if "time" in ends and timeout == 600 else timeout)

    monkeypatch.setattr(gpu.subprocess, "Popen", Part)
    monkeypatch.setitem(gpu.PARTS, "speed.step", 600)
    options = argparse.Namespace(device="cuda", quick=True, out=tmp_path)
    first, *others = gpu.run_part("speed.step", options, tmp_path)
    assert first == row("a", 1.0)
    expected = [] if ends == "with status 0" else [f"failed: stopped {ends}, see gpu.log"]
    assert [other["note"] for other in others] == expected
    if "time" in ends:
        with pytest.raises(ProcessLookupError):
            wait_for_end(int(started.read_text()))


def wait_for_end(pid):
    """Raises ProcessLookupError once the process has ended."""
    for _ in range(600):
        os.kill(pid, 0)
        if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":  # no parent reaps it
            raise ProcessLookupError
        time.sleep(0.1)


def test_what_cannot_work_is_refused_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "run_part", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "page.md").write_text("no marks")
    for words in (["--device", "cpu", "--page", str(tmp_path / "page.md")], []):
        with pytest.raises(SystemExit) as end:
            gpu.main(["--out", str(tmp_path), *words])
        assert end.value.code == 2
    printed = capsys.readouterr().err
    assert "page.md' has no line '<!-- measured: gpu -->'" in printed
    assert "no usable GPU" in printed


def test_the_inputs_of_every_loss_are_made():
    inputs = correctness._loss_inputs(4)._asdict()
    assert [f"{name}: {field}" for name in LOSSES for field in LOSSES[name].needs if inputs[field] is None] == []


def test_all_parts_take_eight_minutes_at_most():
    assert sum(gpu.PARTS.values()) <= 8 * 60 - 20  # for drawing people


def test_precisions_are_restored():
    def flags():
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.is_autocast_enabled("cpu")

    before, inside = flags(), {}
    for name in PRECISIONS:
        with precision(name), common.autocast(name, "cpu"):
            inside[name] = flags()
        assert flags() == before
    assert inside == {
        "fp32": ("highest", False, False),
        "tf32": ("high", True, False),
        "bf16": ("highest", False, True),
    }


def test_contenders_are_warmed_up_and_timed_per_call(setup):
    calls = []
    seconds = common.seconds_per_call({"bare": lambda: calls.append(1)}, setup)
    assert len(seconds["bare"]) == 1
    assert len(calls) == 3  # of which two warm up


def test_relative_errors_and_targets():
    exact = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert common.relative(torch.tensor([3.0, 4.5]), exact) == pytest.approx(0.1)
    assert gpu._target(row("a", 1.1, most=1.2)) == "at most 1.2: reached"
    assert gpu._target(row("a", 1.3, most=1.2)) == "at most 1.2: **missed**"
    assert gpu._target(row("a", most=1.2)) == ""


def test_wheels_are_installed_without_a_network(tmp_path, monkeypatch):
    commands = []

    def run(command, check):
        commands.append(command)
        return subprocess.CompletedProcess(command, len(commands) == 1)

    monkeypatch.setattr(gpu.subprocess, "run", run)
    gpu.install(tmp_path)
    assert [command[-1] for command in commands] == ["t2ireid-plugin[dev]", "t2ireid-plugin"]
    assert all(command[3:-1] == ["install", "--no-index", "--find-links", str(tmp_path)] for command in commands)
    monkeypatch.setattr(gpu.subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, 1))
    with pytest.raises(SystemExit, match="lacks wheels"):
        gpu.install(tmp_path)
