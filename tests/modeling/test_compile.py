"""Compilation: the forward pass and both encoders are one graph each, for texts of any length."""

import copy
import json
import os
import pickle

import pytest
import torch
from preloaded import run_python
from tiny_models import IMAGE, WIDTH
from torch._dynamo.utils import counters

from t2ireid_plugin.cli import main
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel

IDENTITY = ["A tall boy with a backpack.", "A woman.", "A young man with a black handbag and white shoes."]
CLOTHING = ["A red coat, white shoes and a striped shirt.", "A dark blue dress.", "A dress."]
ONE = {"num_hidden_layers": 1}
SMALL = {"vit_pretrained": {**IMAGE, **ONE}, "bert_base_path": {**WIDTH, **ONE}, "fusion": {"num_layers": 1}}
COMPILED = {"train__compile": True, "model__fusion__type": "none"}  # the tests of the model compile its fusion


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def texts(number):
    """Batches whose texts and lengths all differ."""
    words = " and white shoes" * number
    return [text.rstrip(".") + words[: 11 * i] for i, text in enumerate(CLOTHING)], [t + words for t in IDENTITY]


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    return model


def gradients(model, images, cloth, identity):
    model.zero_grad()
    output = model(images, cloth, identity)
    generator = torch.Generator().manual_seed(0)
    values = [value for value in output if value is not None]
    sum((torch.randn(v.shape, generator=generator) * v).sum() for v in values).backward()
    return values, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
def test_compiled_training_is_the_same_over_batches_of_any_length(make):
    """A graph break is an error (``fullgraph``); new lengths must not compile again."""
    plain, model = (without_dropout(make.model(**SMALL, freeze_text=False)).train() for _ in range(2))
    model.compile_parts(backend="eager")
    for step, number in enumerate([0, 9, 1, 11, 2, 10, 3, 8, 4, 12, 5, 13]):  # which fill one row or several
        batch = make.images(3, seed=step), *texts(number)
        (expected, plain_gradients), (actual, compiled_gradients) = gradients(plain, *batch), gradients(model, *batch)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(compiled_gradients, plain_gradients, rtol=1e-4, atol=1e-4)
        if step == 5:
            graphs = counters["stats"]["unique_graphs"]
    assert counters["stats"]["unique_graphs"] == graphs  # by then all changing dimensions are dynamic


@pytest.mark.slow
def test_compiled_inference_is_the_same_and_copies_are_not_compiled(make):
    plain, model = make.model(**SMALL), make.model(**SMALL)
    model.compile_parts(backend="eager")
    assert list(model.state_dict()) == list(plain.state_dict())
    with torch.no_grad():
        expected = plain(make.images(3), CLOTHING, IDENTITY)
        for other in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert list(other.state_dict()) == list(plain.state_dict())
            actual = other(make.images(3), CLOTHING, IDENTITY)
            torch.testing.assert_close(tuple(actual), tuple(expected), rtol=0, atol=1e-5)
        torch.testing.assert_close(model.encode_image(make.images(3)), expected.image_embeds, rtol=0, atol=1e-5)
        torch.testing.assert_close(model.encode_text(IDENTITY), expected.id_text_embeds, rtol=0, atol=1e-5)


@pytest.mark.cuda
def test_compiled_for_cuda_under_bfloat16(make):
    plain, model = without_dropout(make.model()).cuda().train(), without_dropout(make.model()).cuda().train()
    model.compile_parts()
    for number in range(3):
        batch = make.images(3, seed=number), *texts(number)
        with torch.autocast("cuda", torch.bfloat16):
            expected, actual = plain(*batch), model(*batch)
        for value, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(value.float(), other.float(), rtol=0, atol=0.05)
        sum(value.float().sum() for value in actual).backward()


@pytest.mark.slow
def test_a_run_compiles_if_configured(tiny_settings, tmp_path, monkeypatch):
    """Its losses are those of the same run as it is; texts are frozen, and there is no fusion."""
    compiled = []
    compile_parts = T2IReIDModel.compile_parts

    def counted(self, **options):
        compiled.append(self)
        compile_parts(self, backend="eager", **options)

    monkeypatch.setattr(T2IReIDModel, "compile_parts", counted)
    steps = []
    for name in (True, False):
        words = tiny_settings(tmp_path / str(name), **COMPILED, train__ema_decay=0.5, train__print_freq=1)
        assert main(["train", *words, "train.compile", str(name)]) == 0
        log = (tmp_path / str(name) / "metrics.jsonl").read_text().splitlines()
        steps.append([line["loss"] for line in map(json.loads, log) if "step" in line])
        assert (len(compiled), len(steps[-1]) > 4) == (1, True)
    assert counters["stats"]["unique_graphs"] > 1
    assert steps[0] == pytest.approx(steps[1], rel=1e-3)
    assert (tmp_path / "True" / "results.json").is_file()


def test_sequence_mamba_cannot_be_compiled(tiny_settings, tmp_path, capsys):
    words = tiny_settings(tmp_path / "log", train__compile=True, model__fusion__type="sequence_mamba")
    assert main(["train", *words]) == 2
    assert "train.compile: True excludes model.fusion.type sequence_mamba" in capsys.readouterr().err


@pytest.mark.slow
def test_without_a_compiler_training_ends_in_one_line(tiny_settings, tmp_path):
    words = tiny_settings(tmp_path / "log", **COMPILED)
    none = {"PATH": "/nonexistent", "CXX": "", "TORCHINDUCTOR_CACHE_DIR": tmp_path / "cache"}
    none["TORCHINDUCTOR_COMPILE_THREADS"] = 1  # in the process itself
    done = run_python(["-m", "t2ireid_plugin", "train", *words], status=2, **none)
    assert "Traceback" not in done.stderr
    assert "error: train.compile: PyTorch cannot compile the model (" in done.stderr
    assert done.stderr.rstrip().endswith("install a C++ compiler such as g++, or set train.compile False")


def test_a_user_without_a_name_can_compile(make, monkeypatch):
    """As in a container with a bare user id."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # restored at the end
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    make.model(**SMALL).compile_parts()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"].endswith(f"torchinductor_{os.getuid()}")
