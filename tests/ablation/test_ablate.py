"""The command, on tiny trainings."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from PIL import Image

from t2ireid_plugin.ablation.grid import Run
from t2ireid_plugin.ablation.runs import is_probed
from t2ireid_plugin.cli import main
from t2ireid_plugin.engine.training_state import read_checkpoint
from t2ireid_plugin.evaluation.bootstrap import paired_difference
from t2ireid_plugin.evaluation.query_records import load_records
from t2ireid_plugin.synthetic import write_synthetic
from t2ireid_plugin.utils.file_lock import lock_folder

GRID = {"baseline": "plain", "rows": {"plain": {}, "hot": {"train": {"lr": 0.01}}}}


@pytest.fixture(scope="module")
def words(tiny_settings, tmp_path_factory):
    """`words(out, *more)`: a command line over the tiny settings."""
    folder = tmp_path_factory.mktemp("grid")
    settings = tiny_settings(folder / "unused", train__max_epoch=1)
    (folder / "grid.yaml").write_text(yaml.safe_dump(GRID, sort_keys=False))
    config, opts = settings[1], settings[2:]

    def words(out, *more, grid=folder / "grid.yaml"):
        options = ["--config-file", config, "--grid", grid, "--out", out, "--seeds", 1, 2, *more, "--opts", *opts]
        return list(map(str, options))

    return words


@pytest.fixture(scope="module")
def finished(words, repository, tmp_path_factory):
    out = tmp_path_factory.mktemp("ablation") / "out"
    command = [sys.executable, "tools/ablate.py", *words(out, "--jobs", 2)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done


def test_every_row_and_seed_is_trained_and_in_the_table(finished):
    out, done = finished
    report = json.loads((out / "ablation.json").read_text())
    assert [(row["row"], row["seeds"]) for row in report["rows"]] == [("plain", [1, 2]), ("hot", [1, 2])]
    table = (out / "ablation.md").read_text().splitlines()
    assert set(table) <= set(done.stdout.splitlines())
    assert [line.split("|")[1].strip() for line in table] == ["recipe", "---", "plain", "hot"]
    assert "training: 4 of 4" in done.stderr
    for row in report["rows"]:
        for metric in ("R@1", "mAP"):
            runs = [json.loads((out / row["row"] / f"seed{seed}" / "results.json").read_text()) for seed in (1, 2)]
            values = [run["metrics"]["cuhkpedes"]["t2i"][metric] for run in runs]
            assert row["metrics"][metric]["values"] == values
            assert row["metrics"][metric]["mean"] == pytest.approx(np.mean(values))
            assert row["metrics"][metric]["sd"] == pytest.approx(np.std(values, ddof=1))
    assert report["protocols"] == report["probes"] == []  # the official protocol alone, nothing probed
    with Image.open(out / "ablation.png") as picture:
        assert picture.width > picture.height > 50


def test_the_difference_is_of_the_same_seeds(finished):
    out, _ = finished
    row = json.loads((out / "ablation.json").read_text())["rows"][1]
    plain, hot = (
        [load_records(out / name / f"seed{s}" / "queries_cuhkpedes.npz").protocols["t2i"] for s in (1, 2)]
        for name in ("plain", "hot")
    )
    singles = [paired_difference(a.scores, b.scores, a.pid) for a, b in zip(plain, hot, strict=True)]
    for metric in ("R@1", "mAP"):
        found = row["differences"][metric]
        assert found["b"] - found["a"] == pytest.approx(np.mean([single[metric].value for single in singles]))
        assert found["low"] <= found["b"] - found["a"] <= found["high"]


def test_what_is_done_is_not_done_again(finished, words, capsys):
    out, _ = finished
    before = {file: file.stat().st_mtime_ns for file in out.rglob("best.pth")}
    (out / "hot" / "seed2" / "results.json").unlink()
    assert main(["ablate", *words(out)]) == 0
    captured = capsys.readouterr()
    assert "3 of 4 runs are done already" in captured.err
    assert (out / "hot" / "seed2" / "results.json").is_file()
    after = {file: file.stat().st_mtime_ns for file in out.rglob("best.pth")}
    assert {file for file in before if after[file] == before[file]} >= {f for f in before if "hot/seed2" not in str(f)}


def test_runs_are_probed_on_people_who_change_clothes(finished, words, synthetic, tmp_path, capsys):
    out, _ = finished
    counts = {name: getattr(synthetic, name) for name in ("train_ids", "val_ids", "photos", "captions")}
    write_synthetic(tmp_path, **counts, test_ids=20, outfits=2, progress=False)
    before = {file: file.stat().st_mtime_ns for file in out.rglob("best.pth")}
    assert main(["ablate", *words(out, "--probe", "data.root", tmp_path)]) == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before  # what was trained is only probed
    report = json.loads((out / "ablation.json").read_text())
    assert [(row["row"], row["seeds"]) for row in report["probes"]] == [("plain", [1, 2]), ("hot", [1, 2])]
    for row in report["probes"]:
        files = [out / row["row"] / f"seed{seed}" / "probes_cuhkpedes.json" for seed in (1, 2)]
        probes = [json.loads(file.read_text()) for file in files]
        read = [probe["probes"]["means"]["cloth_embeds"]["clothing"]["above_chance"] for probe in probes]
        assert row["clothing from cloth_embeds"]["values"] == read
        for name in ("R@1", "mAP"):
            assert row[f"i2i_other_outfit {name}"]["mean"] == pytest.approx(
                np.mean([probe["outfits"]["i2i_other_outfit"][name] for probe in probes])
            )
    first, second = (out / "ablation.md").read_text().strip().split("\n\n")
    assert first.startswith("| recipe | seeds | R@1 |")
    assert second.startswith("| recipe | seeds | identity from id_embeds |")
    assert second in capsys.readouterr().out
    assert main(["ablate", *words(out, "--probe", "data.root", tmp_path)]) == 0
    assert "4 of 4 runs are done already" in capsys.readouterr().err
    folder = out / "plain" / "seed1"
    run = Run("plain", 1, folder, (folder / "recipe.yaml").read_text())
    assert is_probed(run, ["data.root", str(tmp_path)])
    assert not is_probed(run, ["data.root", "elsewhere"])
    later = (folder / "probes_cuhkpedes.json").stat().st_mtime + 1
    os.utime(folder / "results.json", (later, later))  # as if it had been trained again
    assert not is_probed(run, ["data.root", str(tmp_path)])


def test_other_protocols_have_a_table(words, tmp_path, capsys):
    out = tmp_path / "out"
    grid = tmp_path / "grid.yaml"
    grid.write_text("rows: {plain: {test: {protocols: [t2i, identity, both]}}}")
    assert main(["ablate", *words(out, "--seeds", 1, grid=grid)]) == 0
    metrics = json.loads((out / "plain" / "seed1" / "results.json").read_text())["metrics"]["cuhkpedes"]
    (row,) = json.loads((out / "ablation.json").read_text())["protocols"]
    for name in ("identity", "both"):
        assert row[f"{name} R@1"]["values"] == [metrics[name]["R@1"]]
    assert "| recipe | seeds | identity R@1 | both R@1 |" in capsys.readouterr().out


def test_other_settings_need_another_folder(finished, words, capsys):
    out, _ = finished
    assert main(["ablate", *words(out), "train.lr", "0.5"]) == 2
    assert "holds a run with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_end_reaches_the_runs(words, repository, tmp_path, number, status):
    out = tmp_path / "out"
    command = [sys.executable, "tools/ablate.py", *words(out, "--jobs", 2), "train.max_epoch", "10000"]
    ablate = subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    runs = [out / row / "seed1" for row in ("plain", "hot")]
    until = time.monotonic() + 600
    while not all((run / "last.prev.pth").is_file() for run in runs):
        assert ablate.poll() is None, ablate.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.1)
    ablate.send_signal(number)
    told, _ = ablate.communicate(timeout=600)
    assert ablate.returncode == status, told
    assert told.rstrip().endswith(f"stopped by {number.name}")
    for run in runs:
        assert (run / "console.txt").read_text().rstrip().endswith("stopped by SIGTERM")
        with lock_folder(run):  # nobody is in it any more
            assert read_checkpoint(run / "last.pth")["steps"] > 0
    assert not (out / "plain" / "seed2").exists()


def test_a_failed_run_is_told_after_the_others(words, tmp_path, capsys):
    (tmp_path / "grid.yaml").write_text(
        yaml.safe_dump({"rows": {"broken": {"train": {"lr": 1e30, "clip_grad": 0.0}}, "plain": {}}}, sort_keys=False)
    )
    arguments = words(tmp_path / "out", "--seeds", 1, grid=tmp_path / "grid.yaml")
    assert main(["ablate", *arguments]) == 2
    captured = capsys.readouterr()
    assert "1 of 2 runs failed" in captured.err
    assert "broken, seed 1: status 2, error: the loss became" in captured.err
    assert "| plain | 1 |" in captured.out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rows", "none"], "no row 'none'"),
        (["--jobs", "0"], "--jobs: 0 must be at least 1"),
        (["--target", "rstpreid"], "--target rstpreid: the runs' targets are cuhkpedes"),
    ],
)
def test_bad_options(finished, words, capsys, more, message):
    out, _ = finished
    assert main(["ablate", *words(out, *more)]) == 2
    assert message in capsys.readouterr().err


def test_a_row_that_cannot_work_stops_before_any_training(words, tmp_path, capsys):
    (tmp_path / "grid.yaml").write_text("rows: {plain: {}, odd: {model: {disentangle: {tokens: some}}}}")
    assert main(["ablate", *words(tmp_path / "out", grid=tmp_path / "grid.yaml")]) == 2
    assert "row 'odd': disentangle.tokens: unknown 'some'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
