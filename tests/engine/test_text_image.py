"""The engine in one process: what learns, what a step computes, which checkpoint is chosen, exact resuming."""

import copy
import itertools
import json
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from states import changed, differences, saved, train_epoch, weights
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchreid import engine as torchreid_engine

from t2ireid_plugin.cli import main
from t2ireid_plugin.data.sampling import SampleKey
from t2ireid_plugin.engine.record import check_same_training
from t2ireid_plugin.engine.text_image import TextImageEngine, compose, encode_view, forward_for
from t2ireid_plugin.errors import CheckpointError, ConfigError, DataError
from t2ireid_plugin.modeling.checkpoint import Checkpoint
from t2ireid_plugin.modeling.instructions import content_words
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel


def script(engine, scores):
    """Makes evaluation return `scores[target]`, one R@1 per epoch; returns the (epoch, target) pairs evaluated."""
    evaluated = []

    def metrics(sets):
        evaluated.extend((engine.epoch + 1, target) for target in sets)
        return {target: {"R@1": scores[target][engine.epoch], "mAP": 0.0} for target in sets}

    engine._embed, engine._log_official = lambda targets, _: dict.fromkeys(targets), metrics
    engine._best_weight = lambda *_: None
    return evaluated


# What learns


@pytest.mark.parametrize(
    "options", [{}, {"open_layers": ["id_classifier"], "fixbase_epoch": 2}, {"open_layers": ["fusion"]}]
)
def test_a_frozen_text_encoder_stays_frozen_and_in_eval_mode(build, options):
    engine = build(train__max_epoch=5, model__fusion__type="enhanced_mamba")
    before = weights(engine.model.text_encoder)
    for epoch in range(3):
        train_epoch(engine, epoch, **options)
        assert engine.model.training
        assert not any(module.training for module in engine.model.text_encoder.modules())
        assert not any(p.requires_grad for p in engine.model.text_encoder.parameters())
    assert changed(before, weights(engine.model.text_encoder)) == set()


def test_a_trained_text_encoder_learns(build):
    engine = build(model__freeze_text=False)
    before = weights(engine.model.text_encoder)
    train_epoch(engine)
    assert engine.model.text_encoder.training
    names = changed(before, weights(engine.model.text_encoder))
    assert any("word_embeddings" in name for name in names)
    assert any("query.weight" in name or "q_proj.weight" in name for name in names)


def test_every_loss_together_trains_every_parameter(build):
    """All trainable tensors, except those that the specification's fusion of length-1 sequences cannot reach."""
    engine = build(full=True, train__lr=0.01)
    before = {n: p.detach().clone() for n, p in engine.model.named_parameters() if p.requires_grad}
    losses_before = weights(engine.losses)
    train_epoch(engine)
    still = {n for n, p in engine.model.named_parameters() if n in before and torch.equal(before[n], p)}
    unreachable = ("A_log", "gate.", "gate_attn", "dt_proj")
    assert {name for name in still if not any(part in name for part in unreachable)} == set()
    assert changed(losses_before, weights(engine.losses)) == set(losses_before)
    assert not any("mlm" in name for name in engine.model.state_dict())  # used in training only


def test_only_open_layers_learn_in_the_first_epochs(build):
    engine = build(train__max_epoch=5, loss__terms__bio__weight=0.5)
    before, losses_before = weights(engine.model), weights(engine.losses)
    train_epoch(engine, 0, fixbase_epoch=1, open_layers=["id_classifier"])
    assert changed(before, weights(engine.model)) == {"id_classifier.weight", "id_classifier.bias"}
    assert changed(losses_before, weights(engine.losses))
    train_epoch(engine, 1, fixbase_epoch=1, open_layers=["id_classifier"])
    later = changed(before, weights(engine.model))
    assert "shared_mlp.weight" in later
    assert any(name.startswith("visual_encoder.") for name in later)
    assert not any(name.startswith("text_encoder.") for name in later)


