import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from preloaded import run_python

import t2ireid_plugin
from t2ireid_plugin import run as job
from t2ireid_plugin.cli import _build_parser, _settings, main
from t2ireid_plugin.cli_examples import EXAMPLES
from t2ireid_plugin.data.benchmarks import BENCHMARKS
from t2ireid_plugin.data.dataset import CaptionDataset


@pytest.fixture
def refused(capsys):
    """`refused(words)`: the one-line error of a command that ends with status 2 and without a traceback."""

    def run(words):
        capsys.readouterr()
        assert main(words) == 2
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        lines = [line for line in captured.err.splitlines() if not line.startswith(("[ WARN", "[ERROR"))]  # OpenCV's
        assert len(lines) == 1, captured.err
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")

    return run


# Help

EXAMPLE_LINES = [f"{command} {words}" for command, examples in EXAMPLES.items() for words in examples]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["train", "test", "prepare"]),
        (
            ["train"],
            [
                "--config-file FILE",
                "--eval-only",
                "--resume",
                "KEY VALUE",
                "t2ireid train --config-file t2i_synthetic_cpu",
            ],
        ),
        (["test"], ["--config-file FILE | --recipe NAME", "model.load_weights"]),
        (["prepare"], ["synthetic", "draw synthetic pedestrians"]),
        (["prepare", "synthetic"], ["OUT", "--train-ids", "--photos", "--seed", "(1000)", "--outfits"]),
        (["probe"], ["--config-file FILE", "KEY VALUE", "of drawn people"]),
        (["export"], ["RUN_OR_CHECKPOINT", "model card"]),
        (["ablate"], ["--grid"]),
        (["compare"], ["--samples"]),
        (["serve"], ["INDEX", "--port", "(8000)", "T2IREID_TOKEN"]),
        (["prepare", "table"], ["--val-share"]),
        (["prepare", "check"], ["--max-length"]),
        (["index"], ["t2ireid index build photos"]),
        (["config"], ["KEY VALUE", "t2ireid config --config-file t2i_clip_mamba"]),
    ],
)
def test_help(capsys, words, parts):
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in parts:
        assert part in text


def test_files_in_the_examples_of_the_help_exist(repository):
    for line in EXAMPLE_LINES:
        for option, name in re.findall(r"--(config-file|grid|recipe) (\S+)", line):
            folder = "configs/recipes" if option == "recipe" else "configs"
            assert (repository / folder / f"{name}.yaml").is_file()


def test_an_unknown_recipe_is_answered_with_the_valid_ones(refused):
    assert refused(["test", "--recipe", "ira"]).startswith("recipe: unknown 'ira'; valid: irra, ")


def test_examples_name_the_dataset_that_prepare_table_writes():
    (folder,) = {line.split(" --out ")[1].split()[0] for line in EXAMPLE_LINES if "table" in line and " --out " in line}
    checks = [line for line in EXAMPLE_LINES if f"check {folder}" in line]
    assert checks
    assert all("--dataset custom" in line for line in checks)


@pytest.mark.parametrize("words", [["fly"], ["prepare", "fly"], ["prepare", "synthetic"], ["train", "--fast"]])
def test_a_wrong_command_prints_the_usage_with_status_2(capsys, words):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("usage: t2ireid")


def test_a_wrong_option_prints_the_usage_of_its_command(capsys):
    for words in (["train"], ["prepare", "synthetic", "out"], ["compare", "a", "b"]):
        with pytest.raises(SystemExit) as end:
            main([*words, "--fast"])
        assert end.value.code == 2
        errors = capsys.readouterr().err
        assert errors.startswith(f"usage: t2ireid {' '.join(words[:2] if words[0] == 'prepare' else words[:1])} [")
        assert "unrecognized arguments: --fast" in errors


@pytest.mark.parametrize(("words", "part"), [([], "  train "), (["prepare"], "  synthetic")])
def test_a_group_of_commands_alone_prints_its_help(capsys, words, part):
    assert main(words) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("usage: t2ireid")
    assert part in errors
    assert "examples:" in errors


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"t2ireid {t2ireid_plugin.__version__}\n"


@pytest.mark.parametrize("line", EXAMPLE_LINES)
def test_examples_of_the_help_are_valid_arguments(line):
    options, rest = _build_parser().parse_known_args(shlex.split(line))
    assert hasattr(options, "run")
    assert rest == []


def test_names_after_an_option_of_torchreid_may_have_commas_between_them():
    for words in (["a", "b"], ["a,b"]):
        options = _build_parser().parse_args(["train", "-s", *words, "train.lr", "1"])
        assert _settings(options) == ["data.sources", "a,b", "train.lr", "1"]


@pytest.mark.slow
def test_the_module_of_the_command_line_runs(repository):
    words = [sys.executable, "-m", "t2ireid_plugin.cli", "--version"]
    done = subprocess.run(words, cwd=repository, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"t2ireid {t2ireid_plugin.__version__}\n")


