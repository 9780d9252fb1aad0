import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from states import changed, saved, train_epoch
from torch import nn

from t2ireid_plugin.engine.optim import build_ema
from t2ireid_plugin.errors import CheckpointError
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel

DECAY = 0.8


# The average


@given(
    st.floats(0, 0.999),
    st.lists(st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3), min_size=1, max_size=8),
)
def test_the_average_in_closed_form(decay, history):
    """After n steps: decay^(n-1) w_1 + (1 - decay) sum over k = 2 … n of decay^(n-k) w_k, in float64."""
    model = nn.Linear(3, 1, bias=False)
    average = build_ema(model, decay)
    for weights in history:
        with torch.no_grad():
            model.weight.copy_(torch.tensor([weights]))
        average.update_parameters(model)
    n = len(history)
    factors = [decay ** (n - 1)] + [(1 - decay) * decay ** (n - k) for k in range(2, n + 1)]
    expected = sum(f * np.array(w, dtype=np.float64) for f, w in zip(factors, history, strict=True))
    np.testing.assert_allclose(average.module.weight.detach().numpy()[0], expected, atol=1e-4)


def test_batch_statistics_are_copied_not_averaged():
    model = nn.Sequential(nn.BatchNorm1d(4))
    average = build_ema(model, DECAY)
    for seed in range(3):
        model(torch.randn(8, 4, generator=torch.Generator().manual_seed(seed)) + seed)
        average.update_parameters(model)
    assert torch.equal(average.module[0].running_mean, model[0].running_mean)
    assert torch.equal(average.module[0].running_var, model[0].running_var)
    assert average.module[0].num_batches_tracked == 3


def test_the_average_is_a_copy_in_eval_mode_without_gradients(clip):
    """CLIP's tokenizer holds a closure; copying the model must still copy what it encodes with."""
    model = T2IReIDModel({"vit_pretrained": str(clip), "bert_base_path": str(clip), "freeze_text": False}).eval()
    average = build_ema(model, DECAY)
    assert not average.module.training
    assert not any(p.requires_grad for p in average.parameters())
    assert all(p.requires_grad for p in model.parameters())
    text = ["a man wearing a red coat"]
    with torch.no_grad():
        before = model.encode_text(text)
        assert torch.equal(average.module.encode_text(text), before)
        for parameter in model.parameters():
            parameter.zero_()
        assert torch.equal(average.module.encode_text(text), before)


# In the engine


def test_the_engine_averages_after_each_step(build):
    engine = build(train__ema_decay=DECAY, model__freeze_text=False, train__lr=0.01)
    history, step = [], engine.optimizer.step

    def recorded():
        step()
        history.append({n: p.detach().double().clone() for n, p in engine.model.named_parameters()})

    engine.optimizer.step = recorded
    train_epoch(engine)
    assert len(history) > 3
    expected = history[0]
    for weights in history[1:]:
        expected = {n: DECAY * average + (1 - DECAY) * weights[n] for n, average in expected.items()}
    moved = 0
    for name, parameter in engine.tested_model.named_parameters():
        torch.testing.assert_close(parameter.double(), expected[name], atol=1e-6, rtol=1e-5)
        moved += not torch.equal(parameter, dict(engine.model.named_parameters())[name])
    assert moved > 50  # so the average is not simply the weights
    for name, statistic in engine.tested_model.named_buffers():
        assert torch.equal(statistic, dict(engine.model.named_buffers())[name]), name


def test_the_average_is_what_is_tested(build):
    """Metrics are those of a model that has the averaged weights, and the trained weights do not matter."""
    engine, other = build(train__ema_decay=DECAY), build()
    train_epoch(engine)
    other.model.load_state_dict(engine.ema.module.state_dict())
    expected = other.evaluate(["cuhkpedes"])
    with torch.no_grad():
        for parameter in engine.model.parameters():
            parameter.fill_(float("nan"))
    assert engine.evaluate(["cuhkpedes"]) == expected
    assert engine.evaluate_protocols(["cuhkpedes"], ["t2i"])[0].metrics == expected["cuhkpedes"]


def test_best_has_the_average_and_last_has_both(build, tmp_path):
    engine = build(train__ema_decay=DECAY)
    engine.run(save_dir=str(tmp_path), max_epoch=1, eval_freq=1)
    best, last = saved(tmp_path, "best.pth")["state_dict"], saved(tmp_path)
    average = {name: tensor for name, tensor in last["ema"].items() if name != "n_averaged"}
    assert last["ema"]["n_averaged"] == engine.num_batches
    assert set(average) == {f"module.{name}" for name in best}
    assert changed(best, {name.removeprefix("module."): tensor for name, tensor in average.items()}) == set()
    assert changed(best, last["state_dict"])
    engine.load_chosen(tmp_path / "best.pth")
    for model in (engine.model, engine.tested_model):
        assert changed(best, model.state_dict()) == set()


def test_a_resumed_run_cannot_switch_the_average_on_or_off(build, tiny_run, tmp_path):
    with pytest.raises(CheckpointError, match=rf"last\.pth' was trained with train\.ema_decay 0\.0, now it is {DECAY}"):
        build(full=True, train__ema_decay=DECAY).resume(tiny_run.folder / "last.pth")
    engine = build(train__ema_decay=DECAY)
    engine.run(save_dir=str(tmp_path), max_epoch=1)
    with pytest.raises(CheckpointError, match=rf"was trained with train\.ema_decay {DECAY}, now it is 0\.0"):
        build().resume(tmp_path / "last.pth")


def test_a_checkpoint_without_an_average_entry_can_be_resumed(build, tiny_run, tmp_path):
    old = {key: value for key, value in saved(tiny_run.folder).items() if key != "ema"}
    torch.save(old, tmp_path / "last.pth")
    assert build(full=True).resume(tmp_path / "last.pth") == (2, 0)
