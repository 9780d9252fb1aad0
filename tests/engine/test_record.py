"""A run is one thing: it is not overwritten, its checkpoint describes it, and its figures belong to its weights."""

import hashlib
import json
import re
import shutil
import stat

import numpy as np
import pytest
import torch
import yaml
from states import largest_file, saved

from t2ireid_plugin.cli import main
from t2ireid_plugin.config import load_cfg, to_dict
from t2ireid_plugin.engine.record import check_same_settings
from t2ireid_plugin.errors import CheckpointError
from t2ireid_plugin.integrations.huggingface import T2IReIDForRetrieval
from t2ireid_plugin.modeling.checkpoint import Checkpoint, read_state_dict, weights_digest
from t2ireid_plugin.modeling.stored import read_stored
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel

# A run whose settings were typed: each of them changes the metrics of its own weights.
TYPED = {
    "model__vit_config__image_size": 32,
    "data__height": 48,
    "data__norm_mean": "[0.1, 0.2, 0.3]",
    "model__max_length": 9,
    "model__disentangle__tokens": "mean",
    "test__protocols": "[t2i, both]",
}


def contents(folder):
    """Digest of each file in a folder, by its path."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def results(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def run(tiny_settings, tmp_path_factory):
    """The folder of a run with typed settings; nothing may write into it."""
    folder = tmp_path_factory.mktemp("typed") / "log"
    assert main(["train", *tiny_settings(folder, **TYPED)]) == 0
    return folder


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run, elsewhere."""
    return shutil.copytree(run, tmp_path / "copy")


@pytest.fixture
def refused(capsys):
    """`refused(words)`: the one line of the error that the command ends with."""

    def message(words):
        capsys.readouterr()
        assert main([*map(str, words)]) == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        return error.strip().splitlines()[-1]

    return message


# Starting over a run


@pytest.mark.parametrize("left", ["last.pth", "last.prev.pth", "best.pth", "results.json"])
def test_a_run_is_not_overwritten(copy, left, tiny_settings, refused):
    for path in copy.iterdir():
        if path.is_file() and path.name != left:
            path.unlink()
    before = contents(copy)
    message = refused(["train", *tiny_settings(copy, **TYPED)])
    advice = "holds a run; --resume continues it, --overwrite starts again, or choose another data.save_dir"
    assert message == f"error: '{copy}' {advice}"
    assert contents(copy) == before


def test_overwrite_replaces_everything_of_the_run_and_nothing_else(copy, run, tiny_settings):
    for name in ("queries_old.npz", "ranked_old.png", "probes_old.json", "events.out.tfevents.1", "notes.txt"):
        (copy / name).write_text("")
    for name in ("test/old/test.log", "visualize_old/report.html", "test/mine/data.txt", "visualize_mine/x.png"):
        (copy / name).parent.mkdir(parents=True)
        (copy / name).write_text("")
    assert main(["train", "--overwrite", *tiny_settings(copy, **TYPED)]) == 0
    assert results(copy)["metrics"] == results(run)["metrics"]
    events = {path.name for path in copy.glob("events*")}
    expected = {path.name for path in run.iterdir() if not path.name.startswith("events")}
    expected |= {"notes.txt", "test", "visualize_mine"}
    assert {path.name for path in copy.iterdir()} - events == expected
    assert "events.out.tfevents.1" not in events
    assert [path.name for path in (copy / "test").iterdir()] == ["mine"]


@pytest.mark.parametrize("setting", [["train.batch_size", "4000"], ["model.load_weights", "gone.pth"]])
def test_a_run_is_replaced_only_when_the_new_one_can_start(copy, tiny_settings, refused, setting):
    before = contents(copy)
    refused(["train", "--overwrite", *tiny_settings(copy, **TYPED), *setting])
    after = contents(copy)
    assert {**after, "train.log": ""} == {**before, "train.log": ""}  # which has the error


def test_a_refused_resume_changes_nothing(copy, tiny_settings, refused):
    (copy / "results.json").unlink()
    before = contents(copy)
    assert "was trained with train.lr 0.001, now it is 0.5" in refused(
        ["train", "--resume", *tiny_settings(copy, **TYPED, train__lr=0.5)]
    )
    assert {**contents(copy), "train.log": ""} == {**before, "train.log": ""}