def test_by_default_everything_but_the_encoders_learns_in_the_first_epochs(build):
    engine = build(train__max_epoch=5, train__lr=0.01)
    before = weights(engine.model)
    train_epoch(engine, 0, fixbase_epoch=1, open_layers=None)
    learnt = {name.split(".")[0] for name in changed(before, weights(engine.model))}
    assert {"disentangle", "id_classifier", "shared_mlp", "image_mlp", "text_mlp", "text_attn"} <= learnt
    assert not any(name.endswith("_encoder") for name in learnt)
    assert not engine.model.visual_encoder.training
    train_epoch(engine, 1, fixbase_epoch=1, open_layers=None)
    assert any(name.startswith("visual_encoder.") for name in changed(before, weights(engine.model)))


def test_an_unknown_open_layer_is_named(build):
    with pytest.raises(ConfigError, match=r"train\.open_layers: no layer 'classifier'; valid: .*id_classifier"):
        train_epoch(build(), fixbase_epoch=1, open_layers=["classifier"])


# A step


@pytest.mark.parametrize(("clip", "at_most"), [(0.05, 0.05 * (1 + 1e-4)), (0.0, None)])
def test_the_norm_of_all_gradients_is_clipped(build, clip, at_most):
    engine = build(train__clip_grad=clip)
    train_epoch(engine)
    squares = [p.grad.double().square().sum() for p in engine.training_step.parameters() if p.grad is not None]
    norm = float(torch.stack(squares).sum().sqrt())
    if at_most is None:
        assert norm > 0.1  # so clipping has an effect
    else:
        assert 0 < norm <= at_most


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({}, ("id_text", "cloth_text")),
        ({"data__id_instruction": "caption"}, ("caption", "cloth_text")),
        ({"data__id_instruction": "identity", "data__cloth_instruction": "caption"}, ("id_text", "caption")),
    ],
)
def test_the_configuration_chooses_the_texts_of_a_batch(build, settings, fields):
    engine = build(**settings)
    batch = next(iter(engine.train_loader))
    images, labels, id_texts, cloth_texts = engine.parse_data_for_train(batch)
    photos = labels["photos"]
    assert images.shape == (32, 3, 32, 16)
    assert labels["pids"].tolist() == batch["pid"].tolist()
    assert (id_texts, cloth_texts) == (batch[fields[0]], batch[fields[1]])
    paths = np.array(batch["impath"])
    assert np.array_equal(photos[:, None] == photos, paths[:, None] == paths)


def test_one_batch_is_overfitted(build):
    terms = {f"loss__terms__{name}__weight": 0.5 for name in ("bio", "sdm")}
    engine = build(train__lr=0.01, train__warmup_epochs=0, **terms)
    engine.set_model_mode("train")
    engine.num_batches, engine.batch_idx = 6, 0
    batch = next(iter(engine.train_loader))
    steps = [engine.forward_backward(batch) for _ in range(30)]
    for name in ("info_nce", "cls", "bio", "sdm"):
        assert steps[-1][name] < 0.6 * steps[0][name], name


@pytest.mark.parametrize("scheduler", ["single_step", "multi_step", "cosine", "poly", "linear", "warmup_cosine"])
def test_the_rate_follows_the_schedule(build, scheduler):
    """After one epoch, against the closed forms of torchreid's and PyTorch's schedules."""
    engine = build(
        train__lr_scheduler=scheduler, train__lr=0.001, train__stepsize="[1]", train__gamma=0.5, train__power=2.0,
        train__max_epoch=4, train__warmup_epochs=0,
    )  # fmt: skip
    train_epoch(engine)
    cosine, half = 0.001 * (1 + np.cos(np.pi / 4)) / 2, 0.0005
    expected = {"single_step": half, "multi_step": half, "poly": 0.001 * 0.75**2, "linear": 0.001 * 0.75}
    assert engine.get_current_lr() == pytest.approx(expected.get(scheduler, cosine))


