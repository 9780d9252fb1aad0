import importlib.util
import math
import sys

import pytest
import torch
from torch.func import functional_call
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from t2ireid_plugin.modeling.mamba import Mamba, _selective_scan_kernel

D, N, K = 20, 5, 4  # the rank of the step sizes is ceil(20 / 16) = 2
E, R = 2 * D, 2


@pytest.fixture
def mamba(make):
    torch.manual_seed(0)
    return make.stir(Mamba(D, d_state=N, d_conv=K))


def tokens(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("length", [1, 2, 8, 64])  # 2 is shorter than the convolution
def test_equals_the_recurrence(mamba, naive, length, dtype, tolerance):
    mamba, hidden = mamba.to(dtype), tokens(2, length, D, dtype=dtype)
    expected = torch.from_numpy(naive.mamba(mamba.state_dict(), hidden))
    assert expected.std() > 1e-2  # far above the tolerance
    torch.testing.assert_close(mamba(hidden).double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("settings", [{"d_conv": 2}, {"expand": 1}, {"expand": 3, "d_state": 1}])
def test_equals_the_recurrence_at_other_sizes(make, naive, settings):
    mamba, hidden = make.stir(Mamba(6, **settings)).double(), tokens(2, 5, 6, dtype=torch.float64)
    expected = torch.from_numpy(naive.mamba(mamba.state_dict(), hidden))
    torch.testing.assert_close(mamba(hidden), expected, rtol=0, atol=1e-12)


@pytest.mark.skipif(
    importlib.util.find_spec("mamba_ssm") is not None,
    reason="with mamba-ssm installed transformers binds to its kernels, which take no CPU tensors",
)
@pytest.mark.parametrize("length", [1, 8, 64])
def test_equals_the_mixer_of_transformers(mamba, length):
    config = MambaConfig(hidden_size=D, state_size=N, conv_kernel=K, expand=2, time_step_rank=R, num_hidden_layers=1)
    mixer = MambaMixer(config, layer_idx=0).eval()
    mixer.load_state_dict(mamba.state_dict())
    forward = getattr(mixer, "slow_forward", mixer)  # transformers 4's name for the path without kernels
    hidden = tokens(3, length, D)
    torch.testing.assert_close(mamba(hidden), forward(hidden), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("raise ImportError('libcudart.so.11.0: cannot open shared object file')", "libcudart.so.11.0: cannot open"),
        ("raise OSError('undefined symbol: _ZN3c104cuda\\nmore')", "undefined symbol: _ZN3c104cuda)"),
        ("raise RuntimeError('Failed to import triton')", "Failed to import triton"),
        ("int.autotune", "no attribute 'autotune'"),
    ],
)
def test_a_broken_mamba_ssm_falls_back_with_one_line(line, reason, monkeypatch, tmp_path, caplog):
    for name in [name for name in sys.modules if name.startswith("mamba_ssm")]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "mamba_ssm").mkdir()
    (tmp_path / "mamba_ssm" / "__init__.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    assert _selective_scan_kernel.__wrapped__() is None
    (message,) = caplog.messages
    assert message.startswith("mamba-ssm's kernel is not available (")
    assert reason in message
    assert "\n" not in message
    assert caplog.records[0].levelname == "WARNING"


def test_names_and_shapes_are_those_of_mamba_ssm():
    assert {name: tuple(tensor.shape) for name, tensor in Mamba(D, N, K).state_dict().items()} == {
        "in_proj.weight": (2 * E, D),
        "conv1d.weight": (E, 1, K),
        "conv1d.bias": (E,),
        "x_proj.weight": (R + 2 * N, E),
        "dt_proj.weight": (E, R),
        "dt_proj.bias": (E,),
        "A_log": (E, N),
        "D": (E,),
        "out_proj.weight": (D, E),
    }


def test_initialisation():
    mamba = Mamba(256, d_state=N)
    steps = torch.log1p(torch.exp(mamba.dt_proj.bias.detach().double()))
    assert 0.001 - 1e-6 <= steps.min() < 0.0015  # of 512 draws some come near either end
    assert 0.08 < steps.max() <= 0.1 + 1e-6
    assert steps.median().item() == pytest.approx(0.01, rel=0.5)  # the middle of a log-uniform range
    bound = 16**-0.5
    assert 0.95 * bound < mamba.dt_proj.weight.abs().max() <= bound
    expected = torch.tensor([math.log(n) for n in range(1, N + 1)]).expand(512, N)
    torch.testing.assert_close(mamba.A_log.detach(), expected, rtol=0, atol=1e-6)
    assert torch.equal(mamba.D, torch.ones(512))


def test_weight_decay_is_waived_for_the_time_scales_alone():
    waived = [name for name, p in Mamba(D).named_parameters() if getattr(p, "_no_weight_decay", False)]
    assert sorted(waived) == ["A_log", "D"]


def test_gradients(make):
    mamba = make.stir(Mamba(3, d_state=2, d_conv=3, expand=2)).double()
    names, parameters = zip(*mamba.named_parameters())

    def forward(hidden, *values):
        return functional_call(mamba, dict(zip(names, values)), (hidden,))

    hidden = tokens(2, 4, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(forward, (hidden, *parameters))


def test_over_one_token_the_state_and_the_early_taps_get_no_gradient(mamba):
    mamba(tokens(4, 1, D)).square().sum().backward()
    assert not mamba.A_log.grad.any()  # zero, not absent: distributed training waits for every gradient
    assert not mamba.conv1d.weight.grad[..., :-1].any()
    assert mamba.conv1d.weight.grad[..., -1].abs().min() > 0
    mamba.zero_grad()
    mamba(tokens(4, K, D)).square().sum().backward()
    assert mamba.A_log.grad.abs().max() > 0
    assert mamba.conv1d.weight.grad.abs().amin(dim=(0, 1)).min() > 0


def test_autocast_is_close(mamba):
    hidden = tokens(2, 64, D)
    expected = mamba(hidden)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = mamba(hidden)
    torch.testing.assert_close(actual.float(), expected, rtol=0, atol=0.02 * expected.abs().max().item())


def test_under_autocast_the_kernel_would_get_one_type(mamba, monkeypatch):
    """mamba-ssm's kernel needs one dtype; the arguments are inspected on their way to the PyTorch scan."""
    arguments, scan = [], mamba._scan
    monkeypatch.setattr(mamba, "_scan", lambda *tensors: arguments.extend(tensors) or scan(*tensors))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mamba(tokens(2, 8, D))
    assert [tensor.dtype for tensor in arguments] == [torch.bfloat16] * 5


@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_the_state_is_kept_in_full_precision(mamba, how):
    """Without decay the state sums equal terms; in bfloat16 such a sum stops growing at 256 terms."""
    with torch.no_grad():
        mamba.A_log.fill_(-30)
        mamba.D.zero_()
    hidden = tokens(1, 1, D).expand(1, 1024, D).contiguous()
    expected = mamba(hidden)[0, -1]
    if how == "weights":
        actual = mamba.bfloat16()(hidden.bfloat16())
        assert actual.dtype == torch.bfloat16
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = mamba(hidden)
    error = (actual[0, -1].float() - expected).norm() / expected.norm()
    assert error < 0.05


@pytest.mark.cuda
def test_cuda_autocast(mamba):
    hidden = tokens(3, 64, D)
    expected = mamba(hidden)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        actual = mamba.cuda()(hidden.cuda())
    torch.testing.assert_close(actual.float().cpu(), expected, rtol=0, atol=0.02 * expected.abs().max().item())


@pytest.mark.cuda
@pytest.mark.parametrize("length", [1, 8, 64])
def test_cuda_equals_cpu(mamba, length):
    """With mamba-ssm's kernel where it is installed."""
    hidden = tokens(3, length, D)
    expected = mamba(hidden)
    expected.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in mamba.named_parameters() if p.grad is not None}
    mamba.zero_grad()
    mamba.cuda()
    actual = mamba(hidden.cuda())
    actual.square().sum().backward()
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-5, atol=1e-5)
    for name, parameter in mamba.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad.cpu(), gradients[name], rtol=1e-3, atol=1e-3)