def test_the_weights_to_start_from_may_be_those_of_the_run_to_replace(copy, tiny_settings):
    words = tiny_settings(copy, **TYPED, train__lr=0, model__load_weights=copy / "best.pth")
    assert main(["train", "--overwrite", *words]) == 0


def test_resume_of_a_finished_run_says_so(copy, tiny_settings, refused, capsys):
    before = contents(copy)
    message = refused(["train", "--resume", *tiny_settings(copy, **TYPED, train__lr=0.5)])
    assert "was trained with train.lr 0.001, now it is 0.5" in message
    assert main(["train", "--resume", *tiny_settings(copy, **TYPED)]) == 0
    assert f"The run in '{copy}' is finished; its results are in '{copy / 'results.json'}'" in capsys.readouterr().out
    assert contents(copy) == before


def test_resume_into_a_folder_with_another_run_is_refused(copy, run, tiny_settings, refused):
    before = contents(copy)
    words = ["train", *tiny_settings(copy, **TYPED), "model.resume", run / "last.pth"]
    assert "holds a run; --overwrite starts again" in refused(words)
    assert contents(copy) == before


def test_the_best_weights_of_another_training_are_not_tested(build, tiny_run, tmp_path):
    """A file that was copied into the run's folder."""
    engine = build(train__max_epoch=1)
    engine.run(save_dir=str(tmp_path), max_epoch=1, eval_freq=1)
    shutil.copy(tiny_run.folder / "best.pth", tmp_path / "best.pth")
    with pytest.raises(CheckpointError, match=r"best\.pth' was trained with .*, now it is "):
        engine.load_chosen(tmp_path / "best.pth")


def test_a_damaged_results_file_is_none(copy, tiny_settings):
    (copy / "results.json").write_text("{")
    assert main(["export", str(copy), str(copy.parent / "out")]) == 0
    assert "No results are available" in (copy.parent / "out" / "README.md").read_text()
    assert main(["train", "--resume", *tiny_settings(copy, **TYPED)]) == 0
    assert results(copy)["metrics"]


