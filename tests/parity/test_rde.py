"""Our model, losses, division, optimizer step and schedule against the authors' code of RDE, see make_rde.py."""

from pathlib import Path

import numpy as np
import parity.irra_weights as tiny
import parity.rde_weights as rde
import pytest
import torch
from parity.recipes import build_clip, in_their_names, summary, values_of

from t2ireid_plugin.config import load_cfg, to_dict
from t2ireid_plugin.engine import build as builders
from t2ireid_plugin.engine.division import consensus
from t2ireid_plugin.engine.text_image import forward_for
from t2ireid_plugin.losses import LossInputs, LossTerms
from t2ireid_plugin.modeling.checkpoint import copy_state_dict
from t2ireid_plugin.modeling.encoders.grid import resize_grid
from t2ireid_plugin.modeling.foreign import from_openai

PRECISIONS = [(32, 1e-5), (64, 1e-10)]


@pytest.fixture(scope="module")
def expected():
    return np.load(Path(__file__).with_name("rde.npz"))


@pytest.fixture(scope="module")
def cfg():
    return load_cfg("recipes/rde", ["model.token_selection.dim", str(rde.DIM)])


def build(cfg, bits):
    """Our model and losses with the weights of the authors' model, by the table of names."""
    model = build_clip(cfg, tiny.PATCH * tiny.GRID).to({32: torch.float32, 64: torch.float64}[bits])
    arrays = {f"base_model.{name}": array for name, array in tiny.weights(tiny.shapes()[0]).items()} | rde.weights()
    report = copy_state_dict(from_openai({k: torch.tensor(v) for k, v in arrays.items()}), model, "best.pth")
    unused = ("texual_emb_layer.mlp.bns.1.", "visul_emb_layer.linear.", "visul_emb_layer.mlp.bns.1.")
    assert all(name.startswith(unused) for name in report.unexpected)
    counters = [f"token_selection.{side}.mlp.1.num_batches_tracked" for side in ("image", "text")]
    assert report.missing == ["id_classifier.bias", "id_classifier.weight", *counters]
    resize_grid(model.visual_encoder, tiny.HEIGHT, tiny.IMAGE_WIDTH, tiny.STRIDE, cfg.model.positions)
    return model, LossTerms(to_dict(cfg.loss.terms), tiny.WIDTH, tiny.WIDTH, tiny.CLASSES, tiny.VOCAB)


def read_batch(model, monkeypatch, short):
    """Images and texts that the model reads as the captions of the batch."""
    images, tokens = rde.batch(short)
    rows = [tuple(row[: row.argmax() + 1].tolist()) for row in tokens]
    monkeypatch.setattr(model.text_cache, "ids", lambda texts: rows)
    return torch.tensor(images, dtype=model.scale.dtype), ["a"] * len(rows)


def inputs_of(model, losses, batch):
    """Inputs of the losses."""
    pids = torch.tensor(tiny.PIDS)
    fields = forward_for(losses, model, batch[0], batch[1], batch[1])
    return LossInputs(pids, pids, clean=torch.tensor(rde.LABELS), **fields)


@pytest.mark.parametrize(("bits", "tolerance"), PRECISIONS)
def test_vectors_and_losses_equal_the_authors(expected, cfg, monkeypatch, bits, tolerance) -> None:
    """In eval mode, with a caption of fewer words than are selected; and what is searched by is the mean of both."""
    model, losses = build(cfg, bits)
    batch = read_batch(model.eval(), monkeypatch, short=True)
    inputs = inputs_of(model, losses, batch)
    values = losses.each(inputs)
    first, second = losses.weighing_pairs
    own = {"image": inputs.id_embeds, "text": inputs.id_text_features, "bge_loss": values["tal"]}
    own |= {"image_tse": inputs.selected_image_embeds, "text_tse": inputs.selected_text_embeds}
    own |= {"bge_pair": first.per_pair(inputs), "tse_pair": second.per_pair(inputs), "tse_loss": values["tal_selected"]}
    for name, value in own.items():
        close = {"rtol": tolerance, "atol": tolerance}
        np.testing.assert_allclose(value.detach().numpy(), expected[f"{name}{bits}"], **close, err_msg=name)
    with torch.no_grad():
        scores = model.encode_query(batch[1]) @ model.encode_gallery(batch[0]).T
    units = {name: expected[f"{name}{bits}"] for name in ("image", "text", "image_tse", "text_tse")}
    units = {name: rows / np.linalg.norm(rows, axis=1, keepdims=True) for name, rows in units.items()}
    mean = (units["text"] @ units["image"].T + units["text_tse"] @ units["image_tse"].T) / 2
    np.testing.assert_allclose(scores.numpy(), mean, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("bits", "tolerance"), PRECISIONS)
