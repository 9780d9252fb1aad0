import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from t2ireid_plugin.engine.optim import WarmupCosine, build_adamw
from t2ireid_plugin.errors import EncoderError

LR, ENCODER_LR, DECAY = 0.01, 0.001, 0.3
NORMS = (nn.LayerNorm, nn.BatchNorm1d)


@pytest.fixture(scope="module")
def frozen(build):
    """Model and losses, with a frozen text encoder."""
    engine = build(full=True)
    return engine.model, engine.losses


@pytest.fixture(scope="module")
def deep(build):
    """Both encoders trained, of different depth: 3 blocks for images, 2 for texts."""
    depths = {"model__vit_config__num_hidden_layers": 3, "model__bert_config__num_hidden_layers": 2}
    engine = build(full=True, model__freeze_text=False, **depths)
    return engine.model, engine.losses


def settings_by_name(parts, **settings):
    """(learning rate, weight decay) of each parameter, which must occur once."""
    model, losses = parts
    names = {id(p): name for name, p in model.named_parameters()}
    names |= {id(p): f"losses.{name}" for name, p in losses.named_parameters()}
    optimizer = build_adamw(*parts, lr=LR, encoder_lr=ENCODER_LR, weight_decay=DECAY, **settings)
    pairs = [(names[id(p)], (g["lr"], g["weight_decay"])) for g in optimizer.param_groups for p in g["params"]]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def undecayed_by_hand(parts):
    """Names of biases, of the parameters of norms, of marked parameters, and of the temperature."""
    model, losses = parts
    names = {"scale"}
    for prefix, root in (("", model), ("losses.", losses)):
        for path, module in root.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                full = prefix + (f"{path}.{name}" if path else name)
                marked = getattr(parameter, "_no_weight_decay", False)
                if isinstance(module, NORMS) or name.endswith("bias") or marked:
                    names.add(full)
    return names


def test_every_trainable_parameter_is_optimized_once(frozen, deep):
    model, losses = frozen
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    trainable |= {f"losses.{name}" for name, p in losses.named_parameters()}
    names = set(settings_by_name(frozen))
    assert names == trainable
    assert not [name for name in names if name.startswith("text_encoder.")]
    assert {"scale", "losses.terms.bio.projection.weight", "losses.terms.cloth.projection.weight"} <= names
    text = {f"text_encoder.{name}" for name, _ in deep[0].text_encoder.named_parameters()}
    assert text
    assert text <= set(settings_by_name(deep))


def test_matrices_are_decayed_and_encoders_have_their_own_rate(deep):
    undecayed = undecayed_by_hand(deep)
    assert any(name.endswith("A_log") for name in undecayed)
    assert any(name.endswith(".D") for name in undecayed)
    for name, (rate, decay) in settings_by_name(deep).items():
        assert decay == (0.0 if name in undecayed else DECAY), name
        encoder = name.startswith(("visual_encoder.", "text_encoder."))
        assert rate == (ENCODER_LR if encoder else LR), name


@pytest.mark.parametrize(("staged", "expected"), [(True, 0.05 * 0.2), (False, 0.05)])
def test_staged_lr_slows_the_encoders(build, staged, expected):
    engine = build(train__lr=0.05, train__staged_lr=staged, train__base_lr_mult=0.2, train__warmup_epochs=0)
    rates = {id(p): group["lr"] for group in engine.optimizer.param_groups for p in group["params"]}
    assert rates[id(engine.model.visual_encoder.layernorm.weight)] == pytest.approx(expected)
    assert rates[id(engine.model.scale)] == pytest.approx(0.05)


def test_a_step_without_gradient_only_decays(deep):
    """AdamW: p <- p - lr * decay * p (Loshchilov and Hutter 2019)."""
    optimizer = build_adamw(*deep, lr=LR, encoder_lr=ENCODER_LR, weight_decay=DECAY)
    expected = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
            expected.append((parameter, parameter.detach() * (1 - group["lr"] * group["weight_decay"])))
    optimizer.step()
    for parameter, value in expected:
        torch.testing.assert_close(parameter.detach(), value)
        parameter.grad = None


# Rates by layer, and of biases


def beit_layer(name, depth):
    """`get_num_layer_for_vit` of BEiT's and MAE's fine-tuning, with the names of transformers."""
    if name.startswith("embeddings."):
        return 0
    numbers = [int(part) for part in name.split(".") if part.isdigit()]
    return numbers[0] + 1 if numbers else depth + 1