def test_a_fine_tuned_run_is_resumed_without_the_weights_and_folders_it_started_from(
    run, encoders, tiny_settings, synthetic, tmp_path, capsys
):
    """Its vocabulary and size are those of the weights; pretrained encoders are described by the checkpoint."""
    start = shutil.copy(run / "best.pth", tmp_path / "start.pth")
    typed = {name: value for name, value in TYPED.items() if "norm" not in name}
    for name, settings in (
        ("weights", {**typed, "model__load_weights": start, "model__bert_config__vocab_size": 300}),
        ("folders", {"model__vit_pretrained": tmp_path / "vit", "model__bert_base_path": tmp_path / "bert"}),
    ):
        for kind in ("vit", "bert"):
            shutil.copytree(getattr(encoders, kind), tmp_path / kind, dirs_exist_ok=True)
        sizes = {"data__height": 32, "data__width": 32} if name == "folders" else {}
        words = tiny_settings(tmp_path / name, **{**settings, **sizes})
        assert main(["train", *words]) == 0
        expected = results(tmp_path / name)["metrics"]
        (tmp_path / name / "results.json").unlink()  # as if killed during the final test
        for path in (start, tmp_path / "vit", tmp_path / "bert"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert main(["train", "--resume", *words]) == 0, capsys.readouterr().err
        assert results(tmp_path / name)["metrics"] == expected
        shutil.copy(run / "best.pth", start)


# A run describes itself


def test_a_test_without_the_typed_settings_gives_the_runs_own_figures(run, tiny_settings, synthetic, tmp_path):
    """From the run alone, from its moved checkpoint alone, and with a configuration file that has other values."""
    moved = tmp_path / "elsewhere" / "best.pth"
    moved.parent.mkdir()
    shutil.copy(run / "best.pth", moved)
    others = tiny_settings(tmp_path / "log")  # without TYPED; a file, as typed settings would count
    config = tmp_path / "others.yaml"
    pairs = dict(zip(others[2::2], others[3::2]))
    pairs |= {"model.load_weights": str(run / "best.pth"), "test.protocols": "[t2i, both]"}
    tables = {}
    for name, value in pairs.items():
        table = tables
        for part in name.split(".")[:-1]:
            table = table.setdefault(part, {})
        table[name.split(".")[-1]] = json.loads(value) if value[0] == "[" and "t2i" not in value else value
    tables["test"]["protocols"] = ["t2i", "both"]
    tables["model"]["vit_config"]["layer_norm_eps"] = 0.5
    config.write_text(json.dumps({**tables, "_BASE_": others[1]}))
    folder = "test/cuhkpedes/results.json"
    for words, file in (
        ([run, "data.save_dir", tmp_path / "a"], tmp_path / "a" / folder),
        ([moved], moved.parent / folder),
        (["--config-file", config], tmp_path / "log" / folder),
    ):
        assert main(["test", *map(str, words)]) == 0
        tested, expected = json.loads(file.read_text()), results(run)
        assert tested["metrics"] == expected["metrics"]
        assert tested["weights"] == expected["weights"]
        assert tested["changed"] == {}


def test_a_typed_value_that_differs_is_used_named_and_recorded(copy, run):
    assert main(["test", str(copy), "data.height", "32", "data.width", "16", "model.max_length", "9"]) == 0
    tested = results(copy / "test" / "cuhkpedes")
    assert tested["changed"] == {"data.height": {"trained": 48, "tested": 32}}
    assert tested["metrics"] != results(run)["metrics"]
    log = (copy / "test" / "cuhkpedes" / "test.log").read_text()
    assert "WARNING data.height: tested with 32, but trained with 48" in log
    assert log.count("tested with") == 1
    assert "Images at 32x16" in log


def test_an_export_tested_with_a_configuration_file_gives_the_runs_own_figures(run, tiny_settings, tmp_path):
    assert main(["export", str(run), str(tmp_path / "out")]) == 0
    words = tiny_settings(tmp_path / "log", model__vit_config__image_size=32, test__protocols="[t2i, both]")
    config = tmp_path / "other.yaml"
    config.write_text(yaml.safe_dump(to_dict(load_cfg(words[1], words[2:]))))
    weights = ["model.load_weights", str(tmp_path / "out" / "model.safetensors")]
    assert main(["test", "--config-file", str(config), *weights]) == 0
    tested = results(tmp_path / "log" / "test" / "cuhkpedes")
    assert (tested["metrics"], tested["changed"]) == (results(run)["metrics"], {})


def test_a_test_of_the_last_weights_has_not_the_figures_of_the_chosen_ones(tiny_run, tmp_path):
    """The epoch alone is known of weights that val did not choose."""
    content = saved(tiny_run.folder)
    content["best"]["weights"] = "of another epoch"
    torch.save(content, tmp_path / "last.pth")
    assert main(["test", str(tmp_path / "last.pth"), "test.pictures", "0", "test.bootstrap", "0"]) == 0
    assert results(tmp_path / "test" / "cuhkpedes")["chosen"] == {"epoch": content["epoch"]}


def test_a_run_is_found_by_its_name_and_its_place(run, tmp_path, monkeypatch, refused):
    """A folder that begins like a setting, a list of names before it, and another working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "data.v2")
    shutil.copytree(run, tmp_path / "log" / "x")
    for words in (["data.v2"], ["-t", "cuhkpedes", "log/x/"], ["log/x", "--visualize", "test.pictures", "1"]):
        assert main(["test", *words]) == 0
    for folder in ("data.v2", "log/x"):
        assert results(tmp_path / folder / "test" / "cuhkpedes")["metrics"] == results(run)["metrics"]
    message = refused(["test", "data.v2", "model.load_weights", "log/x/best.pth"])
    assert "another checkpoint than 'data.v2' is to be tested; name one of them" in message


def test_a_relative_root_is_that_of_the_training(tiny_settings, synthetic, tmp_path, monkeypatch):
    (tmp_path / "data").symlink_to(synthetic.root)
    monkeypatch.chdir(tmp_path)
    assert main(["train", *tiny_settings("log", data__root="data")]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["test", "../log"]) == 0
    assert results(tmp_path / "log" / "test" / "cuhkpedes")["metrics"] == results(tmp_path / "log")["metrics"]


def test_load_param_refuses_another_pooling(run, build):
    with pytest.raises(CheckpointError, match=r"was trained with disentangle .*'mean'.*but the model has .*'all'"):
        build(model__vit_config__image_size=32).model.load_param(run / "best.pth")


def test_a_checkpoint_from_before_a_setting_had_its_default(run, copy, build):
    """`pool` and `cross` came later: a file without them is of the specification's module, and resumes as such."""
    content = saved(run, "last.pth")
    described = json.loads(content["net_config"])
    for table in (described["disentangle"], content["config"]["model"]["disentangle"]):
        for name in ("pool", "stripes", "cross"):
            del table[name]
    del described["projection_dropout"], content["config"]["model"]["projection_dropout"]
    torch.save({**content, "net_config": json.dumps(described)}, copy / "last.pth")
    old, settings = Checkpoint.read(copy / "last.pth"), content["config"]
    model = T2IReIDModel.from_checkpoint(copy / "last.pth")
    assert (model.disentangle.pool, model.disentangle.cross) == ("mean", "other")
    assert model.image_mlp[2].p == model.text_mlp[6].p == 0.2
    check_same_settings(old, Checkpoint.read(run / "last.pth").content["config"])
    settings["model"]["disentangle"]["pool"] = "attention"
    with pytest.raises(CheckpointError, match=r"with model\.disentangle\.pool 'mean', now it is 'attention'"):
        check_same_settings(old, settings)
    other = build(model__disentangle__tokens="window", model__disentangle__pool="attention").model
    with pytest.raises(CheckpointError, match=r"trained with disentangle .*'mean'.*but the model has .*'attention'"):
        other.load_param(copy / "last.pth")


def test_tests_leave_the_run_as_it_is(copy):
    before = contents(copy)
    assert main(["test", str(copy), "test.protocols", "[t2i, i2t]"]) == 0
    assert main(["export", str(copy), str(copy.parent / "out")]) == 0
    after = contents(copy)
    added = {"results.json", "config.yaml", "env.txt", "test.log", "queries_cuhkpedes.npz"}
    assert set(after) - set(before) == {f"test/cuhkpedes/{name}" for name in added}
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("command", ["test", "probe", "export"])
def test_weights_without_a_record_need_a_configuration(run, tmp_path, refused, command):
    torch.save(saved(run, "best.pth")["state_dict"], tmp_path / "bare.pth")
    more = [tmp_path / "out"] if command == "export" else []
    assert "has no settings of a run; name them with --config-file" in refused([command, tmp_path / "bare.pth", *more])
    assert "no" in refused([command, tmp_path / "nowhere", *more])
    assert not (tmp_path / "out").exists()


def test_classes_and_load_param_take_over_what_a_checkpoint_says(run, tiny_settings, build, synthetic):
    whole = T2IReIDModel.from_checkpoint(run / "best.pth")
    assert whole.preprocess[:3] == (48, 16, (0.1, 0.2, 0.3))
    assert whole.text_cache.max_length == 9
    rows = json.loads((synthetic.root / "CUHK-PEDES" / "reid_raw.json").read_text())
    people = sorted({row["id"] for row in rows if row["split"] == "train"})
    assert list(whole.classes) == [f"cuhkpedes:{pid}" for pid in people]
    other = build(
        model__disentangle__tokens="mean", model__vit_config__image_size=32
    ).model.eval()  # 32 x 16 pixels, 64 tokens
    other.load_param(run / "best.pth")
    assert (other.preprocess, other.text_cache.max_length) == (whole.preprocess, 9)
    captions = rows[0]["captions"]
    image = torch.rand(2, 3, 48, 16)
    with torch.no_grad():
        assert torch.equal(other.encode_text(captions), whole.encode_text(captions))
        assert torch.equal(other.encode_image(image), whole.encode_image(image))


def test_people_held_out_by_another_seed_are_not_tested(synthetic, tiny_settings, tmp_path, refused):
    """A set without a val split; some of the others were trained on."""
    folder = tmp_path / "data" / "ICFG-PEDES"
    folder.mkdir(parents=True)
    rows = json.loads((synthetic.root / "CUHK-PEDES" / "reid_raw.json").read_text())
    (folder / "ICFG-PEDES.json").write_text(json.dumps([row for row in rows if row["split"] != "val"]))
    (folder / "imgs").symlink_to(synthetic.root / "CUHK-PEDES" / "imgs")
    settings = {"data__root": folder.parent, "data__sources": "icfgpedes", "data__targets": "icfgpedes"}
    words = tiny_settings(tmp_path / "log", **settings, data__val_share=0.25, data__val_seed=3, train__batch_size=16)
    assert main(["train", *words]) == 0
    val = results(tmp_path / "log")["chosen"]["val"]["icfgpedes_val"]
    assert main(["test", str(tmp_path / "log"), "-t", "icfgpedes_val"]) == 0
    tested = results(tmp_path / "log" / "test" / "icfgpedes_val")["metrics"]["icfgpedes_val"]["t2i"]
    assert (tested["R@1"], tested["mAP"]) == (val["R@1"], val["mAP"])
    for setting in (["data.val_seed", "4"], ["data.val_share", "0.5"]):
        message = refused(["test", tmp_path / "log", "-t", "icfgpedes_val", *setting])
        assert "was trained on people that data.val_seed and data.val_share now hold out of icfgpedes" in message


def test_entries_of_a_wrong_type_are_named(run, tmp_path, refused):
    """Every entry of the largest checkpoint."""
    content = saved(run)
    assert len(content) > 20
    for key, value in content.items():
        if key not in ("state_dict", "ema"):  # the first has another message, the second is read by resuming alone
            torch.save({**content, key: "3" if isinstance(value, int) else 3}, tmp_path / "x.pth")
            with pytest.raises(
                CheckpointError, match=rf"x\.pth': (the entry '{key}' is not as a run writes it|.*{key})"
            ):
                read_stored(Checkpoint.read(tmp_path / "x.pth"))
    torch.save({**content, "preprocess": 3}, tmp_path / "x.pth")
    assert "the entry 'preprocess' is not as a run writes it: 3" in refused(["test", tmp_path / "x.pth"])


# Weights and figures


def test_everything_names_the_digest_of_the_weights(copy, tmp_path):
    best = saved(copy, "best.pth")
    digest = weights_digest(best["state_dict"])
    assert main(["export", str(copy), str(tmp_path / "out")]) == 0
    assert main(["test", str(copy)]) == 0
    named = [best["digest"], best["best"]["weights"], saved(copy)["best"]["weights"]]
    named += [results(folder)["weights"] for folder in (copy, copy / "test" / "cuhkpedes")]
    named += [
        results(copy)["chosen"]["weights"],
        json.loads((tmp_path / "out" / "config.json").read_text())["weights_digest"],
    ]
    named += [str(np.load(copy / "queries_cuhkpedes.npz")["weights"])]
    assert named == [digest] * 8
    last = saved(copy)
    assert last["digest"] == weights_digest(last["state_dict"])


def test_the_digest_depends_on_every_weight_and_not_on_wrappers():
    state = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1)}
    digest = weights_digest(state)
    assert digest == weights_digest(dict(reversed(state.items())))
    for name, value in (
        ("a.weight", state["a.weight"].reshape(3, 2)),
        ("b", torch.tensor(2)),
        ("b", torch.tensor(1.0)),
    ):
        assert weights_digest({**state, name: value}) != digest
    flipped = state["a.weight"].clone()
    flipped.view(torch.uint8).view(-1)[5] ^= 1
    assert weights_digest({**state, "a.weight": flipped}) != digest


