"""Non-finite losses and gradients, and undecodable images, in training."""

import json
import logging
import math
import shutil

import pytest
import torch
from states import train_epoch

from t2ireid_plugin.cli import main
from t2ireid_plugin.engine.failures import BadImageCounter
from t2ireid_plugin.errors import DataError, T2IReIDError
from t2ireid_plugin.utils.logging import MetricsLog


def poison(engine, steps, what):
    """Makes the loss of some steps nan, or keeps it and makes its gradients infinite."""
    losses, state = engine.losses.forward, {"step": 0}

    def forward(inputs):
        total, values = losses(inputs)
        state["step"] += 1
        if state["step"] in steps:
            if what == "loss":
                engine.model.image_mlp[0].running_mean.data.fill_(math.nan)  # which the backward pass does not read
                return total * math.nan, values
            total.register_hook(lambda gradient: gradient * math.inf)
        return total, values

    engine.losses.forward = forward


def weights(engine):
    parts = {"model": engine.model, "losses": engine.losses, "ema": engine.ema}
    return {f"{name} {key}": value.clone() for name, part in parts.items() for key, value in part.state_dict().items()}


@pytest.mark.parametrize(("what", "message"), [("loss", "the loss"), ("gradients", "the gradients")])
def test_a_non_finite_step_ends_the_run_and_changes_nothing(build, what, message):
    engine = build(train__ema_decay=0.9)
    poison(engine, {3}, what)
    seen = []
    step = engine.forward_backward
    engine.forward_backward = lambda data: (seen.append(weights(engine)), step(data))[1]
    with pytest.raises(
        T2IReIDError, match=rf"{message} became (nan|inf) in epoch 1, batch 3 \(loss .*cls .*lower train\.lr"
    ):
        train_epoch(engine)
    still = weights(engine)
    names = [name for name in still if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(seen[2][name], still[name]) for name in names)


@pytest.mark.parametrize("what", ["loss", "gradients"])
def test_tolerated_steps_change_nothing(build, what, caplog):
    """Not even the statistics of batch normalisation; and a finite step resets the count."""
    engine = build(train__ema_decay=0.9, train__nonfinite_patience=2)
    poison(engine, {2, 4}, what)
    seen = []
    step = engine.forward_backward
    engine.forward_backward = lambda data: (seen.append(weights(engine)), step(data))[1]
    train_epoch(engine)
    assert len(seen) >= 5
    for number, skipped in ((0, False), (1, True), (2, False), (3, True)):
        same = [torch.equal(seen[number][name], seen[number + 1][name]) for name in seen[0]]
        assert all(same) if skipped else not all(same)
    assert all(value.isfinite().all() for value in weights(engine).values())
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    for number, message in zip((2, 4), warnings, strict=True):
        assert f"batch {number} (" in message
        assert "step skipped" in message


def test_too_many_non_finite_steps_in_a_row_end_the_run(build):
    engine = build(train__nonfinite_patience=2)
    poison(engine, {2, 4, 5}, "loss")
    with pytest.raises(T2IReIDError, match="in epoch 1, batch 5"):
        train_epoch(engine)


