"""`t2ireid serve` as users start it, and its page in Chromium."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from t2ireid_plugin.cli import main
from t2ireid_plugin.search import Encoder, Gallery

from .browser import CHROMIUM, Browser

REPOSITORY = Path(__file__).parents[3]
PAGE = (REPOSITORY / "docs" / "serve.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "T2IREID_TOKEN: a token of 5 letters is too short; use at least 16"),
        (["--port", "taken"], "cannot listen there (Address already in use"),
        (["--port", "70000"], "port must be 0-65535"),
        (["--port", "0"], "no index 'people.idx'; make one with `t2ireid index build`"),
    ],
    ids=["token", "taken", "port", "index"],
)
def test_what_cannot_be_served_is_said_in_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("T2IREID_TOKEN", "short")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "people.idx", *(port if word == "taken" else word for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", str(tmp_path / "people.idx"), "--port", "0"]) == 2
    assert "serving needs uvicorn; pip install fastapi uvicorn" in capsys.readouterr().err


@pytest.fixture(scope="module")
def workplace(onnx_folder, synthetic, tmp_path_factory):
    """A folder with people.idx, which has an encoder of its own."""
    folder = tmp_path_factory.mktemp("serve")
    photos = sorted((synthetic.root / "CUHK-PEDES" / "imgs").rglob("*.jpg"))[:60]
    cameras = [f"cam{1 + number % 3}" for number in range(len(photos))]
    times = [f"2026-11-02T08:{number:02}:00Z" for number in range(len(photos))]
    with Gallery.open(folder / "people.idx", Encoder.load(onnx_folder)) as gallery:
        gallery.add_images(photos, camera=cameras, time=times, progress=False)
    shutil.copytree(onnx_folder, folder / "people.idx" / "encoder")
    return folder


@contextlib.contextmanager
def serving(folder, *words, **environment):
    """Runs the command of the page on a free port; gives its process and the address that it prints."""
    (command,) = re.findall(r"```bash\n(.*?)\n```", PAGE, re.DOTALL)
    program, *arguments = command.split()
    assert program == "t2ireid"
    paths = os.pathsep.join([str(REPOSITORY), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-m", "t2ireid_plugin", *arguments, "--port", "0", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            line = process.stdout.readline()
            assert "rows of 'people.idx' at http://" in line, line + process.stdout.read()
            yield process, line.split(" at ")[1].strip()
        finally:
            process.send_signal(signal.SIGINT)
            rest = process.stdout.read()
    assert rest == "stopped by SIGINT\n"
    assert process.returncode == 130


@pytest.mark.slow
def test_the_pages_commands_run_without_pytorch(workplace, capsys):
    with serving(workplace) as (process, address):
        (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
        exec(snippet.replace("http://127.0.0.1:8000/", address), {})
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 3
        assert re.match(r"-?0\.\d+ cam[123] 2026-11-02T08:\d\d:00Z .*\.jpg$", lines[0])
        weight = json.load(urlopen(f"{address}api/index"))["weight"]
        assert 0 <= weight <= 1
        maps = Path(f"/proc/{process.pid}/maps")
        if maps.exists():
            loaded = maps.read_text(encoding="utf-8")
            assert "onnxruntime" in loaded
            assert "libtorch" not in loaded


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (chromium or google-chrome on PATH)")
def test_the_page_in_a_browser(workplace, tmp_path):
    """Search, keys, paging, languages and widths; nothing is asked of another host."""
    shown = "document.querySelectorAll('#hits:not(.busy) img').length"
    status = "document.getElementById('status').textContent"
    with Gallery.open(workplace / "people.idx") as gallery:
        photo = gallery.absolute_path(gallery.store.rows([7])[7].path)
    with serving(workplace, "--host", "127.0.0.2", T2IREID_TOKEN="sixteen-letters-") as (_, address):
        assert address.endswith("/?token=sixteen-letters-")
        page = address.partition("?")[0]
        with contextlib.closing(Browser(tmp_path / "profile")) as browser:
            browser.show(1280, 900, "light")
            browser.open(address, status)
            assert browser.run("location.href") in (page, f"{page}?")
            assert browser.run("JSON.stringify(Object.keys(TEXTS.en)) === JSON.stringify(Object.keys(TEXTS.zh))")
            browser.press(*"red", "Enter")
            browser.wait(f"{shown} === 24")
            assert browser.run("location.search") == "?q=red"
            assert browser.run("[...document.images].every((image) => image.alt || image.hidden || !image.src)")
            browser.press("ArrowDown", "ArrowRight", "Enter")  # out of the field, to the second hit
            browser.wait("document.getElementById('one').open")
            browser.press("ArrowRight")
            assert browser.run("document.querySelector('#one dd').textContent") == browser.run(
                "results.hits[2].score.toFixed(4)"
            )
            browser.press("Escape", "n")
            browser.wait(f"{shown} === 24 && {status}.startsWith('25–48 of 60')")
            browser.press("n")
            browser.wait(f"{shown} === 12 && {status}.startsWith('49–60')")
            assert browser.run("location.search") == "?q=red&offset=48"
            browser.run("history.back()")
            browser.wait(f"{status}.startsWith('25–48')")
            weight = browser.run("((about.weight + 0.5) % 1).toFixed(2)")  # not the model's own
            query = f"?q=a+red+jacket&camera=cam2&after=2026-11-02T00%3A00&weight={weight}"
            browser.open(page + query, f"{status}.startsWith('1–20 of 20')")
            assert browser.run("document.getElementById('active').textContent") == "3"
            assert browser.run("document.getElementById('more').open")
            browser.run("document.getElementById('language').click()")
            assert browser.run("document.documentElement.lang") == "zh-CN"
            assert "候选" in browser.run("document.getElementById('note').textContent")
            assert browser.run("document.body.innerText").count("undefined") == 0
            for width in (1280, 390):
                for scheme in ("light", "dark"):
                    browser.show(width, 900, scheme)
                    browser.wait("[...document.images].slice(0, 4).every((image) => image.complete)")
                    assert browser.run("document.documentElement.scrollWidth") <= width
                    browser.screenshot(tmp_path / f"{width}_{scheme}.png")
            browser.open(f"{page}?q=red&camera=cam9", f"{status}.includes('no camera')")
            chip = "document.querySelector('#photo:not([hidden]) img')"
            browser.open(page, status)
            browser.choose("#file", photo)
            browser.wait(f"{shown} === 24 && {chip}.src.startsWith('blob:')")
            best = browser.run("results.hits[0].path")
            assert best == gallery.stored_path(photo)
            browser.press("ArrowDown", "Enter")
            browser.wait("document.getElementById('one').open")
            browser.run("document.getElementById('similar').click()")
            browser.wait(f"{shown} === 24 && location.search.startsWith('?like=') && {chip}.src.includes('/image/')")
            assert browser.run("results.hits[0].path") == best
            browser.run("document.getElementById('drop').click()")
            browser.wait(f"!{shown} && !{chip} && {status}.includes('60')")
        elsewhere = [one for one in browser.requests if not one.startswith((page, "blob:", "data:"))]
        assert elsewhere == []