@pytest.mark.parametrize("command", ["test", "probe", "export"])
def test_partly_fitting_weights_are_refused(copy, tmp_path, refused, command):
    content = saved(copy, "best.pth")
    more = [tmp_path / "out"] if command == "export" else []
    del content["state_dict"]["shared_mlp.bias"]
    torch.save(content, copy / "best.pth")
    message = refused([command, copy, *more])
    assert "does not have all weights of this model; 1 are missing or of another shape: shared_mlp.bias" in message


def test_the_classifier_of_another_dataset_may_be_missing(copy, run):
    content = saved(copy, "best.pth")
    for name in ("id_classifier.weight", "id_classifier.bias"):
        del content["state_dict"][name]
    torch.save(content, copy / "best.pth")
    assert main(["test", str(copy)]) == 0
    assert results(copy / "test" / "cuhkpedes")["metrics"] == results(run)["metrics"]


def test_names_of_wrappers_are_stripped_wherever_they_stand(run, tmp_path):
    state = saved(run, "best.pth")["state_dict"]
    wrapped = {
        "module._orig_mod." + re.sub(r"^(\w+_encoder)\.", r"\1._orig_mod.module.", k): v for k, v in state.items()
    }
    assert set(wrapped) & set(state) == set()
    torch.save({"state_dict": wrapped}, tmp_path / "wrapped.pth")
    assert list(read_state_dict(tmp_path / "wrapped.pth")) == list(state)