def test_the_batch_of_a_non_finite_step_is_written_and_repeated_when_resumed(tiny_settings, tmp_path, capsys):
    """By the command line, at a learning rate that is far too high."""
    words = tiny_settings(tmp_path, train__lr=1e30, train__clip_grad=0, train__warmup_epochs=0)
    assert main(["train", *words]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    file = tmp_path / "nonfinite.json"
    assert f" more, all in '{file}'; lower train.lr" in message
    step = json.loads(file.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not valid JSON"))
    assert (step["epoch"], len(step["samples"])) == (1, 32)
    assert f"epoch 1, batch {step['batch']} " in message
    assert step["values"]["loss"] in ("nan", "inf", "-inf") or step["gradient_norm"] in ("nan", "inf")
    sample = step["samples"][0]
    assert sample["impath"] in message
    assert {"impath", "pid", "caption", "id_text", "cloth_text"} <= set(sample)
    assert main(["train", "--resume", *words]) == 2
    assert json.loads(file.read_text()) == step


# Images


@pytest.fixture
def with_bad_images(synthetic, tmp_path):
    """`with_bad_images(n, split)`: root of a copy with `n` truncated images of as many identities, and these files."""

    def make(number, split="train"):
        root = tmp_path / "data"
        shutil.copytree(synthetic.root, root)
        rows = json.loads((root / "CUHK-PEDES" / "reid_raw.json").read_text())
        first = {row["id"]: row["file_path"] for row in rows if row["split"] == split}
        broken = [root / "CUHK-PEDES" / "imgs" / path for path in list(first.values())[:number]]
        for file in broken:
            content = file.read_bytes()
            file.write_bytes(content[: len(content) // 2])
        return root, broken

    return make


@pytest.mark.slow
def test_a_bad_image_is_replaced_by_another_of_its_identity(tiny_settings, with_bad_images, tmp_path):
    """Each bad image is logged once, also with other workers and in a resumed run, which trains the same."""
    root, broken = with_bad_images(2)
    settings = {"data__root": root, "data__on_bad_image": "skip", "data__bad_image_share": 0.03}
    # Its rates allow more epochs when resumed.
    settings |= {"train__lr_scheduler": "single_step", "train__warmup_epochs": 0}
    words = tiny_settings(tmp_path / "log", data__workers=2, train__max_epoch=2, **settings)
    assert main(["train", *words]) == 0
    log = (tmp_path / "log" / "train.log").read_text()
    for file in broken:
        assert log.count(f"unreadable image '{file}'") == 1
    assert log.count("replaced by another image (") == 2
    other = tiny_settings(tmp_path / "other", data__workers=0, train__max_epoch=2, **settings)
    assert main(["train", *other, "train.max_epoch", "1"]) == 0
    assert main(["train", "--resume", *other]) == 0
    assert (tmp_path / "other" / "train.log").read_text().count("replaced by another image") == 2
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("log", "other")]
    first = [line for line in logs[0].splitlines() if '"step"' in line]
    assert first == [line for line in logs[1].splitlines() if '"step"' in line]


def test_a_replacement_has_its_own_texts_and_the_same_identity(build, with_bad_images):
    root, broken = with_bad_images(3)
    engine = build(data__root=root, data__on_bad_image="skip", data__bad_image_share=1)
    items = {(path, caption): pid for path, pid, _, _, caption, *_ in engine.train_loader.dataset.train}
    replaced = 0
    for _ in range(3):
        for batch in engine.train_loader:
            for path, caption, pid, problem in zip(
                batch["impath"], batch["caption"], batch["pid"].tolist(), batch["bad_image"], strict=True
            ):
                assert items[path, caption] == pid
                assert path not in map(str, broken)
                if problem:
                    replaced += 1
                    (bad,) = (file for file in broken if str(file) in problem)
                    assert items[str(bad), next(text for place, text in items if place == str(bad))] == pid
            people = batch["pid"].view(8, 4)
            assert (people == people[:, :1]).all()  # still four of each identity
    assert replaced >= 3


def test_too_many_bad_images_end_the_run(tiny_settings, with_bad_images, tmp_path, capsys):
    root, _ = with_bad_images(3)
    words = tiny_settings(tmp_path / "log", data__root=root, data__on_bad_image="skip", data__bad_image_share=0.02)
    assert main(["train", *words]) == 2
    message = capsys.readouterr().err
    assert "2 of 96 training images cannot be decoded, more than data.bad_image_share 0.02; the last one" in message


@pytest.mark.parametrize(("split", "setting"), [("train", "error"), ("val", "skip"), ("test", "skip")])
def test_a_bad_image_is_an_error_by_default_and_where_it_is_evaluated(
    tiny_settings, with_bad_images, tmp_path, capsys, split, setting
):
    root, (broken,) = with_bad_images(1, split)
    assert main(["train", *tiny_settings(tmp_path / "log", data__root=root, data__on_bad_image=setting)]) == 2
    assert f"unreadable image '{broken}'" in capsys.readouterr().err


def test_a_bad_image_without_another_of_its_identity_is_an_error(build, with_bad_images, new_cuhk, tmp_path):
    data = new_cuhk(tmp_path / "lonely")
    for pid, split in ((1, "train"), (2, "train"), (3, "val"), (4, "test")):
        data.add(split, pid, f"cam_a/{pid}.png")
    data.image("cam_a/1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    engine = build(
        data__root=data.save(),
        data__on_bad_image="skip",
        train__batch_size=2,
        sampler__train_sampler="RandomSampler",
    )
    with pytest.raises(DataError, match=r"1\.png.*and its identity has no other readable image to replace it"):
        list(engine.train_loader)


def test_each_bad_image_counts_once():
    counter = BadImageCounter(images=100, share=0.02)
    counter.record(["", "a is bad", "", "a is bad", "b is bad"])
    counter.record(["b is bad"])
    assert list(counter.problems) == ["a is bad", "b is bad"]
    with pytest.raises(DataError, match="3 of 100 training images"):
        counter.record(["c is bad"])


def test_non_finite_numbers_are_null_in_the_log(tmp_path):
    MetricsLog(tmp_path / "metrics.jsonl").write(loss=float("nan"), worse=float("inf"), lr=0.5, target="cuhkpedes")
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert line == {"loss": None, "worse": None, "lr": 0.5, "target": "cuhkpedes"}