@pytest.mark.slow
def test_the_shell_completes_commands_and_options(tmp_path):
    """As bash calls a program with argcomplete: the line in the environment, answers in a file."""
    for line, answer in (
        ("t2ireid comp", "compare"),
        ("t2ireid train --ov", "--overwrite"),
        ("t2ireid index bu", "build"),
        ("t2ireid train --config-file t2i_froz", "t2i_frozen"),
        ("t2ireid test --recipe irra_t2i", "irra_t2ireid"),
    ):
        file = tmp_path / "answers"
        environment = {"COMP_LINE": line, "COMP_POINT": len(line), "_ARGCOMPLETE": 1}
        environment |= {"_ARGCOMPLETE_STDOUT_FILENAME": file, "_ARGCOMPLETE_IFS": "\n"}
        run_python(["-m", "t2ireid_plugin.cli"], **environment)
        assert file.read_text().strip() == answer


def test_the_installed_command_prints_no_warnings():
    """torchreid would warn of its missing Cython evaluator."""
    script = Path(sysconfig.get_path("scripts")) / "t2ireid"
    done = subprocess.run([script, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: t2ireid")
    assert done.stderr == ""


# prepare


def test_prepare_synthetic_writes_the_requested_numbers(tmp_path):
    options = ["--train-ids", "3", "--val-ids", "2", "--test-ids", "1", "--photos", "2", "--captions", "3"]
    assert main(["prepare", "synthetic", str(tmp_path / "out"), *options]) == 0
    dataset = CaptionDataset(tmp_path / "out", spec=BENCHMARKS["cuhkpedes"])
    for split, ids in (("train", 3), ("val", 2), ("test", 1)):
        assert dataset.counts[split] == (2 * ids, ids, 6 * ids)


WITHOUT_FUSED = ["loss.terms.fused_query.weight", "0"]
SMALL = ["--train-ids", "1", "--val-ids", "1", "--test-ids", "1", "--photos", "1"]


def test_prepare_synthetic_again_changes_nothing(tmp_path, refused, capsys):
    words = ["prepare", "synthetic", str(tmp_path), *SMALL]
    assert main(words) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert "was drawn with other arguments" in refused([*words, "--seed", "5"])


@pytest.mark.parametrize(("option", "value"), [("--photos", "0"), ("--cameras", "99"), ("--seed", "-1")])
def test_prepare_synthetic_refuses_impossible_numbers(tmp_path, refused, option, value):
    message = refused(["prepare", "synthetic", str(tmp_path), *SMALL, option, value])
    assert message.startswith(option[2:])
    assert value in message
    assert list(tmp_path.iterdir()) == []


# Wrong settings: refused before anything is written


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.learning_rate", "1"], "command line: unknown key 'train.learning_rate'"),
        (["train.batch_size", "6"], "train.batch_size: 6 must be a multiple of sampler.num_instances 4"),
        (["model.vit_pretrained", "./gone"], "vit_pretrained: no folder './gone'; it should hold config.json"),
        (["data.root", "/nowhere"], "(looked for reid_raw.json); '/nowhere' does not exist. Put the dataset there"),
        (["--eval-only"], "nothing to test: no checkpoint at"),
        (["--config-file", "gone.yaml"], "no configuration file 'gone.yaml'; `t2ireid configs` lists"),
    ],
)
def test_wrong_settings_are_refused_before_the_folder_is_made(tiny_settings, tmp_path, refused, words, message):
    folder = tmp_path / "log"
    assert message in refused(["train", *tiny_settings(folder), *words])
    assert not folder.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.vit_config.depth", "3"], "vit_pretrained: vit: unknown depth; valid: "),
        (["model.max_length", "500"], "max_length: 500 exceeds the text encoder's 64 positions"),
        (["model.fusion.type", "enhanced_mamba", "model.fusion.dim", "128"], "fusion.dim: 128 must be 256"),
        (["data.combineall", "True"], "data.combineall would train on the test identities"),
        (["train.batch_size", "200"], "data.sources: 24 training identities, but a batch takes 50"),
        (
            ["train.batch_size", "500", "sampler.train_sampler", "RandomSampler", *WITHOUT_FUSED],
            "data.sources: 192 training samples, fewer than train.batch_size 500",
        ),
        (
            ["sampler.train_sampler", "RandomDomainSampler", "sampler.num_cams", "8", *WITHOUT_FUSED],
            "6 cameras, the smallest with 28 training samples, but RandomDomainSampler takes 4 of each of 8",
        ),
        (["train.max_epoch", "0"], "train.max_epoch: 0 leaves nothing to train after 0"),
        (["model.resume", "gone.pth"], "no checkpoint at 'gone.pth'"),
        (["train.fixbase_epoch", "1", "train.open_layers", "fc"], "train.open_layers: no layer 'fc'; valid: "),
    ],
)
def test_settings_that_do_not_fit_model_or_data_are_refused(tiny_settings, tmp_path, refused, words, message):
    assert message in refused(["train", *tiny_settings(tmp_path / "log"), *words])


