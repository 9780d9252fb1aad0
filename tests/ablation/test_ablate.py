"""``t2ireid ablate`` on tiny trainings."""

import contextlib
import io
import json
import os
import signal
import time

import numpy as np
import pytest
import yaml
from PIL import Image
from preloaded import Preloaded

from t2ireid_plugin.ablation.grid import Run
from t2ireid_plugin.ablation.report import write_report
from t2ireid_plugin.ablation.runs import is_probed
from t2ireid_plugin.cli import main
from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.evaluation.bootstrap import paired_difference
from t2ireid_plugin.evaluation.query_records import load_records
from t2ireid_plugin.evaluation.result import CHOSEN_ON_TEST
from t2ireid_plugin.modeling.checkpoint import read_checkpoint
from t2ireid_plugin.synthetic import write_synthetic
from t2ireid_plugin.utils.file_lock import lock_folder

GRID = {
    "baseline": "plain",
    "rows": {"plain": {}, "hot": {"train": {"lr": 0.01}, "test": {"protocols": ["t2i", "identity"]}}},
}

pytestmark = pytest.mark.usefixtures("preloaded_trainings")


@pytest.fixture(scope="module")
def words(tiny_settings, tmp_path_factory):
    """`words(out, *more)`: a command line over the tiny settings."""
    folder = tmp_path_factory.mktemp("grid")
    _, config, *opts = tiny_settings(folder / "unused", train__max_epoch=1)
    (folder / "grid.yaml").write_text(yaml.safe_dump(GRID, sort_keys=False))

    def words(out, *more, grid=folder / "grid.yaml"):
        options = ["--config-file", config, "--grid", grid, "--out", out, "--seeds", 1, 2, "--jobs", 1, *more]
        return list(map(str, [*options, "--opts", *opts]))

    return words


@pytest.fixture(scope="module")
def finished(words, preloaded_trainings, tmp_path_factory):
    """A finished grid: its folder, what it printed on both streams, and the report."""
    out = tmp_path_factory.mktemp("ablation") / "out"
    printed, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        assert main(["ablate", *words(out)]) == 0, errors.getvalue()
    return out, (printed.getvalue(), errors.getvalue()), json.loads((out / "ablation.json").read_text())


def results(out, row):
    """The results of both seeds on the official target."""
    files = [out / row / f"seed{seed}" / "results.json" for seed in (1, 2)]
    return [json.loads(file.read_text())["metrics"]["cuhkpedes"] for file in files]


def written(out):
    return {file: file.stat().st_mtime_ns for file in out.rglob("best.pth")}


@pytest.mark.slow
def test_every_row_and_seed_is_trained_and_in_the_tables(finished):
    out, (printed, errors), report = finished
    assert [(row["row"], row["seeds"]) for row in report["rows"]] == [("plain", [1, 2]), ("hot", [1, 2])]
    assert "training: 4 of 4" in errors
    for row in report["rows"]:
        for metric in ("R@1", "mAP"):
            values = [metrics["t2i"][metric] for metrics in results(out, row["row"])]
            assert row["metrics"][metric]["values"] == values
            assert row["metrics"][metric]["mean"] == pytest.approx(np.mean(values))
            assert row["metrics"][metric]["sd"] == pytest.approx(np.std(values, ddof=1))
    (other,) = report["protocols"]  # of the only row that has others than the official one
    assert (other["row"], report["probes"]) == ("hot", [])
    assert other["identity R@1"]["values"] == [metrics["identity"]["R@1"] for metrics in results(out, "hot")]
    tables = (out / "ablation.md").read_text()
    assert set(tables.splitlines()) <= set(printed.splitlines())
    firsts = [[line.split("|")[1].strip() for line in table.splitlines()] for table in tables.split("\n\n")]
    assert firsts == [["recipe", "---", "plain", "hot"], ["recipe", "---", "hot"]]
    with Image.open(out / "ablation.png") as picture:
        assert picture.width > picture.height > 50


def test_rows_whose_epoch_the_test_set_chose_are_marked(tmp_path):
    spread = {"mean": 0.5, "sd": None, "values": [0.5]}
    row = {"row": "a", "protocol": "t2i", "seeds": [1], "metrics": {"R@1": spread, "mAP": spread}, "differences": None}
    row |= {"seconds": 1.0, "parameters": {"trained": 10**6}}
    text = write_report([row], {}, tmp_path, {"chosen_on_test": ["a"]})
    assert text.splitlines()[-1] == f"a: {CHOSEN_ON_TEST}"


@pytest.mark.slow
def test_differences_compare_the_same_seeds(finished):
    out, _, report = finished
    plain, hot = (
        [load_records(out / name / f"seed{s}" / "queries_cuhkpedes.npz")["t2i"] for s in (1, 2)]
        for name in ("plain", "hot")
    )
    singles = [paired_difference([a], [b]) for a, b in zip(plain, hot, strict=True)]
    for metric in ("R@1", "mAP"):
        difference = report["rows"][1]["differences"][metric]
        value = difference["b"] - difference["a"]
        assert value == pytest.approx(np.mean([single[metric].value for single in singles]))
        assert difference["low"] <= value <= difference["high"]