# The chosen checkpoint


def test_the_checkpoint_is_chosen_on_val_without_the_test_split(build, tmp_path):
    engine = build(train__max_epoch=4)
    evaluated = script(engine, {"cuhkpedes_val": [0.2, 0.6, 0.6, 0.5], "cuhkpedes": [0.1, 0.2, 0.3, 0.9]})
    by_epoch = []
    train = engine.train
    engine.train = lambda **options: (train(**options), by_epoch.append(weights(engine.model)))
    engine.run(save_dir=str(tmp_path), max_epoch=4, print_freq=100, eval_freq=1)
    assert evaluated == [(epoch, "cuhkpedes_val") for epoch in (1, 2, 3, 4)]
    best, last = saved(tmp_path, "best.pth"), saved(tmp_path)
    assert best["epoch"] == engine.best["epoch"] == 3  # the last of equals
    assert engine.best["score"] == 0.6
    assert changed(by_epoch[2], best["state_dict"]) == set()
    assert last["epoch"] == 4
    assert changed(by_epoch[3], last["state_dict"]) == set()


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"eval_freq": -1}, [4]),
        ({"eval_freq": 2}, [2, 4]),
        ({"eval_freq": 3}, [3, 4]),
        ({"eval_freq": 1, "start_eval": 3}, [3, 4]),
    ],
)
def test_the_epochs_that_are_evaluated_and_saved(build, tmp_path, options, epochs):
    engine = build(train__max_epoch=4)
    evaluated = script(engine, {"cuhkpedes_val": [0.9, 0.1, 0.2, 0.3]})
    saved_before = []
    engine.train = lambda **_: saved_before.append(saved(tmp_path)["epoch"])
    engine.run(save_dir=str(tmp_path), max_epoch=4, **options)
    assert [epoch for epoch, _ in evaluated] == epochs
    assert saved_before == [0, 1, 2, 3]  # also the epochs that are not evaluated


def test_without_val_the_last_epoch_is_chosen(build, tmp_path):
    engine = build(data__val="[]", train__max_epoch=2)
    assert script(engine, {}) == []
    engine.run(save_dir=str(tmp_path), max_epoch=2, print_freq=100, eval_freq=1)
    assert saved(tmp_path, "best.pth")["epoch"] == 2
    assert changed(weights(engine.model), saved(tmp_path, "best.pth")["state_dict"]) == set()


def test_a_val_split_that_is_the_target_does_not_choose(build):
    engine = build(data__targets="[cuhkpedes_val]")
    assert engine.val_targets == []
    assert engine.test_targets == ["cuhkpedes_val"]


def test_the_score_is_the_mean_over_val_sets(build, tmp_path):
    engine = build(data__val="[cuhkpedes_val]", train__max_epoch=2)
    engine.val_targets = ["a", "b"]
    script(engine, {"a": [0.2, 0.9], "b": [0.5, 0.1]})  # means 0.35 and 0.5
    engine.train = lambda **_: None
    engine.run(save_dir=str(tmp_path), max_epoch=2, eval_freq=1)
    assert (engine.best["epoch"], engine.best["score"]) == (2, 0.5)


def test_weights_left_by_a_killed_run_replace_the_recorded_choice(build, tmp_path, caplog):
    """The run was killed between best.pth and last.pth, and the repeated epoch had a lower score."""
    engine = build(train__max_epoch=1)
    engine.run(save_dir=str(tmp_path), max_epoch=1, eval_freq=1)
    written = saved(tmp_path, "best.pth")
    engine.best = {**engine.best, "epoch": 7, "score": 0.0, "weights": "of the repeated epoch"}
    engine.load_chosen(tmp_path / "best.pth")
    assert engine.best == written["best"]
    assert f"is of epoch {written['epoch']}, which is used, not epoch 7" in caplog.text
    assert changed(written["state_dict"], engine.model.state_dict()) == set()