@pytest.mark.parametrize("decay", [0.65, 0.9, 1.0])
@pytest.mark.parametrize("mult", [1.0, 2.0])
def test_layer_decay_follows_the_papers_formula(deep, decay, mult):
    scaled = settings_by_name(deep, layer_decay=decay, bias_lr_mult=mult)
    plain = settings_by_name(deep)
    assert set(scaled) == set(plain)
    for name, (rate, weight_decay) in scaled.items():
        encoder, _, inner = name.partition(".")
        depth = {"visual_encoder": 3, "text_encoder": 2}.get(encoder)
        expected = LR if depth is None else ENCODER_LR * decay ** (depth + 1 - beit_layer(inner, depth))
        if name.endswith("bias"):
            expected *= mult
        assert rate == pytest.approx(expected, rel=1e-9), name
        assert weight_decay == plain[name][1], name


def test_the_groups_without_layer_decay(deep):
    """The optimizer states of old checkpoints have these groups."""
    groups = build_adamw(*deep, lr=LR, encoder_lr=ENCODER_LR, weight_decay=DECAY).param_groups
    assert [(g["name"], g["lr"], g["weight_decay"]) for g in groups] == [
        ("encoders, not decayed", ENCODER_LR, 0.0),
        ("encoders, decayed", ENCODER_LR, DECAY),
        ("new layers, not decayed", LR, 0.0),
        ("new layers, decayed", LR, DECAY),
    ]


def test_the_configuration_reaches_the_optimizer(build):
    settings = {"train__layer_decay": 0.5, "train__bias_lr_mult": 3, "train__lr": 0.1, "train__warmup_epochs": 0}
    engine = build(**settings)
    rates = {id(p): group["lr"] for group in engine.optimizer.param_groups for p in group["params"]}
    vit = engine.model.visual_encoder
    assert rates[id(vit.embeddings.cls_token)] == pytest.approx(0.1 * 0.5**2)  # of one block
    assert rates[id(vit.layernorm.bias)] == pytest.approx(0.3)
    assert engine.get_current_lr() == pytest.approx(0.1)  # which torchreid prints


def test_layer_decay_needs_an_encoder_with_blocks(build):
    shared = {"model_type": "albert", "embedding_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = {f"model__bert_config__{key}": value for key, value in shared.items()}
    build(**words)
    with pytest.raises(EncoderError, match=r"albert has no stack of . blocks, which layer-wise decay needs"):
        build(**words, train__layer_decay=0.5)


# The schedule


def optimizer_with_rates(*rates):
    return torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])


def rates(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


@given(
    st.integers(1, 40),
    st.floats(0.25, 10),
    st.floats(0, 1),
    st.floats(0, 45),
)
def test_schedule_in_closed_form(max_epoch, warmup, final, epoch):
    optimizer = optimizer_with_rates(1.0, 0.5)
    schedule = WarmupCosine(optimizer, max_epoch, warmup, final)
    schedule.step(epoch)
    if epoch < warmup:
        factor = 0.1 + 0.9 * epoch / warmup
    elif epoch >= max_epoch:
        factor = final if max_epoch > warmup or epoch > warmup else 1.0
    else:
        half_turn = math.pi * (epoch - warmup) / (max_epoch - warmup)
        factor = final + (1 - final) * 0.5 * (1 + math.cos(half_turn))
    assert rates(optimizer) == pytest.approx([factor, 0.5 * factor], abs=1e-6)


@pytest.mark.parametrize("final", [0.0, 0.1])
@pytest.mark.parametrize("warmup", [0, 5])
def test_it_is_pytorchs_linear_warmup_and_pytorchs_cosine(final, warmup):
    ours, theirs = optimizer_with_rates(0.4), optimizer_with_rates(0.4)
    schedule = WarmupCosine(ours, max_epoch=warmup + 9, warmup_epochs=warmup, final_mult=final)
    oracle = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=9, eta_min=0.4 * final)
    if warmup:
        linear = torch.optim.lr_scheduler.LinearLR(theirs, start_factor=0.1, total_iters=warmup)
        oracle = torch.optim.lr_scheduler.SequentialLR(theirs, [linear, oracle], milestones=[warmup])
    assert rates(ours) == pytest.approx(rates(theirs))
    for epoch in range(1, warmup + 10):
        theirs.step()
        oracle.step()
        schedule.step(epoch)
        assert rates(ours) == pytest.approx(rates(theirs), abs=1e-12)


@given(st.floats(0, 10))
def test_a_schedule_is_restored_from_its_state(epoch):
    first, second = optimizer_with_rates(1.0, 0.1), optimizer_with_rates(7.0, 7.0)
    schedule = WarmupCosine(first, 10, 2, 0.05)
    schedule.step(epoch)
    state = json.loads(json.dumps(schedule.state_dict()))  # plain values only
    other = WarmupCosine(second, 10, 2, 0.05)
    other.load_state_dict(state)
    assert rates(second) == rates(first)
    schedule.step(9.5)
    other.step(9.5)
    assert rates(second) == rates(first)
