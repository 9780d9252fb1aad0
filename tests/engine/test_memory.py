"""Encoding in parts, recomputed activations and half precision, against the plain batch."""

import ctypes
import math
import resource

import pytest
import torch
from engine.exact import remove_dropout

from t2ireid_plugin.engine.memory import Precision, keep_freed_memory


def without_dropout(engine):
    remove_dropout(engine.model)
    return engine


def step(engine):
    """The summary of one step on the first batch, and every gradient."""
    engine.set_model_mode("train")
    engine.epoch, engine.batch_idx, engine.num_batches = 0, 0, 6
    batch = next(iter(engine.train_loader))
    summary = engine.forward_backward(batch)
    named = [*engine.model.named_parameters(), *engine.losses.named_parameters("losses")]
    return summary, {name: p.grad.clone() for name, p in named if p.grad is not None}


SETTINGS = {"model__freeze_text": False, "loss__terms__mlm__weight": 0, "train__clip_grad": 0}


@pytest.fixture(scope="module")
def plain(build):
    return step(without_dropout(build(**SETTINGS)))


@pytest.mark.parametrize(
    "way", [{"train__encode_at_once": 5}, {"train__encode_at_once": 32}, {"train__checkpoint_encoders": True}]
)
def test_gradients_equal_those_of_the_whole_batch(build, plain, way):
    """The losses compare all pairs of the batch, and batch normalisation sees all of it."""
    summary, gradients = step(without_dropout(build(**SETTINGS, **way)))
    assert summary == pytest.approx(plain[0], abs=1e-4)
    assert list(gradients) == list(plain[1])
    for name, expected in plain[1].items():
        assert torch.allclose(gradients[name], expected, rtol=1e-4, atol=1e-4), name


def test_the_encoder_gets_parts_of_the_configured_size(build):
    engine = build(**SETTINGS, train__encode_at_once=5)
    seen = []
    patches = engine.model.visual_encoder.embeddings.patch_embeddings
    patches.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    step(engine)
    assert seen == 2 * [5, 5, 5, 5, 5, 5, 2] or sorted(seen) == sorted(2 * [5, 5, 5, 5, 5, 5, 2])  # there and back


def stored_bytes(engine):
    """Bytes that autograd stores in a forward pass of the image encoder."""
    total = 0

    def count(tensor):
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    engine.set_model_mode("train")
    images = torch.randn(32, 3, 32, 16)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        engine.model.visual_encoder(images)
    return total


def test_less_is_stored_for_the_backward_pass(build):
    size = {"model__vit_config__num_hidden_layers": 4}
    whole = stored_bytes(build(**size))
    assert stored_bytes(build(**size, train__checkpoint_encoders=True)) < whole / 2
    assert stored_bytes(build(**size, train__encode_at_once=8)) < whole / 4


def test_the_moving_average_encodes_with_its_own_weights(build):
    engine = build(**SETTINGS, train__encode_at_once=5, train__ema_decay=0.5)
    images = torch.randn(3, 3, 32, 16)
    before = engine.tested_model.encode_image(images)
    with torch.no_grad():
        for parameter in engine.model.parameters():
            parameter.mul_(0)
    assert torch.equal(engine.tested_model.encode_image(images), before)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_with_weights_in_full_precision(build, plain, precision):
    engine = without_dropout(build(**SETTINGS, train__precision=precision))
    if precision == "fp16":
        engine.precision.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)  # so that this step is not skipped
    dtypes = []
    engine.model.visual_encoder.register_forward_hook(
        lambda _module, _inputs, output: dtypes.append(output.last_hidden_state.dtype)
    )
    linear = engine.model.id_classifier
    linear.register_forward_hook(lambda _module, _inputs, output: dtypes.append(output.dtype))
    summary, gradients = step(engine)
    assert Precision(precision).dtype in dtypes
    assert {p.dtype for p in engine.model.parameters()} == {torch.float32}
    for name, value in plain[0].items():
        assert summary[name] == pytest.approx(value, rel=0.1, abs=0.1), name
    # Nearly the same direction.
    first, second = (torch.cat([gradient[name].flatten() for name in plain[1]]) for gradient in (gradients, plain[1]))
    assert torch.cosine_similarity(first, second, dim=0) > 0.98


def test_fp16_skips_steps_with_infinite_gradients_and_scales_down(build):
    engine = build(train__precision="fp16")
    engine.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, backoff_factor=2.0**-10)
    before = {name: p.clone() for name, p in engine.model.named_parameters()}
    _, gradients = step(engine)
    assert not all(gradient.isfinite().all() for gradient in gradients.values())
    assert all(torch.equal(p, before[name]) for name, p in engine.model.named_parameters())
    assert engine.precision.scaler.get_scale() == 2.0**30
    for _ in range(4):  # until the scale is right
        step(engine)
        if any(not torch.equal(p, before[name]) for name, p in engine.model.named_parameters()):
            break
    assert engine.precision.scaler.get_scale() < 2.0**30
    assert all(p.isfinite().all() for p in engine.model.parameters())


@pytest.mark.parametrize(("loss", "scale"), [(1.0, 1.0), (math.nan, 1024.0)])
def test_the_scale_is_not_blamed_for_infinite_gradients_at_1_or_of_a_loss_that_is_not_finite(loss, scale):
    precision = Precision("fp16")
    precision.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for _ in range(2):  # as often as train.nonfinite_patience tolerates
        precision.scaler.scale(weight.sum()).backward()
        weight.grad.fill_(math.inf)
        precision.scaler.unscale_(optimizer)
        assert not precision.scales_down(loss)
        assert precision.scaler.get_scale() == scale
    assert not Precision("bf16").scales_down(1.0)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_freed_memory_is_used_again():
    """Filling 64 MB ten times touches its 16,384 pages once, not each time."""
    keep_freed_memory()
    torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 3 * 16_384