def test_losses_in_train_mode_equal_the_authors(expected, cfg, monkeypatch, bits, tolerance) -> None:
    model, losses = build(cfg, bits)
    values = losses.each(inputs_of(model.train(), losses, read_batch(model, monkeypatch, short=False)))
    for name, term in (("bge", "tal"), ("tse", "tal_selected")):
        close = {"rtol": tolerance, "atol": tolerance}
        np.testing.assert_allclose(values[term].item(), expected[f"train {name}_loss{bits}"], **close, err_msg=name)


def test_without_batch_statistics_training_equals_the_authors_in_eval_mode(expected, cfg, monkeypatch) -> None:
    cfg = cfg.clone()
    cfg.model.token_selection.batch_norm = False
    model, losses = build(cfg, 64)
    before = {name: value.clone() for name, value in model.named_buffers()}
    values = losses.each(inputs_of(model.train(), losses, read_batch(model, monkeypatch, short=True)))
    for name, term in (("bge", "tal"), ("tse", "tal_selected")):
        np.testing.assert_allclose(values[term].item(), expected[f"{name}_loss64"], rtol=1e-10, err_msg=name)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_an_optimizer_step_equals_the_authors(expected, cfg, monkeypatch) -> None:
    model, losses = build(cfg, 64)
    optimizer = builders.build_optimizer(cfg, model, losses)
    before = values_of(model, losses)
    losses(inputs_of(model.train(), losses, read_batch(model, monkeypatch, short=False)))[0].backward()
    optimizer.step()
    after = values_of(model, losses)
    clip = {f"base_model.{name}": shape for name, shape in tiny.shapes((7, 3))[0].items()}
    statistics = {name: shape for name, shape in rde.shapes().items() if "running" in name}
    steps = {name: value - before[name] for name, value in after.items()}
    for name, step in in_their_names(steps, {**clip, **rde.shapes()}):
        if name not in statistics:
            np.testing.assert_allclose(summary(step), expected[f"step {name}"], rtol=1e-6, atol=1e-13, err_msg=name)
    for name, value in in_their_names(after, {name: statistics[name] for name in statistics if "bns.0" in name}):
        np.testing.assert_allclose(value, expected[f"after {name}"], rtol=1e-6, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("name", ["few", "many"])
def test_the_division_equals_the_authors(expected, cfg, name) -> None:
    """By the settings of the recipe, and by those for much noise, which its comment has."""
    settings = {key: value for key, value in cfg.loss.ccd.items() if key != "enabled"}
    if name == "many":
        settings = {"max_iter": 100, "tol": 1e-4, "reg_covar": 1e-6}
    np.testing.assert_array_equal(consensus(rde.losses(), 5, **settings), expected[f"{name} clean"])
    parts = expected[f"{name} parts"]
    assert 0 < (parts.sum(axis=1) == 1).sum() < len(parts)  # some pairs are left to chance


def test_the_learning_rate_of_every_epoch_equals_the_authors(expected, cfg) -> None:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    optimizer.step()  # else PyTorch warns of the order
    scheduler, rates = builders.build_scheduler(cfg, optimizer), []
    for _ in range(cfg.train.max_epoch):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    np.testing.assert_allclose(rates, expected["rates"], atol=1e-12)