def test_the_log_of_a_run(build, tmp_path):
    mlm = {"loss__terms__mlm__weight": 1.0, "loss__terms__mlm__dim": 16}
    engine = build(sampler__train_sampler="RandomSampler", **mlm)
    engine.run(save_dir=str(tmp_path), max_epoch=2, print_freq=2, eval_freq=1)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "step" in line]
    assert [line["step"] for line in steps] == [2, 4, 6, 8, 10, 12]  # 192 captions in batches of 32
    assert {"loss", "lr", "info_nce", "cls", "mlm"} <= set(steps[0])
    vocabulary = engine.model.text_encoder.config.vocab_size
    assert 0 < steps[0]["mlm"] < 2 * math.log(vocabulary)  # a uniform guess has the logarithm
    tests = [line for line in lines if "target" in line]
    assert [(line["epoch"], line["target"]) for line in tests] == [(1, "cuhkpedes_val"), (2, "cuhkpedes_val")]
    assert 0 <= tests[0]["R@1"] <= tests[0]["R@5"] <= 1
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("Train/mlm")] == list(range(12))
    assert [event.value for event in events.Scalars("Train/lr")][1::2] == pytest.approx([line["lr"] for line in steps])


# Resuming


class Killed(Exception):
    pass


def test_a_resumed_run_is_bit_identical(build, tmp_path):
    """Weights, average, optimizer, best score and the log of every step."""
    settings = {
        "train__max_epoch": 2, "data__transforms": "[random_flip, random_crop, random_erase]",
        "train__ema_decay": 0.8, "model__freeze_text": False, "model__fusion__type": "enhanced_mamba",
        "loss__terms__fused_query__weight": 0.2, "loss__terms__fused_query__every": 4,
    }  # fmt: skip
    run = {"max_epoch": 2, "print_freq": 1, "eval_freq": 1}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    undisturbed, fused = build(**settings), []
    undisturbed.model.fusion.register_forward_hook(lambda *_: fused.append(undisturbed.steps))
    undisturbed.run(save_dir=str(whole), **run)
    steps = [line for line in map(json.loads, (whole / "metrics.jsonl").read_text().splitlines()) if "step" in line]
    assert len(steps) % 8 != 0  # an epoch ends between two steps that fuse
    assert fused == list(range(3, len(steps), 4))
    for before, line in itertools.pairwise(steps):
        fresh = before.get("fused_query") != line.get("fused_query")
        assert fresh == (line["step"] % 4 == 0)
        total = line["info_nce"] / 2 + line["cls"] / 2 + (0.8 * line["fused_query"] if fresh else 0)
        assert line["loss"] == pytest.approx(total, abs=1e-4)

    engine = build(**settings)
    train = engine.train

    def dies_in_the_second_epoch(**options):
        if engine.epoch == 1:
            raise Killed
        train(**options)

    engine.train = dies_in_the_second_epoch
    with pytest.raises(Killed):
        engine.run(save_dir=str(parts), **run)
    heir = build(**settings)
    with torch.no_grad():
        for parameter in heir.training_step.parameters():
            parameter.zero_()  # everything must come from the file
    assert heir.resume(parts / "last.pth") == (1, 0)
    heir.run(save_dir=str(parts), **run)

    for name in ("last.pth", "best.pth"):
        assert differences(saved(whole, name), saved(parts, name), name) == []
    assert (whole / "metrics.jsonl").read_text() == (parts / "metrics.jsonl").read_text()


