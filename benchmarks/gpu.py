"""Proves and measures everything on a GPU in about eight minutes, without a network.

    python benchmarks/gpu.py --out DIR [--quick] [--device cpu] [--wheels DIR] [--page docs/performance.md]

Each part runs in a process of its own with a limit of time, so that a failure is a row of the table and not the end.
Writes ``gpu.json``, ``gpu.md``, ``gpu.png``, ``profile.txt`` and ``gpu.log`` into DIR.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(REPOSITORY)  # benchmarks/ is not installed, and this folder has modules with common names

PARTS = {  # seconds that each may take; functions of benchmarks/gpu_parts
    "correctness.tests": 90,
    "correctness.agreement": 30,
    "correctness.resume": 35,
    "speed.encode": 85,
    "speed.step": 85,
    "training.loader": 85,
    "training.users": 45,
}
_RESERVE = 10  # of these for starting and ending the process
_PEOPLE = {False: (200, 8), True: (12, 2)}  # drawn for training, and captions of a photo, by --quick
MARK = "<!-- measured: gpu -->"
TITLES = {"correctness": "Correctness", "speed": "Speed", "training": "Training and use"}


def main(argv: list[str] | None = None) -> int:
    """Runs the parts; returns 0 also where rows say that something failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="folder for gpu.json, gpu.md and gpu.png"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the command")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu only makes sense with --quick")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument(
        "--wheels", type=Path, metavar="DIR", help="install this package's dependencies from here first"
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="also put the tables between this page's marks")
    options = parser.parse_args(argv)
    if options.wheels is not None:
        install(options.wheels)
    if options.page is not None and (not options.page.is_file() or MARK not in options.page.read_text("utf-8")):
        parser.error(f"--page: '{options.page}' has no line '{MARK}'")
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch has no usable GPU on this machine; --quick --device cpu tries the command")
    from t2ireid_plugin.synthetic import write_synthetic
    from t2ireid_plugin.utils.atomic_io import atomic_write_text

    options.out.mkdir(parents=True, exist_ok=True)
    began, parts = time.monotonic(), {}
    with tempfile.TemporaryDirectory() as folder:
        people, captions = _PEOPLE[options.quick]
        counts: dict[str, Any] = {"train_ids": people, "val_ids": 8, "test_ids": 8, "photos": 4, "captions": captions}
        write_synthetic(folder, **counts, progress=False)
        _report("drawing people", began, 0)
        for name in options.parts:
            started = time.monotonic()
            parts[name] = list(run_part(name, options, Path(folder)))
            _report(name, started, len(parts[name]))
        for file in Path(folder).glob("*.txt"):  # of the profiler
            shutil.copy(file, options.out)
    figures = {"seconds": time.monotonic() - began, "quick": options.quick, "machine": describe(), "parts": parts}
    atomic_write_text(options.out / "gpu.json", json.dumps(figures, indent=2) + "\n")
    text = page_of(figures)
    atomic_write_text(options.out / "gpu.md", text)
    draw(parts, options.out / "gpu.png")
    if options.page is not None:
        from benchmarks.everything import replace_part

        atomic_write_text(options.page, replace_part(options.page.read_text(encoding="utf-8"), "gpu", text.strip()))
    print(f"{figures['seconds']:.0f} s in all; results in '{options.out}'")
    return 0


def install(wheels: Path) -> None:
    """Installs this package with what the tests need, or without it where these wheels are missing, and no network."""
    for name in ("t2ireid-plugin[dev]", "t2ireid-plugin"):
        command = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(wheels), name]
        if subprocess.run(command, check=False).returncode == 0:
            importlib.invalidate_caches()
            return
    sys.exit(f"error: '{wheels}' lacks wheels of this package's dependencies, see CONTRIBUTING.md")