@pytest.mark.slow
def test_finished_runs_are_skipped_and_probed_on_people_who_change_clothes(
    finished, words, synthetic, tmp_path, capsys
):
    out, *_ = finished
    counts = {name: getattr(synthetic, name) for name in ("train_ids", "val_ids", "photos", "captions")}
    write_synthetic(tmp_path, **counts, test_ids=20, outfits=2, progress=False)
    before = written(out)
    (out / "plain" / "seed2" / "results.json").unlink()  # as if it had been interrupted at the end
    command = ["ablate", *words(out, "--rows", "plain", "--probe", "data.root", tmp_path)]
    assert main(command) == 0
    assert {file for file, time in written(out).items() if before[file] != time} <= {out / "plain/seed2/best.pth"}
    assert (out / "plain" / "seed2" / "results.json").is_file()
    probes = json.loads((out / "ablation.json").read_text())["probes"]
    assert [(row["row"], row["seeds"]) for row in probes] == [("plain", [1, 2])]
    for row in probes:
        files = [out / row["row"] / f"seed{seed}" / "probes_cuhkpedes.json" for seed in (1, 2)]
        runs = [json.loads(file.read_text()) for file in files]
        above = [run["probes"]["means"]["cloth_embeds"]["clothing"]["above_chance"] for run in runs]
        assert row["clothing from cloth_embeds"]["values"] == above
        for name in ("R@1", "mAP"):
            mean = np.mean([run["outfits"]["i2i_other_outfit"][name] for run in runs])
            assert row[f"i2i_other_outfit {name}"]["mean"] == pytest.approx(mean)
    assert "\n| recipe | seeds | identity from id_embeds |" in capsys.readouterr().out
    assert main(command) == 0
    assert "2 of 2 runs are done already" in capsys.readouterr().err
    folder = out / "plain" / "seed1"
    run = Run("plain", 1, folder, load_cfg(folder / "recipe.yaml"))
    assert is_probed(run, ["data.root", str(tmp_path)])
    assert not is_probed(run, ["data.root", "elsewhere"])
    trained = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps({**trained, "weights": "others"}))  # as if trained again
    assert not is_probed(run, ["data.root", str(tmp_path)])


@pytest.mark.slow
def test_other_settings_need_another_folder(finished, words, capsys):
    out, *_ = finished
    assert main(["ablate", *words(out), "train.lr", "0.5"]) == 2
    assert "contains a run with other settings" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_ablation_ends_its_runs_and_the_next_one_resumes_and_saves_them(words, tmp_path, capsys):
    """Two runs at once; the next ablation is interrupted."""
    out = tmp_path / "out"
    command = ["ablate", *words(out, "--jobs", 2), "train.max_epoch", "10000", "train.save_steps", "1"]
    runs = [out / row / "seed1" for row in ("plain", "hot")]
    until = time.monotonic() + 900

    def start(condition):
        ablate = Preloaded(["tools/ablate.py", *command[1:]])
        while not all(condition(run) for run in runs):
            assert ablate.poll() is None, ablate.finish()
            assert time.monotonic() < until
            time.sleep(0.1)
        return ablate

    def is_free(run):
        try:
            with lock_folder(run):
                return True
        except ConfigError:
            return False

    first = start(lambda run: (run / "last.prev.pth").is_file())
    assert main(command) == 2  # two at once
    assert f"--out: another run is writing to '{out}' (process {first.pid} on " in capsys.readouterr().err
    first.kill()
    while not all(map(is_free, runs)):
        assert time.monotonic() < until
        time.sleep(0.1)
    second = start(lambda run: "Resuming" in (run / "console.txt").read_text())
    os.kill(second.pid, signal.SIGINT)
    done = second.finish()
    assert done.returncode == 130, done
    assert done.stderr.rstrip().endswith("stopped by SIGINT")
    for run in runs:
        console = (run / "console.txt").read_text()
        assert "\0" not in console
        assert console.count("Resuming") == 1
        assert console.rstrip().endswith("stopped by SIGTERM")
        assert is_free(run)
        assert read_checkpoint(run / "last.pth")["steps"] > 0
    assert not (out / "plain" / "seed2").exists()


def test_an_out_that_cannot_be_written_is_an_error(words, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["ablate", *words(tmp_path / "file" / "out")]) == 2
    assert f"error: --out: cannot create '{tmp_path}/file/out' (Not a directory)" in capsys.readouterr().err


@pytest.mark.slow
def test_a_failed_run_is_reported_after_the_others(finished, words, tmp_path, capsys):
    out, *_ = finished
    rows = {"broken": {"train": {"lr": 1e30, "clip_grad": 0.0}}, "plain": {}}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"rows": rows}, sort_keys=False))
    assert main(["ablate", *words(out, "--seeds", 1, grid=tmp_path / "grid.yaml")]) == 2
    captured = capsys.readouterr()
    assert "1 of 1 runs failed" in captured.err
    assert "broken, seed 1: status 2, error: the loss became" in captured.err
    assert "| plain | 1 |" in captured.out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rows", "none"], "unknown 'none'; valid: plain, hot"),
        (["--jobs", "0"], "--jobs: 0 must be at least 1"),
        (["--target", "rstpreid"], "--target: unknown 'rstpreid'; valid: cuhkpedes"),
    ],
)
def test_bad_options_stop_before_any_training(words, tmp_path, capsys, more, message):
    assert main(["ablate", *words(tmp_path / "out", *more)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_invalid_row_stops_before_any_training(words, tmp_path, capsys):
    (tmp_path / "grid.yaml").write_text("rows: {plain: {}, odd: {model: {disentangle: {tokens: some}}}}")
    assert main(["ablate", *words(tmp_path / "out", grid=tmp_path / "grid.yaml")]) == 2
    assert "row 'odd': disentangle.tokens: unknown 'some'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