@pytest.mark.parametrize(("optim", "schedule"), [("sgd", "multi_step"), ("adam", "poly")])
def test_a_run_killed_within_an_epoch_continues_bit_for_bit(build, tmp_path, optim, schedule):
    """With optimizers and schedules of torchreid and PyTorch, after a warm-up."""
    settings = {
        "train__optim": optim, "train__lr_scheduler": schedule, "train__warmup_epochs": 1, "train__max_epoch": 2,
        "train__stepsize": "[1]", "train__save_steps": 1, "train__batch_size": 64, "data__val": "[]",
    }  # fmt: skip
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    build(**settings).run(save_dir=str(whole), max_epoch=2)
    engine = build(**settings)
    step = engine.forward_backward

    def dies_in_the_second_epoch(data):
        if (engine.epoch, engine.batch_idx) == (1, 1):
            raise Killed
        return step(data)

    engine.forward_backward = dies_in_the_second_epoch
    with pytest.raises(Killed):
        engine.run(save_dir=str(parts), max_epoch=2)
    heir = build(**settings)
    assert heir.resume(parts / "last.pth") == (1, 1)
    heir.run(save_dir=str(parts), max_epoch=2)
    assert differences(saved(whole), saved(parts), "last.pth") == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train.seed", 99),
        ("train.batch_size", 16),
        ("sampler.num_instances", 2),
        ("sampler.train_sampler", "RandomSampler"),
        ("data.transforms", ["random_crop"]),
        ("data.height", 48),
        ("data.val_seed", 5),
        ("data.id_instruction", "caption"),
        ("model.max_length", 20),
        ("model.bert_config", {"vocab_size": 200}),
        ("model.vit_config", {"hidden_size": 64}),
        ("model.fusion.dropout", 0.3),
        ("model.freeze_text", False),
        ("loss.terms", {"bio": {"weight": 0}}),
        ("train.lr", 0.5),
        ("train.weight_decay", 0.25),
        ("train.clip_grad", 7.0),
        ("train.layer_decay", 0.75),
        ("train.precision", "bf16"),
        ("train.warmup_epochs", 0.25),
        ("train.lr_scheduler", "cosine"),
        ("train.optim", "sgd"),
        ("train.max_epoch", 3),
        ("test.eval_freq", 2),
    ],
)
def test_another_training_is_refused(build, tiny_run, name, value):
    """Every setting that can change the result; the schedule of this run depends on the last epoch."""
    table = value if isinstance(value, dict) else {"": value}
    other = {"__".join([*name.split("."), *filter(None, [key])]): part for key, part in table.items()}
    if name == "loss.terms":
        other = {"loss__terms__bio__weight": 0}
    with pytest.raises(CheckpointError, match=rf"was trained with {name} .*, now it is ") as error:
        build(full=True, **other).resume(tiny_run.folder / "last.pth")
    if not isinstance(value, dict):
        assert f"now it is {value!r}" in str(error.value)


@pytest.mark.parametrize("column", ["caption", "id"])
def test_edited_annotations_are_refused(build, new_cuhk, tmp_path, column):
    """As many captions of as many people as before."""
    data = new_cuhk(tmp_path / "data")
    for pid in range(12):
        split = "train" if pid < 8 else "val" if pid < 10 else "test"
        for n in range(4):
            data.add(split, pid, f"cam_a/{pid}_{n}.png", [f"Person {pid % 5} wears coat {n}."])
    settings = {"data__root": data.save(), "train__batch_size": 8}
    (tmp_path / "log").mkdir()
    build(**settings).run(save_dir=str(tmp_path / "log"), max_epoch=1, eval_freq=1)
    build(**settings).resume(tmp_path / "log" / "last.pth")
    if column == "caption":
        data.rows[0]["captions"] = ["Person 0 wears coat 1."]
    else:
        data.rows[0]["id"], data.rows[4]["id"] = 1, 0
    data.save()
    with pytest.raises(CheckpointError, match=r"was trained with the people and captions of cuhkpedes .*, now it is"):
        build(**settings).resume(tmp_path / "log" / "last.pth")


