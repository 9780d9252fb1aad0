import copy
import json
import math
import re
import shlex

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from t2ireid_plugin.cli import main
from t2ireid_plugin.engine.checks import OPTIMIZERS, SCHEDULERS
from t2ireid_plugin.engine.optim import WarmupCosine, build_optimizer, build_scheduler
from t2ireid_plugin.errors import ConfigError, EncoderError

LR, ENCODER_LR, DECAY = 0.01, 0.001, 0.3
RATES = {"lr": LR, "base_lr_mult": 0.1, "weight_decay": DECAY}
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
    optimizer = build_optimizer(*parts, **RATES, **settings)
    pairs = [(names[id(p)], (g["lr"], g["weight_decay"])) for g in optimizer.param_groups for p in g["params"]]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def undecayed_by_hand(parts):
    """Names of biases, of the parameters of norms, of marked parameters, and of the two scales."""
    model, losses = parts
    names = {"scale", "losses.terms.n_itc.logit_scale"}
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


def test_new_layers_are_those_that_the_configuration_names(build):
    settings = {"train__lr": 0.05, "train__staged_lr": True, "train__base_lr_mult": 0.2, "train__warmup_epochs": 0}
    engine = build(**settings, train__new_layers="[id_classifier, scale]")
    rates = {id(p): group["lr"] for group in engine.optimizer.param_groups for p in group["params"]}
    for name, parameter in engine.model.named_parameters():
        if parameter.requires_grad:
            new = name.startswith(("id_classifier.", "scale"))
            assert rates[id(parameter)] == pytest.approx(0.05 if new else 0.01), name
    with pytest.raises(ConfigError, match=r"train\.new_layers: no layer 'fc'; valid: .*id_classifier"):
        build(**settings, train__new_layers="[fc]")


def test_a_step_without_gradient_only_decays(deep):
    """AdamW: p <- p - lr * decay * p (Loshchilov and Hutter 2019)."""
    optimizer = build_optimizer(*deep, **RATES)
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
    """Their number and order, which the optimizer states of checkpoints have too."""
    groups = build_optimizer(*deep, **RATES).param_groups
    assert [(g["name"], g["lr"], g["weight_decay"]) for g in groups] == [
        ("base layers, not decayed", ENCODER_LR, 0.0),
        ("base layers, decayed", ENCODER_LR, DECAY),
        ("new layers, not decayed", LR, 0.0),
        ("new layers, decayed", LR, DECAY),
    ]


def test_the_configuration_reaches_the_optimizer(build):
    settings = {
        "train__layer_decay": 0.5,
        "train__optim": "adam",
        "adam__eps": 1e-3,
        "train__bias_lr_mult": 3,
        "train__lr": 0.1,
        "train__warmup_epochs": 0,
    }
    engine = build(**settings)
    rates = {id(p): group["lr"] for group in engine.optimizer.param_groups for p in group["params"]}
    vit = engine.model.visual_encoder
    assert rates[id(vit.embeddings.cls_token)] == pytest.approx(0.1 * 0.5**2)  # of one block
    assert rates[id(vit.layernorm.bias)] == pytest.approx(0.3)
    assert type(engine.optimizer) is torch.optim.Adam
    assert {group["eps"] for group in engine.optimizer.param_groups} == {1e-3}
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
    st.floats(0.01, 1),
)
def test_schedule_in_closed_form(max_epoch, warmup, final, epoch, start):
    optimizer = optimizer_with_rates(1.0, 0.5)
    schedule = WarmupCosine(optimizer, max_epoch, warmup, final, start)
    schedule.step(epoch)
    if epoch < warmup:
        factor = start + (1 - start) * epoch / warmup
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


MAX_EPOCH, WARMUP = 12, 4
SETTINGS = {"final_lr_mult": 0.05, "power": 0.7, "stepsize": [6, 9], "gamma": 0.5}
SCHEDULES = ("single_step", "multi_step", "cosine", "poly", "linear")


def factor_by_hand(name, epoch, warmup):
    """The share of the peak rate: PyTorch's closed forms, after or times a linear warm-up."""
    warm = 0.1 + 0.9 * min(1.0, epoch / warmup) if warmup else 1.0
    if name == "single_step":
        return warm * 0.5 ** (epoch // 9)
    if name == "multi_step":
        return warm * 0.5 ** sum(epoch >= milestone for milestone in (6, 9))
    if epoch < warmup:
        return warm
    done = (epoch - warmup) / (MAX_EPOCH - warmup)
    return {"cosine": (1 + math.cos(math.pi * done)) / 2, "poly": (1 - done) ** 0.7, "linear": 1 - 0.95 * done}[name]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, WARMUP])
