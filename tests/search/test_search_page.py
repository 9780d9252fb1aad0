"""docs/search.md: its commands and snippets, in the order of the page."""

import importlib.util
import re
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from t2ireid_plugin.cli import main
from t2ireid_plugin.data.images import read_pixels

PAGE = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")
STEPS = re.findall(r"^ *```(bash|python|csv)\n(.*?)```", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def workplace(onnx_folder, synthetic, tmp_path, monkeypatch):
    """The photos, the model and a video of two seconds under the page's names."""
    (tmp_path / "photos").mkdir()
    people = sorted((synthetic.root / "CUHK-PEDES" / "imgs").rglob("*.jpg"))[:12]
    for i, photo in enumerate(people):
        shutil.copy(photo, tmp_path / "photos" / f"cam{i % 3 + 1}_{i}.jpg")
    shutil.copy(people[3], tmp_path / "photos" / "cam2_1.jpg")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "demo").symlink_to(onnx_folder)
    (tmp_path / "weights").mkdir()
    frame = np.full((288, 352, 3), 127, np.uint8)
    frame[60:240, 130:220] = cv2.resize(read_pixels(people[0]), (90, 180))
    video = cv2.VideoWriter(str(tmp_path / "cam3.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (352, 288))
    for _ in range(10):
        video.write(frame)
    video.release()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ray_data():
    """`ray` as the page uses it: a data set in one batch, mapped by an object of the class."""

    class Photos:
        def __init__(self, batch):
            self.batch = batch

        def map_batches(self, kind, batch_size, concurrency, num_gpus):
            return Photos(kind()(self.batch))

        def iter_batches(self, batch_size):
            return [self.batch]

    def read_images(folder, mode, include_paths):
        assert (mode, include_paths) == ("RGB", True)
        paths = sorted(map(str, Path(folder).glob("*.jpg")))
        return Photos({"path": np.array(paths), "image": [read_pixels(path) for path in paths]})

    return SimpleNamespace(data=SimpleNamespace(read_images=read_images))


@pytest.mark.slow
def test_the_page_runs(workplace, request, monkeypatch, capsys):
    """But for the commands with Milvus where Milvus Lite is not installed."""
    monkeypatch.setitem(sys.modules, "ray", ray_data())
    for language, content in STEPS:
        if language == "csv":
            continue
        if language == "python":
            exec(compile(content, "search.md", "exec"), {"__name__": "page"})
            continue
        (workplace / "list.csv").write_text(next(text for kind, text in STEPS if kind == "csv"))
        for line in content.strip().splitlines():
            if "milvus://" in line:
                if importlib.util.find_spec("milvus_lite") is None:
                    continue
                line = line.replace("milvus://localhost:19530", request.getfixturevalue("milvus_server"))
            program, *words = shlex.split(line)
            if program == "pip":
                continue
            assert main(words) == 0, (line, capsys.readouterr().err)
    assert (workplace / "result.html").is_file()
    assert (workplace / "result.png").is_file()
    printed = capsys.readouterr().out
    assert "b.jpg" in printed
    assert "(2, 256)" in printed


def test_the_page_names_all_options_of_search(capsys):
    with pytest.raises(SystemExit):
        main(["search", "--help"])
    options = set(re.findall(r"^  (?:-h, )?(-[-\w]+)", capsys.readouterr().out, flags=re.MULTILINE)) - {"-h", "--help"}
    table = PAGE.split("| option | effect |")[1].split("\n\n")[0]
    named = set(re.findall(r"(?<![-\w])(--?[a-z][-a-z]*)", table))
    assert options - {"--model", "--camera-from"} == named  # --index beside --root