def test_the_place_and_manner_of_computing_may_differ(build, tiny_run):
    free = {"data__workers": 1, "train__print_freq": 3, "train__save_minutes": 1, "test__protocols": "[t2i, i2t]"}
    assert build(full=True, **free).resume(tiny_run.folder / "last.pth") == (2, 0)


def test_more_epochs_are_trained_where_the_schedule_does_not_depend_on_them(build, tmp_path):
    endless = {"train__lr_scheduler": "single_step"}
    build(**endless).run(save_dir=str(tmp_path), max_epoch=1, eval_freq=1)
    assert build(**endless, train__max_epoch=5).resume(tmp_path / "last.pth") == (1, 0)
    with pytest.raises(CheckpointError, match=r"was trained with train\.max_epoch 1, now it is 0"):
        build(**endless, train__max_epoch=0).resume(tmp_path / "last.pth")


# Evaluation


def retrieval_by_hand(engine, target):
    """Captions and photos encoded one by one, then a loop over the queries; only the model is the package's."""
    engine.model.eval()
    dataset = engine.test_loader[target]["gallery"].dataset
    texts = [(caption, pid) for _, pid, _, _, caption, *_ in dataset.query]
    with torch.no_grad():
        images = torch.stack([engine.model.encode_gallery(dataset[i]["img"][None])[0] for i in range(len(dataset))])
        sentences = torch.stack([engine.model.encode_query(caption) for caption, _ in texts])
    pids = np.array([item[1] for item in dataset.gallery])
    hits, precisions, penalties = {1: 0, 5: 0, 10: 0}, [], []
    for feature, (_, pid) in zip(sentences, texts, strict=True):
        order = (images @ feature).argsort(descending=True).numpy()
        ranks = 1 + np.flatnonzero(pids[order] == pid)
        for k in hits:
            hits[k] += bool(ranks[0] <= k)
        precisions.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
        penalties.append(len(ranks) / ranks[-1])
    shares = {f"R@{k}": count / len(texts) for k, count in hits.items()}
    return {**shares, "mAP": np.mean(precisions), "mINP": np.mean(penalties)}


@pytest.mark.parametrize("evaluator", ["torchreid", "exact"])
def test_metrics_equal_retrieval_by_hand(build, tiny_run, evaluator):
    engine = build(test__evaluator=evaluator, test__batch_size=7, model__fusion__type="enhanced_mamba")
    engine.model.load_state_dict(saved(tiny_run.folder, "best.pth")["state_dict"])
    before = copy.deepcopy(engine.model.state_dict())
    metrics = engine.evaluate(["cuhkpedes"])["cuhkpedes"]
    expected = retrieval_by_hand(engine, "cuhkpedes")
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert (metrics["queries"], metrics["gallery"]) == (64, 32)
    engine.model.train()
    assert engine.evaluate(["cuhkpedes"])["cuhkpedes"] == metrics
    assert changed(before, engine.model.state_dict()) == set()


def test_several_processes_save_before_they_evaluate(build, tmp_path, monkeypatch):
    """A process stopped during evaluation leaves the others waiting for it, so that none can save."""

    def stopped(_folder):
        raise RuntimeError("Connection closed by peer")

    engine = build()
    monkeypatch.setattr("t2ireid_plugin.engine.loop.world_size", lambda: 2)
    monkeypatch.setattr(engine, "choose", stopped)
    with pytest.raises(RuntimeError):
        engine.run(save_dir=str(tmp_path), max_epoch=2, eval_freq=1)
    state = saved(tmp_path)
    assert (state["epoch"], state["step"], state["evaluated"]) == (1, 0, False)


# Words and outfits


