"""Folded weights follow the parameters, whichever way these change, and are seen nowhere else."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from t2ireid_plugin.modeling.disentangle import TOKENS, DisentangleModule
from t2ireid_plugin.modeling.folding import attend, attention, can_fold

B, L, D = 3, 7, 12
GRID = (2, 3)


@pytest.fixture
def module(make):
    torch.manual_seed(0)
    return make.stir(DisentangleModule(D)).eval()


def tokens(dtype=torch.float32):
    return torch.randn(B, L, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def unfolded(module, x):
    """With gradients wanted nothing is folded."""
    with torch.enable_grad():
        return [out.detach() for out in module(x, GRID)]


@torch.no_grad()
def folded(module, x):
    before = module._folded._entry
    out = module(x, GRID)
    assert module._folded._entry is not None, "nothing was folded"
    return out, module._folded._entry is not before


def assert_equal(module, x, atol=1e-5):
    """Folded and unfolded outputs agree; returns whether it was folded anew."""
    outputs, anew = folded(module, x)
    for actual, expected in zip(outputs, unfolded(module, x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=atol)
    return anew


@pytest.mark.parametrize("choice", TOKENS)
def test_folding_changes_nothing(module, choice):
    module.tokens, module.window = choice, 3
    assert_equal(module, tokens())
    assert_equal(module.double(), tokens(torch.float64), atol=1e-12)


def test_it_is_folded_once(module):
    assert assert_equal(module, tokens())
    assert not assert_equal(module, tokens())
    assert not assert_equal(module, tokens()[:1])


def in_place(module):
    with torch.no_grad():
        module.cloth_linear.weight[0, 0] += 1


def a_bias(module):
    with torch.no_grad():
        module.id_cross_attn.in_proj_bias[-1] += 1


def load(module):
    module.load_state_dict({name: tensor * 1.1 for name, tensor in module.state_dict().items()})


def load_by_assignment(module):
    module.load_state_dict({name: tensor * 1.1 for name, tensor in module.state_dict().items()}, assign=True)


def step(optimizer_class, **options):
    def change(module):
        optimizer = optimizer_class(module.parameters(), lr=0.1, **options)
        sum(out.sum() for out in module(tokens(), GRID)).backward()
        optimizer.step()

    return change


def another_parameter(module):
    module.id_attn.in_proj_weight = nn.Parameter(torch.randn(3 * D, D))


def other_data(module):
    module.id_linear.weight.data = torch.randn(D, D)


def to_half_and_back(module):
    """The numbers are rounded, and may come to lie where they were."""
    for _ in range(3):
        module.to(torch.bfloat16).to(torch.float32)


def average(module):
    averaged = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    averaged.update_parameters(module)  # the first one copies
    averaged.module = module  # what is averaged from here on is the module itself
    other = DisentangleModule(D)
    averaged.update_parameters(other)


def data_in_training(module):
    """Uncounted by PyTorch; found because the module changes between training and evaluation."""
    module.train()
    for parameter in module.parameters():
        parameter.data.mul_(1.1)
    module.eval()


@pytest.mark.parametrize(
    "change",
    [
        in_place,
        a_bias,
        load,
        load_by_assignment,
        step(torch.optim.SGD),
        step(torch.optim.AdamW, fused=True),
        step(torch.optim.AdamW, foreach=True),
        another_parameter,
        other_data,
        to_half_and_back,
        average,
        data_in_training,
    ],
)
def test_it_follows_every_change(module, change):
    before, _ = folded(module, tokens())
    change(module)
    module.eval()
    assert assert_equal(module, tokens())
    after, _ = folded(module, tokens())
    assert not all(torch.equal(a, b) for a, b in zip(before, after))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_another_type_of_numbers(module, dtype):
    assert_equal(module, tokens())
    module.to(dtype)
    assert assert_equal(module, tokens(dtype), atol=0.05)
    assert all(out.dtype == dtype for out in folded(module, tokens(dtype))[0])


def test_under_autocast_it_is_folded_in_full_precision(module):
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        outputs = module(tokens())
    assert all(tensor.dtype == torch.float32 for tensor in module._folded._entry.value)
    for actual, expected in zip(outputs, unfolded(module, tokens())):
        torch.testing.assert_close(actual.float(), expected, rtol=0, atol=0.05)


def test_it_is_in_no_state_dict_copy_or_pickle(module):
    names = list(module.state_dict())
    folded(module, tokens())
    assert list(module.state_dict()) == names
    assert not [name for name in names if "fold" in name]
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert other._folded._entry is None
        in_place(other)
        assert assert_equal(other, tokens())
    assert not folded(module, tokens())[1]  # the original's is still there


def test_nothing_is_folded_in_training(module):
    folded(module, tokens())
    module.train()
    assert module._folded._entry is None
    with torch.no_grad():
        module(tokens())
    module.eval()
    module(tokens())
    assert module._folded._entry is None


def test_a_hook_gets_its_call(module):
    called = []
    handle = module.id_linear.register_forward_hook(lambda *_: called.append("linear"))
    with torch.no_grad():
        module(tokens())
        assert called == ["linear"]
        handle.remove()
        module.cloth_cross_attn.register_forward_pre_hook(lambda *_: called.append("attention"))
        module(tokens())
    assert called == ["linear", "attention"]


class Doubling(nn.Linear):
    """As an adapter does: the class is another, the weights are not all that counts."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_another_class_of_layer_is_called(module):
    other = Doubling(D, D)
    other.load_state_dict(module.id_linear.state_dict())
    module.id_linear = other
    assert not can_fold(module._layers())
    with torch.no_grad():
        outputs = module(tokens())
    for actual, expected in zip(outputs, unfolded(module, tokens())):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_parameters_of_inference_mode(make):
    """They have no versions, so nothing can be remembered of them; ordinary ones can be used in that mode."""
    with torch.inference_mode():
        born = make.stir(DisentangleModule(D)).eval()
        outputs = born(tokens())
    ordinary = DisentangleModule(D).eval()
    ordinary.load_state_dict({name: tensor.clone() for name, tensor in born.state_dict().items()})
    with torch.inference_mode():
        again = ordinary(tokens())
    assert_equal(ordinary, tokens())  # what was folded in that mode serves outside it
    for actual, expected in zip(outputs, again):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_threads_may_ask_at_once(module):
    expected = unfolded(module, tokens())
    failures = []

    def ask():
        with torch.no_grad():
            for _ in range(20):
                outputs = module(tokens(), GRID)
                failures.extend(not torch.allclose(a, b, atol=1e-5) for a, b in zip(outputs, expected))
                module._folded.clear()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == 4 * 20 * 3
    assert not any(failures)