def test_a_folder_that_cannot_be_created_is_refused(tiny_settings, tmp_path, refused):
    (tmp_path / "file").write_text("")
    assert "data.save_dir: cannot create" in refused(["train", *tiny_settings(tmp_path / "file" / "log")])


def test_broken_and_foreign_weights_are_refused(tiny_settings, tiny_run, tmp_path, refused):
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "cut.pth").write_bytes((tiny_run.folder / "best.pth").read_bytes()[:50_000])
    torch.save({"some.other": torch.zeros(2)}, tmp_path / "foreign.pth")
    for name, reason in (("text", "not a PyTorch"), ("cut", "truncated"), ("foreign", "has no vocabulary")):
        file = tmp_path / f"{name}.pth"
        assert reason in refused(["test", *tiny_settings(tmp_path / "log"), "model.load_weights", str(file)])


def test_resuming_from_weights_alone_is_refused(tiny_settings, tiny_run, tmp_path, refused):
    words = ["train", *tiny_settings(tmp_path / "log"), "model.resume", str(tiny_run.folder / "best.pth")]
    assert "so training cannot be resumed from it; to start from its weights set model.load_weights" in refused(words)


# Wrong data


@pytest.fixture
def with_data(tiny_settings, cuhk, tmp_path):
    """`with_data(**others)`: a command line that trains on the small dataset `cuhk`."""

    def words(**others):
        settings = {"data__root": cuhk.save(), "train__batch_size": 4, "train__max_epoch": 1, **others}
        return ["train", *tiny_settings(tmp_path / "log", **settings)]

    return words


def test_a_term_that_compares_photos_where_everybody_has_one(cuhk, with_data, refused):
    """Its sampler draws the one photo again and again."""
    cuhk.rows = cuhk.rows[::2]
    message = "loss 'fused_query' compares photos of one identity, but no identity of cuhkpedes has two to train on"
    settings = {"sampler__num_instances": 2, "model__fusion__type": "enhanced_mamba"}
    assert message in refused(with_data(**settings, loss__terms__fused_query__weight=0.5))
    assert main(with_data(**settings, loss__terms__fused_query__weight=0)) == 0


def drop_image(cuhk):
    cuhk.image("cam_a/0007_0.png").unlink()


def replace_image(cuhk):
    cuhk.image("cam_a/0007_0.png").write_text("<html>404</html>")


def share_identity(cuhk):
    cuhk.rows[-1]["id"] = 7


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (drop_image, ["missing image", "cam_a/0007_0.png", "reid_raw.json"]),
        (replace_image, ["unreadable image", "cam_a/0007_0.png", "not an image file"]),
        (share_identity, ["identity 7 is in the splits test and train"]),
    ],
)
def test_wrong_data_is_refused(with_data, cuhk, refused, capsys, damage, parts):
    damage(cuhk)
    message = refused(with_data())
    for part in parts:
        assert part in message


# PyTorch waits ten seconds for the worker when it collects the loader of the refused run.
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_truncated_images_are_refused(with_data, cuhk, refused, workers):
    """Their headers are right, so that it shows only when they are decoded, perhaps in a worker process."""
    for row in cuhk.rows[:4]:
        image = cuhk.image(row["file_path"])
        image.write_bytes(image.read_bytes()[:60])
    message = refused(with_data(data__workers=workers))
    assert re.fullmatch(r"unreadable image '.*/cam_[ab]/\d+_\d\.png': damaged, too large or not an image", message)


# Other endings


def test_a_bug_keeps_its_traceback(tiny_settings, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise KeyError("a bug")

    monkeypatch.setattr(job, "run_training", broken)
    with pytest.raises(KeyError, match="a bug"):
        main(["train", *tiny_settings(tmp_path)])


def test_an_interruption_ends_with_status_130(tiny_settings, tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "run_training", interrupted)
    assert main(["train", *tiny_settings(tmp_path)]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_test_equals_train_with_eval_only(tiny_settings, tiny_run, tmp_path, capsys):
    shutil.copy(tiny_run.folder / "best.pth", tmp_path / "best.pth")
    assert main(["test", *tiny_settings(tmp_path, full=True)]) == 0
    printed = capsys.readouterr().out
    assert f"Testing '{tmp_path / 'best.pth'}'" in printed
    assert not (tmp_path / "last.pth").exists()
    table = [line for line in tiny_run.printed.splitlines() if line.startswith("cuhkpedes  ")]
    assert table
    assert table[0] in printed