def test_schedules_in_closed_form(name, warmup):
    optimizer = optimizer_with_rates(1.0, 0.5)
    schedule = build_scheduler(optimizer, name, max_epoch=MAX_EPOCH, warmup_epochs=warmup, **SETTINGS)
    for epoch in range(MAX_EPOCH):
        factor = factor_by_hand(name, epoch, warmup)
        assert rates(optimizer) == pytest.approx([factor, 0.5 * factor], abs=1e-12), epoch
        optimizer.step()
        schedule.step()


# Steps by hand


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.visual_encoder, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, inputs):
        return self.head(self.visual_encoder(inputs).tanh())


@pytest.mark.parametrize(
    ("optim", "schedule", "settings", "oracle"),
    [
        ("sgd", "multi_step", {"momentum": 0.8, "sgd_nesterov": True}, (torch.optim.SGD, {"nesterov": True})),
        ("sgd", "single_step", {"momentum": 0.8, "sgd_dampening": 0.3}, (torch.optim.SGD, {"dampening": 0.3})),
        ("rmsprop", "cosine", {"momentum": 0.8, "rmsprop_alpha": 0.9}, (torch.optim.RMSprop, {"alpha": 0.9})),
        ("adam", "poly", {"eps": 1e-2, "adam_beta1": 0.7}, (torch.optim.Adam, {"eps": 1e-2})),
        ("amsgrad", "linear", {"eps": 1e-2, "adam_beta1": 0.7}, (torch.optim.Adam, {"eps": 1e-2, "amsgrad": True})),
        ("adamw", "cosine", {"eps": 1e-2, "adam_beta1": 0.7}, (torch.optim.AdamW, {"eps": 1e-2})),
    ],
)
def test_steps_equal_those_of_pytorch_one_parameter_at_a_time(optim, schedule, settings, oracle):
    """Two steps per epoch; the oracle has one optimizer per parameter and sets its rate by the closed form."""
    torch.manual_seed(0)
    ours, losses = Toy().double(), nn.Linear(2, 2).double()
    theirs, their_losses = copy.deepcopy((ours, losses))
    optimizer = build_optimizer(ours, losses, **RATES, optim=optim, bias_lr_mult=2.0, **settings)
    scheduler = build_scheduler(optimizer, schedule, max_epoch=MAX_EPOCH, warmup_epochs=WARMUP, **SETTINGS)
    kind, options = oracle
    options |= {"betas": (0.7, 0.999)} if "adam_beta1" in settings else {"momentum": 0.8}
    single = []
    for name, parameter in [*theirs.named_parameters(), *their_losses.named_parameters()]:
        peak = (ENCODER_LR if name.startswith("visual_encoder") else LR) * (2 if name.endswith("bias") else 1)
        decay = 0 if name.endswith("bias") else DECAY
        single.append((peak, kind([parameter], lr=peak, weight_decay=decay, **options)))
    inputs = torch.randn(MAX_EPOCH, 2, 5, 3).double()
    for epoch, batches in enumerate(inputs):
        for batch in batches:
            optimizer.zero_grad()
            losses(ours(batch)).square().mean().backward()
            optimizer.step()
            for peak, one in single:
                one.param_groups[0]["lr"] = peak * factor_by_hand(schedule, epoch, WARMUP)
                one.zero_grad()
            their_losses(theirs(batch)).square().mean().backward()
            for _, one in single:
                one.step()
        scheduler.step()
    for first, second in zip(
        [*ours.parameters(), *losses.parameters()], [*theirs.parameters(), *their_losses.parameters()], strict=True
    ):
        torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-12)


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


# docs/frameworks.md


@pytest.fixture
def section(repository):
    page = (repository / "docs" / "frameworks.md").read_text(encoding="utf-8")
    return page.split("\n### Optimizers and schedules\n")[1].split("\n### ")[0]


@pytest.mark.slow
def test_the_pages_command_runs(section, tiny_settings, repository, tmp_path, monkeypatch):
    (line,) = re.findall(r"```bash\n(.*)\n```", section)
    program, command, *words = shlex.split(line)
    assert (program, command) == ("t2ireid", "train")
    monkeypatch.chdir(repository)
    assert main(["train", *words, *tiny_settings(tmp_path, train__max_epoch=1)[2:]]) == 0
    state = torch.load(tmp_path / "last.pth", weights_only=True)
    assert state["optimizer"]["param_groups"][0]["nesterov"]
    assert set(state["scheduler"]) >= {"_schedulers", "_last_lr"}


def test_the_page_lists_every_optimizer_and_schedule(section):
    cells = re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(cells))) == sorted([*OPTIMIZERS, *SCHEDULERS])