def test_the_weights_are_those_of_the_folded_path(module):
    """What `attention_weights` returns, times the values, is what the fused attention gives."""
    x = tokens()
    with torch.no_grad():
        attended = module._attend_folded(x, None)
        for weights, linear, layer, found in zip(
            module.attention_weights(x),
            (module.id_linear, module.cloth_linear),
            (module.id_attn, module.cloth_attn),
            attended,
            strict=True,
        ):
            value = nn.functional.linear(linear(x), layer.in_proj_weight[2 * D :], layer.in_proj_bias[2 * D :])
            joined = (weights @ value.view(B, L, 4, D // 4).transpose(1, 2)).transpose(1, 2).reshape(B, L, D)
            torch.testing.assert_close(layer.out_proj(joined), found, rtol=0, atol=1e-6)


def test_attend_is_a_naive_loop():
    heads, size = 2, 3
    query, key, value = (torch.randn(B, n, heads * size) for n in (4, 5, 5))
    mask = torch.rand(4, 5) < 0.4
    mask[:, 0] = False
    actual = attend(query, key, value, heads, mask)
    for b in range(B):
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            for i in range(4):
                scores = [float(query[b, i, part] @ key[b, j, part]) / size**0.5 for j in range(5)]
                shares = torch.tensor([0.0 if mask[i, j] else torch.tensor(scores[j]).exp() for j in range(5)])
                expected = (shares[:, None] / shares.sum() * value[b, :, part]).sum(dim=0)
                torch.testing.assert_close(actual[b, i, part], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("itself", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_attention_is_pytorchs_layer_and_so_are_its_gradients(make, itself, masked):
    layer = make.stir(nn.MultiheadAttention(D, 4, batch_first=True)).double().train()
    query = tokens(torch.float64)
    source = query if itself else torch.randn(B, 5, D, dtype=torch.float64)
    mask = None
    if masked:
        mask = torch.rand(L, source.shape[1]) < 0.4
        mask[:, 0] = False
    sources = [query] if itself else [query, source]
    results = []
    for attended in (
        lambda: attention(layer, query, source, mask),
        lambda: layer(query, source, source, need_weights=True, attn_mask=mask)[0],
    ):
        wanted = [*layer.parameters(), *(t.requires_grad_() for t in sources)]
        out = attended()
        results.append([out, *torch.autograd.grad(out.square().sum(), wanted)])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


def test_attention_is_pytorchs_layer_under_autocast(make):
    layer = make.stir(nn.MultiheadAttention(D, 4, batch_first=True)).train()
    source = torch.randn(B, 5, D)
    with torch.autocast("cpu", torch.bfloat16):
        found = attention(layer, tokens(), source)
        expected = layer(tokens(), source, source, need_weights=False)[0]
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    "options", [{"bias": False}, {"add_bias_kv": True}, {"add_zero_attn": True}, {"dropout": 0.5}], ids=str
)
def test_a_layer_that_does_more_is_called(options):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(D, 4, batch_first=True, **options)
    query, source = tokens(), torch.randn(B, 5, D)
    torch.manual_seed(1)
    found = attention(layer, query, source)
    torch.manual_seed(1)
    expected = layer(query, source, source, need_weights=False)[0]
    torch.testing.assert_close(found, expected)


def test_a_replaced_forward_is_called(module):
    """As accelerate replaces it."""
    called, forward = [], module.id_attn.forward
    module.id_attn.forward = lambda *args, **options: called.append(True) or forward(*args, **options)
    module.train()(tokens(), GRID)
    assert called == [True]


@pytest.mark.parametrize("hook", ["register_forward_hook", "register_full_backward_hook"])
def test_a_hook_has_its_layer_called_in_training(module, hook):
    called = []
    for layer in (module.id_attn, module.id_cross_attn):
        getattr(layer, hook)(lambda *_: called.append(True))
    sum(out.sum() for out in module.train()(tokens().requires_grad_(), GRID)).backward()
    assert len(called) == 2


@pytest.mark.cuda
def test_folding_changes_nothing_on_cuda(module):
    assert_equal(module, tokens())
    module.cuda()
    assert assert_equal(module, tokens().cuda(), atol=1e-3)
