"""Our model, losses, optimizer steps and schedule against numbers of TBPS-CLIP's own code, see make_tbps_clip.py."""

from pathlib import Path

import numpy as np
import parity.irra_weights as clip
import parity.tbps_clip_weights as tiny
import pytest
import torch
from parity.irra_files import TOKENS, write_archive
from parity.recipes import build_clip, in_their_names, summary, values_of

from t2ireid_plugin.cli import main
from t2ireid_plugin.config import load_cfg, to_dict
from t2ireid_plugin.engine.build import build_optimizer, build_run, build_scheduler
from t2ireid_plugin.engine.text_image import encode_view, forward_for
from t2ireid_plugin.losses import LossInputs, LossTerms
from t2ireid_plugin.modeling.checkpoint import Checkpoint, copy_state_dict
from t2ireid_plugin.modeling.foreign import from_openai


@pytest.fixture(scope="module")
def expected():
    return np.load(Path(__file__).with_name("tbps_clip.npz"))


@pytest.fixture(scope="module")
def cfg():
    return load_cfg("recipes/tbps_clip")


def build(cfg, precision, monkeypatch):
    """Our model and losses with the weights of the authors' model, by the table of names."""
    images, tokens = tiny.batch()
    model = build_clip(cfg, tiny.SIDE).to(precision)
    terms = to_dict(cfg.loss.terms) | {"simclr": {"weight": cfg.loss.terms.simclr.weight, "hidden": tiny.HIDDEN}}
    losses = LossTerms(terms, clip.WIDTH, clip.WIDTH, clip.CLASSES, clip.VOCAB).to(precision)
    renamed = from_openai({name: torch.tensor(array) for name, array in tiny.weights().items()})
    heads = {name.removeprefix("losses."): renamed.pop(name) for name in list(renamed) if name.startswith("losses.")}
    report = copy_state_dict(renamed, model, "model")
    assert (report.missing, report.unexpected) == (["id_classifier.bias", "id_classifier.weight"], [])
    report = copy_state_dict(heads, losses, "heads")
    assert report.missing == report.unexpected == report.mismatched == []
    lengths = tokens.argmax(axis=1) + 1
    rows = [tuple(row[:length].tolist()) for row, length in zip(tokens, lengths)]
    monkeypatch.setattr(model.text_cache, "ids", lambda texts: rows)
    return model.train(), losses, {name: torch.tensor(array, dtype=precision) for name, array in images.items()}


def inputs_of(model, losses, images):
    """Inputs of the losses for the batch."""
    texts, pids = ["a"] * len(clip.PIDS), torch.tensor(clip.PIDS)
    fields = forward_for(losses, model, images["image"], texts, texts)
    twins = torch.stack([images["aug_ss_1"], images["aug_ss_2"]], dim=1)
    fields |= {"simclr_features": encode_view(model, "simclr_features", twins)}
    fields |= {"view_embeds": encode_view(model, "view_embeds", images["aug1"])}
    return LossInputs(pids, pids, epoch=tiny.EPOCH, **fields)


@pytest.mark.parametrize(("bits", "tolerance"), [(32, 1e-5), (64, 1e-10)])
def test_vectors_and_losses_equal_the_authors(expected, cfg, monkeypatch, bits, tolerance) -> None:
    model, losses, images = build(cfg, {32: torch.float32, 64: torch.float64}[bits], monkeypatch)
    inputs = inputs_of(model, losses, images)
    values = losses.weighted(losses.each(inputs))
    assert set(values) == {"n_itc", "n_itc_view", "r_itc", "c_itc", "simclr"}
    own = {"image": inputs.id_embeds, "text": inputs.id_text_embeds, "ss_loss": values["simclr"]}
    own |= {"nitc_loss": values["n_itc"] + values["n_itc_view"]}
    own |= {"ritc_loss": values["r_itc"], "citc_loss": values["c_itc"]}
    for name, value in own.items():
        theirs = torch.tensor(expected[f"{name}{bits}"])
        theirs = torch.nn.functional.normalize(theirs) if name == "text" else theirs
        torch.testing.assert_close(value.detach(), theirs, rtol=tolerance, atol=tolerance, msg=name)


def test_two_optimizer_steps_equal_the_authors(expected, cfg, monkeypatch) -> None:
    model, losses, images = build(cfg, torch.float64, monkeypatch)
    optimizer = build_optimizer(cfg, model, losses)
    before = values_of(model, losses)
    for _ in range(2):
        optimizer.zero_grad()
        losses(inputs_of(model, losses, images))[0].backward()
        optimizer.step()
    steps = {name: value - before[name] for name, value in values_of(model, losses).items()}
    assert not steps["visual_encoder.embeddings.patch_embedding.weight"].any()
    for name, step in in_their_names(steps, {**tiny.shapes(), "logit_scale": ()}):
        np.testing.assert_allclose(summary(step), expected[f"step {name}"], rtol=1e-6, atol=1e-12, err_msg=name)


def test_the_learning_rate_of_every_step_equals_the_authors(expected, cfg) -> None:
    """But for the warm-up, which reaches its end one step later."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=cfg.train.lr)
    scheduler = build_scheduler(cfg, optimizer)
    steps, theirs, rates = tiny.STEPS_PER_EPOCH, expected["rates"], []
    for step in range(cfg.train.max_epoch * steps):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step((step + 1) / steps)
    np.testing.assert_allclose(rates[steps:], theirs[steps:], rtol=1e-10)
    stretched = np.interp(np.arange(steps) * (steps - 1) / steps, np.arange(steps), theirs[:steps])
    np.testing.assert_allclose(rates[:steps], stretched, rtol=1e-10)


@pytest.mark.slow
def test_a_checkpoint_of_the_authors_is_tested_and_trained_on(synthetic, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_archive(tmp_path / "ViT-B-16.pt")
    best = tiny.write_best(tmp_path / "checkpoint_best.pth", TOKENS["token_embedding.weight"][0])
    words = f"data.root {synthetic.root} model.load_weights checkpoint_best.pth model.max_length 12 data.height 24"
    words += " data.width 24 model.vit_pretrained ViT-B-16.pt model.bert_base_path ViT-B-16.pt data.workers 0"
    words += " use_gpu False test.bootstrap 0 test.pictures 0 train.batch_size 32"
    assert main(["test", "--config-file", "recipes/tbps_clip", *words.split()]) == 0
    assert "R@1" in capsys.readouterr().out
    engine = build_run(
        load_cfg("recipes/tbps_clip", [*words.split(), "loss.terms.simclr.hidden", str(tiny.HIDDEN)]),
        Checkpoint.read("checkpoint_best.pth"),
    )
    heads, model = engine.losses.state_dict(), engine.model
    assert torch.equal(model.visual_encoder.state_dict()["embeddings.class_embedding"], best["visual.class_embedding"])
    assert torch.equal(heads["terms.simclr.mlp.2.weight"], best["simclr_mlp.2.weight"])
    assert all(heads[f"terms.{name}.logit_scale"] == best["logit_scale"] for name in ("n_itc", "n_itc_view", "r_itc"))
    plain, marked = model.text_cache.ids(["a man in (red) #3: a coat", 'A man in "red ~3; a coat.'])
    assert plain == marked
    assert model.text_encoder.config.attention_dropout == 0.05