def run_part(name: str, options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of a part: on a GPU from a process of its own, as an error of CUDA makes the process useless."""
    arguments = {"name": name, "device": options.device, "quick": options.quick, "folder": str(folder)}
    with (options.out / "gpu.log").open("a", encoding="utf-8") as log:
        if options.device == "cpu":
            with contextlib.redirect_stderr(log), contextlib.redirect_stdout(log):
                yield from rows_of(**arguments)
            return
        out = folder / f"{name}.rows"
        with out.open("w", encoding="utf-8") as file:
            command = [sys.executable, __file__, "--part", json.dumps(arguments)]
            process = subprocess.Popen(command, stdout=file, stderr=log, start_new_session=True)
            try:
                status = f"with status {process.wait(PARTS[name])}"
            except subprocess.TimeoutExpired:
                status = "at the end of its time"
            finally:  # with the processes that it has started
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
    yield from (json.loads(line) for line in out.read_text(encoding="utf-8").splitlines() if line.startswith('{"what"'))
    if process.returncode:
        yield {"what": name, "value": None, "unit": "", "most": None, "note": f"failed: stopped {status}, see gpu.log"}


def rows_of(name: str, device: str, quick: bool, folder: str) -> Iterator[dict[str, Any]]:
    """The rows of a part, measured in this process."""
    from benchmarks.gpu_parts.common import Setup, failure

    module, _, function = name.partition(".")
    deadline = math.inf if quick else time.monotonic() + PARTS[name] - _RESERVE
    setup = Setup(device, quick, Path(folder), deadline)
    try:
        yield from getattr(importlib.import_module(f"benchmarks.gpu_parts.{module}"), function)(setup)
    except Exception as error:
        yield failure(name, error)


def describe() -> dict[str, Any]:
    """The machine, with the card's driver and memory."""
    import torch

    from benchmarks.machine import describe_machine

    machine = describe_machine()
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        machine |= {"gpu_gb": card.total_memory / 1e9, "capability": f"{card.major}.{card.minor}"}
        machine["versions"] |= {"CUDA": torch.version.cuda, "cuDNN": str(torch.backends.cudnn.version())}
        try:
            query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            machine["versions"]["driver"] = subprocess.check_output(query, text=True).splitlines()[0]
        except (OSError, subprocess.CalledProcessError, IndexError):
            machine["versions"]["driver"] = "unknown"
    return machine


def page_of(figures: dict[str, Any]) -> str:
    """The tables of ``gpu.md``."""
    from t2ireid_plugin.utils.text import markdown_table

    machine = figures["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    card = f"{machine['gpu'] or 'no GPU'}, {machine['processor']}, {machine['cores']} cores; {versions}."
    quick = " Tiny sizes (`--quick`): no measurement." if figures["quick"] else ""
    sections = [f"`python benchmarks/gpu.py --out DIR` on {card}{quick}"]
    for group, title in TITLES.items():
        rows = [row for name, own in figures["parts"].items() if name.startswith(f"{group}.") for row in own]
        cells = [[row["what"], _value(row), _target(row), row["note"].replace("|", "\\|")] for row in rows]
        if cells:
            sections.append(f"### {title} on the GPU\n\n" + markdown_table(["", "measured", "target", "note"], cells))
    return "\n\n".join(sections) + "\n"


def _value(row: dict[str, Any]) -> str:
    value = row["value"]
    return "" if value is None else f"{value:.4g} {row['unit']}"


def _target(row: dict[str, Any]) -> str:
    if row["most"] is None or row["value"] is None:
        return ""
    return f"at most {row['most']:g}: {'reached' if row['value'] <= row['most'] else '**missed**'}"


def draw(parts: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """A bar for each ratio to the bare encoder."""
    from matplotlib.figure import Figure

    bars = [row for rows in parts.values() for row in rows if row["unit"] == "x bare" and row["value"] is not None]
    figure = Figure(figsize=(10, 1 + 0.22 * len(bars)), layout="constrained", dpi=120)
    axes = figure.subplots()
    axes.barh([row["what"] for row in bars], [row["value"] for row in bars], color="C0")
    for number, row in enumerate(bars):
        if row["most"] is not None:
            axes.plot([row["most"]] * 2, [number - 0.5, number + 0.5], color="C3")
    axes.axvline(1, color="0.4", linewidth=1)
    axes.invert_yaxis()
    axes.set(xlabel="time in proportion to the bare encoder's; red: target")
    figure.savefig(file)


def _report(name: str, started: float, rows: int) -> None:
    print(f"{name:24} {time.monotonic() - started:6.1f} s  {rows} rows", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        with contextlib.redirect_stdout(sys.stderr):  # what libraries print
            for measured in rows_of(**json.loads(sys.argv[2])):
                print(json.dumps(measured), file=sys.__stdout__, flush=True)
    else:
        sys.exit(main())