def test_words_are_those_of_the_texts_that_the_branches_read(build):
    terms = {"loss__terms__words__weight": 1, "loss__terms__leak__weight": 1, "data__min_word_count": 20}
    engine = build(data__id_instruction="identity", **terms)
    train = engine.datamanager.datasets["cuhkpedes"].train
    texts = [text for item in train for text in item[5:]]
    counts = Counter(word for text in texts for word in content_words(text))
    assert engine.words == sorted(word for word, count in counts.items() if count >= 20)
    assert engine.record["words"] == engine.words
    batch = next(iter(engine.train_loader))
    _, labels, id_texts, _ = engine.parse_data_for_train(batch)
    has = [[float(word in content_words(text)) for word in engine.words] for text in id_texts]
    assert labels["id_words"].tolist() == has
    assert labels["cloth_words"].shape == labels["id_words"].shape
    assert labels["outfits"].tolist() == [-1] * len(id_texts)  # the annotation has none
    other = Checkpoint(Path("x.pth"), {**engine.record, "words": ["red"], "epoch": 0}, {})
    with pytest.raises(CheckpointError, match="was trained with other words in the losses"):
        check_same_training(other, engine.record)


def test_losses_whose_targets_the_data_lacks_are_refused(build):
    with pytest.raises(DataError, match=r"loss 'leak' needs words that the training texts have .*5000 times"):
        build(loss__terms__leak__weight=1, data__min_word_count=5000)
    with pytest.raises(DataError, match=r"loss 'cross_outfit' compares outfits .*add 'outfit' to its rows"):
        build(loss__terms__cross_outfit__weight=1)


RESIDUAL = {
    "model__fusion__type": "residual",
    "data__id_instruction": "identity",
    "loss__terms__fused_query__weight": 0.5,
    "loss__terms__fused_query__any_share": 0.8,
    "loss__terms__composed_query__weight": 0.5,
    "loss__terms__composed_query__every": 2,
}


def test_a_residual_fusion_learns_from_composed_queries(build, two_outfits):
    """Each query fuses its row's image with the clothing text of the person's row in another outfit."""
    engine = build(data__root=two_outfits, train__lr=0.01, **RESIDUAL)
    before = weights(engine.model.fusion)
    train_epoch(engine)
    assert changed(before, weights(engine.model.fusion)) == set(before)

    model = engine.model.eval()
    images, labels, id_texts, cloth_texts = engine.parse_data_for_train(next(iter(engine.train_loader)))
    pids, outfits = labels["pids"].tolist(), labels["outfits"].tolist()
    with torch.no_grad():
        outputs = forward_for(engine.losses, model, images, id_texts, cloth_texts, 2)
        outputs |= compose(model, outputs, labels)
        plain = model(images, cloth_texts, id_texts)
        described = []
        for i, query in enumerate(outputs["composed_embeds"]):
            others = [j for j, pid in enumerate(pids) if pid == pids[i] and outfits[j] != outfits[i]]
            branches = plain.image_embeds[i], torch.zeros(256), plain.cloth_image_embeds[i]
            fused = [model.fuse(*(x[None] for x in (*branches, plain.cloth_text_embeds[j])))[0][0] for j in others]
            described.append(1 - outfits[i] if others else -1)
            assert not others or any(torch.allclose(query, one, atol=1e-5) for one in fused)
    assert outputs["composed_outfits"].tolist() == described
    assert max(described) >= 0
    torch.testing.assert_close(outputs["fused_embeds"], plain.fused_embeds)
    assert "composed_embeds" not in engine.losses.needs_at(1)


