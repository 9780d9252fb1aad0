"""Our model, losses, optimizer step and schedule against numbers of the authors' code of IRRA, see make_irra.py."""

import gzip
from pathlib import Path

import numpy as np
import parity.irra_weights as tiny
import pytest
import torch
from parity.recipes import build_clip, in_their_names, summary, values_of

from t2ireid_plugin.config import load_cfg, to_dict
from t2ireid_plugin.engine.build import build_optimizer, build_scheduler
from t2ireid_plugin.engine.text_image import forward_for
from t2ireid_plugin.losses import LossInputs, LossTerms
from t2ireid_plugin.modeling import training_passes
from t2ireid_plugin.modeling.checkpoint import copy_state_dict
from t2ireid_plugin.modeling.encoders.grid import resize_grid
from t2ireid_plugin.modeling.encoders.openai import VOCABULARY, archive_tokenizer
from t2ireid_plugin.modeling.encoders.tokenizer import CachedTokenizer
from t2ireid_plugin.modeling.foreign import from_openai


@pytest.fixture(scope="module")
def expected():
    return np.load(Path(__file__).with_name("irra.npz"))


@pytest.fixture(scope="module")
def cfg():
    return load_cfg("recipes/irra")


def build(cfg, precision):
    """Our model and losses with the weights of the authors' model, by the table of names."""
    model = build_clip(cfg, tiny.PATCH * tiny.GRID).to(precision)
    clip, heads = ({k: torch.tensor(v) for k, v in tiny.weights(names).items()} for names in tiny.shapes())
    renamed = from_openai({f"base_model.{name}": tensor for name, tensor in clip.items()} | heads)
    own = {name.removeprefix("losses."): tensor for name, tensor in renamed.items() if name.startswith("losses.")}
    report = copy_state_dict({name: renamed[name] for name in renamed if f"{name[7:]}" not in own}, model, "clip")
    assert report.unexpected == []
    assert report.missing == ["id_classifier.bias", "id_classifier.weight"]
    resize_grid(model.visual_encoder, tiny.HEIGHT, tiny.IMAGE_WIDTH, tiny.STRIDE, cfg.model.positions)
    terms = to_dict(cfg.loss.terms) | {"irr": {"weight": 1.0, "num_layers": tiny.BLOCKS}}
    losses = LossTerms(terms, tiny.WIDTH, tiny.WIDTH, tiny.CLASSES, tiny.VOCAB).to(precision)
    report = copy_state_dict(own, losses, "heads")
    assert report.missing == report.unexpected == report.mismatched == []
    return model, losses


def outputs(model, losses, precision, monkeypatch):
    """Inputs of the losses for the batch with its hidden words."""
    images, tokens, labels = tiny.batch()
    lengths = tokens.argmax(axis=1) + 1
    rows = [tuple(row[:length].tolist()) for row, length in zip(tokens, lengths)]
    monkeypatch.setattr(model.text_cache, "ids", lambda texts: rows)
    hidden = torch.tensor(np.where(labels, labels, -100))
    monkeypatch.setattr(training_passes, "hide_tokens", lambda ids, tokenizer, share: (torch.tensor(tokens), hidden))
    fields = forward_for(losses, model, torch.tensor(images, dtype=precision), ["a"] * len(rows), ["a"] * len(rows))
    pids = torch.tensor(tiny.PIDS)
    return LossInputs(pids, pids, **fields)


@pytest.mark.parametrize(("bits", "tolerance"), [(32, 1e-5), (64, 1e-10)])
def test_vectors_and_losses_equal_the_authors(expected, cfg, monkeypatch, bits, tolerance) -> None:
    precision = {32: torch.float32, 64: torch.float64}[bits]
    model, losses = build(cfg, precision)
    inputs = outputs(model, losses, precision, monkeypatch)
    values = losses.each(inputs)
    own = {"image": inputs.id_embeds, "text": inputs.id_text_features, "sdm": values["sdm"]}
    own |= {"id": values["id_features"], "mlm": values["irr"]}
    different_people = inputs._replace(pids=torch.arange(len(tiny.PIDS)))
    own["cmpm"] = LossTerms({"cmpm": {"weight": 1.0}}).each(different_people)["cmpm"]
    for name, value in own.items():
        close = {"rtol": tolerance, "atol": tolerance}
        np.testing.assert_allclose(value.detach().numpy(), expected[f"{name}{bits}"], **close, err_msg=name)


def test_an_optimizer_step_equals_the_authors(expected, cfg, monkeypatch) -> None:
    model, losses = build(cfg, torch.float64)
    optimizer = build_optimizer(cfg, model, losses)
    before = values_of(model, losses)
    losses(outputs(model, losses, torch.float64, monkeypatch))[0].backward()
    optimizer.step()
    steps = {name: value - before[name] for name, value in values_of(model, losses).items()}
    clip, heads = (dict(names) for names in tiny.shapes((7, 3)))
    for name, step in in_their_names(steps, {f"base_model.{key}": shape for key, shape in clip.items()} | heads):
        np.testing.assert_allclose(summary(step), expected[f"step {name}"], rtol=1e-6, atol=1e-13, err_msg=name)


def test_the_learning_rate_of_every_epoch_equals_the_authors(expected, cfg) -> None:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build_scheduler(cfg, optimizer)
    rates = []
    for _ in range(cfg.train.max_epoch):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    np.testing.assert_allclose(rates, expected["rates"], atol=1e-12)


def test_the_tokens_of_texts_equal_the_authors(expected, tmp_path) -> None:
    archive = tmp_path / "ViT-B-16.pt"
    archive.with_name(VOCABULARY).write_bytes(gzip.compress("\n".join(["#version", *tiny.MERGES]).encode()))
    rows = CachedTokenizer(archive_tokenizer(archive), 200).ids(tiny.TEXTS)
    for i, (text, (_, *own, _)) in enumerate(zip(tiny.TEXTS, rows, strict=True)):
        assert own == expected[f"text {i}"].tolist(), text