@pytest.mark.parametrize("command", ["test", "probe", "export"])
def test_a_flipped_bit_is_noticed_by_everything_that_reads_a_checkpoint(copy, tmp_path, refused, command):
    content = bytearray((copy / "best.pth").read_bytes())
    content[len(content) // 2] ^= 4
    (copy / "best.pth").write_bytes(content)
    more = [tmp_path / "out"] if command == "export" else []
    assert "is truncated or damaged: its bytes do not match its digest" in refused([command, copy, *more])
    with pytest.raises(CheckpointError, match="do not match its digest"):
        T2IReIDModel.from_checkpoint(copy / "best.pth")
    assert not (tmp_path / "out").exists()


# Exports


def test_a_flipped_bit_of_an_export_is_noticed(run, tmp_path, refused):
    assert main(["export", str(run), str(tmp_path / "out")]) == 0
    file = tmp_path / "out" / "model.safetensors"
    assert T2IReIDForRetrieval.from_pretrained(tmp_path / "out")
    content = bytearray(file.read_bytes())
    content[-1000] ^= 4
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors' is damaged"):
        T2IReIDForRetrieval.from_pretrained(tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"model\.safetensors' is damaged"):
        T2IReIDModel.from_checkpoint(file)


def test_an_export_is_whole_or_not_there(run, tmp_path, refused, monkeypatch):
    out = tmp_path / "models" / "out"
    for size in (100, 20_000):
        with largest_file(size):
            assert f"'{out}' cannot be written: " in refused(["export", run, out])
        assert list(out.parent.iterdir()) == []
    assert main(["export", str(run), str(out)]) == 0
    before = contents(out)
    with largest_file(20_000):
        assert "File too large" in refused(["export", run, out])
    assert contents(out) == before
    assert main(["export", str(run), str(out)]) == 0  # over the older one
    assert contents(out) == before
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    monkeypatch.chdir(out.parent)
    (out.parent / "link").symlink_to(tmp_path / "target")
    (tmp_path / "target").mkdir()
    assert main(["export", str(run), "link"]) == 0
    assert contents(tmp_path / "target") == {**before, "README.md": contents(tmp_path / "target")["README.md"]}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")
    assert "holds 'README.md', which is not part of an export" in refused(["export", run, tmp_path / "mine"])
    (out / "notes.txt").write_text("mine")
    assert "holds 'notes.txt', which is not part of an export" in refused(["export", run, out])
    assert (out / "notes.txt").read_text() == "mine"


def test_files_of_an_export_have_ordinary_permissions(run, tmp_path):
    (tmp_path / "ordinary").write_text("")
    assert main(["export", str(run), str(tmp_path / "out")]) == 0
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert modes == {stat.S_IMODE((tmp_path / "ordinary").stat().st_mode)}