@pytest.mark.slow
def test_a_trained_residual_is_tested_and_exported(tiny_settings, two_outfits, tmp_path):
    settings = {**RESIDUAL, "data__root": two_outfits, "test__protocols": "[t2i, ti2i, composed]"}
    words = tiny_settings(tmp_path / "log", **settings)
    assert main(["train", *words]) == 0
    metrics = json.loads((tmp_path / "log" / "results.json").read_text())["metrics"]["cuhkpedes"]
    assert {"t2i", "ti2i", "ti2i_sum", "composed", "composed_pair"} <= set(metrics)
    model = T2IReIDModel.from_checkpoint(tmp_path / "log" / "best.pth")
    assert model.fusion.last.weight.abs().max() > 0
    assert main(["test", str(tmp_path / "log"), "data.save_dir", str(tmp_path / "again")]) == 0
    again = json.loads(next((tmp_path / "again").rglob("results.json")).read_text())["metrics"]["cuhkpedes"]
    assert again["ti2i"] == metrics["ti2i"]
    assert main(["export", str(tmp_path / "log"), str(tmp_path / "hub")]) == 0
    exported = T2IReIDModel.from_checkpoint(tmp_path / "hub" / "model.safetensors")
    assert torch.equal(exported.fusion.last.weight, model.fusion.last.weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data__id_instruction": "caption"}, "model.fusion.type: residual fuses both branches, and data.id_instr"),
        ({"model__fusion__type": "gated_mamba"}, "loss 'composed_query' needs model.fusion.type residual, not gated"),
    ],
)
def test_settings_that_a_residual_cannot_have_are_refused(
    tiny_settings, two_outfits, tmp_path, settings, message, capsys
):
    assert main(["train", *tiny_settings(tmp_path, data__root=two_outfits, **{**RESIDUAL, **settings})]) == 2
    assert message in capsys.readouterr().err


def test_progress_is_the_share_of_all_epochs(build):
    engine = build()
    seen = []
    engine.losses.register_forward_pre_hook(lambda _, args: seen.append((args[0].epoch, args[0].progress)))
    train_epoch(engine, 1)  # of five
    assert [epoch / 5 for epoch, _ in seen] == pytest.approx([progress for _, progress in seen])
    assert seen[-1] == (2.0, 0.4)


def test_further_views_are_encoded_for_the_losses_that_read_them(build):
    """Other changes of the same photos, at the model's size, the same again for the same seed."""
    terms = {"loss__terms__n_itc_view__weight": 0.5, "loss__terms__simclr": "{weight: 0.4, every: 2}"}
    engine = build(**terms, data__transforms="[random_erase]", train__batch_size=8, sampler__num_instances=2)
    batch, dataset = next(iter(engine.train_loader)), engine.train_loader.dataset
    assert batch["simclr_views"].shape == (8, 2, *batch["img"].shape[1:])
    assert not torch.equal(batch["view"], batch["img"])
    key = SampleKey(3, 9)
    for name in ("img", "view", "simclr_views"):
        assert torch.equal(dataset[key][name], dataset[key][name])
    seen = []
    engine.losses.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    engine.epoch, engine.batch_idx, engine.num_batches = 0, 0, 10
    for engine.steps in (0, 1):
        engine.train_batch(batch)
    assert seen[0].simclr_features is None  # only every second step
    assert seen[1].simclr_features.shape == (8, 2, 32)
    assert seen[1].view_embeds.shape == seen[1].image_embeds.shape
    model = engine.model.eval()
    with torch.no_grad():
        own = encode_view(model, "simclr_features", batch["simclr_views"])
        torch.testing.assert_close(own[:, 1], model(batch["simclr_views"][:, 1]).id_embeds)
        torch.testing.assert_close(encode_view(model, "view_embeds", batch["view"]), model.encode_image(batch["view"]))


# docs/frameworks.md


def test_the_page_says_whose_each_method_of_the_engine_is(repository):
    page = (repository / "docs" / "frameworks.md").read_text(encoding="utf-8")
    section = page.split("\n### The engine\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", section, flags=re.MULTILINE)
    whose = {name: here for names, here in rows for name in re.findall(r"`(\w+)`", names)}
    methods = {name for name, value in vars(torchreid_engine.Engine).items() if callable(value)}
    assert set(whose) == methods
    for name, here in whose.items():
        replaced = getattr(TextImageEngine, name) is not getattr(torchreid_engine.Engine, name)
        assert replaced == (here not in ("torchreid's", "not used")), name
