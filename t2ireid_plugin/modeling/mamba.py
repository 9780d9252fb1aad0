"""The Mamba mixer (Gu & Dao, 2023, https://arxiv.org/abs/2312.00752, algorithm 2).

Parameter names, shapes and initialisation are those of ``mamba_ssm.modules.mamba_simple.Mamba``, so its weights
load here and ours load there. The scan runs in mamba-ssm's kernel when that is installed and the tensor is on CUDA,
and in plain PyTorch everywhere else.

Symbols: ``B`` batch, ``L`` length, ``D`` model width, ``E`` inner width (``expand * D``), ``N`` state width,
``R`` rank of the step-size projection.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ireid_plugin.utils.text import first_line

logger = logging.getLogger(__name__)


@functools.cache
def _selective_scan_kernel() -> Callable[..., Tensor] | None:
    """mamba-ssm's CUDA scan, or None if it cannot be imported; looked up once, and only for CUDA tensors."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except Exception as error:  # not installed, or built for another torch, Triton or CUDA, which raises anything
        level = logging.INFO if getattr(error, "name", "") == "mamba_ssm" else logging.WARNING
        logger.log(level, "mamba-ssm's kernel is not available (%s); using the PyTorch scan", first_line(error))
        return None
    return selective_scan_fn


def selective_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The selective state space recurrence, in float32.

    ``h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t`` and ``y_t = C_t h_t + D x_t`` with ``h_0 = 0``: equation 2 of the
    paper under its discretisation (zero-order hold for A, Euler for B), as mamba-ssm computes it.

    Args:
        x: input ``[B, L, E]``.
        dt: positive step sizes ``[B, L, E]``.
        A: negative decay rates ``[E, N]``.
        B: input projection ``[B, L, N]``.
        C: output projection ``[B, L, N]``.
        D: skip weights ``[E]``.

    Returns:
        ``[B, L, E]``.
    """
    decay = torch.exp(dt[:, 1:].unsqueeze(-1) * A)  # [B, L-1, E, N]; the first step has no state to decay
    drive = (dt * x).unsqueeze(-1) * B.unsqueeze(2)  # [B, L, E, N]
    # Unbound once: the gradient of `drive[:, t]` would be a tensor of drive's whole size at each of the L steps.
    first, *drives = drive.unbind(dim=1)
    # The empty sum is zero; it keeps A in the graph at length 1, where distributed training would miss it.
    state = first + decay[:, :0].sum(dim=1)  # [B, E, N]
    states = [state]
    for keep, add in zip(decay.unbind(dim=1), drives):
        state = torch.addcmul(add, keep, state)
        states.append(state)
    return torch.einsum("blen,bln->ble", torch.stack(states, dim=1), C) + D * x


class Mamba(nn.Module):
    """Mamba mixer, ``[B, L, D] -> [B, L, D]``, causal along ``L``.

    Args:
        d_model: width ``D`` of the tokens.
        d_state: state width ``N``.
        d_conv: taps of the causal depthwise convolution.
        expand: inner width as a multiple of ``d_model``.
    """

    def __init__(self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        self.d_state = d_state
        self.d_inner = expand * d_model
        self.dt_rank = math.ceil(d_model / 16)

        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv1d = nn.Conv1d(self.d_inner, self.d_inner, kernel_size=d_conv, groups=self.d_inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(self.d_inner, 1))
        self.D = nn.Parameter(torch.ones(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)

        # Weight decay would change the time scales; mamba-ssm marks these parameters the same way.
        self.A_log._no_weight_decay = True  # type: ignore[attr-defined]
        self.D._no_weight_decay = True  # type: ignore[attr-defined]
        self._init_step_size()

    @torch.no_grad()
    def _init_step_size(self, dt_min: float = 0.001, dt_max: float = 0.1) -> None:
        """Draws the initial step sizes, log-uniform from ``dt_min`` to ``dt_max``."""
        bound = self.dt_rank**-0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        log_range = math.log(dt_max) - math.log(dt_min)
        dt = torch.exp(torch.rand(self.d_inner) * log_range + math.log(dt_min))
        # The inverse of softplus, so that softplus(bias) is the drawn step size.
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def forward(self, hidden: Tensor) -> Tensor:
        """``[B, L, D] -> [B, L, D]``."""
        x, z = self.in_proj(hidden).chunk(2, dim=-1)  # [B, L, E] each
        x = F.silu(self._causal_conv(x))  # [B, L, E]
        dt, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        dt = F.linear(dt, self.dt_proj.weight)  # the bias joins inside the softplus, as in the kernel
        return self.out_proj(self._scan(x, dt, B, C, z).to(hidden.dtype))

    def _causal_conv(self, x: Tensor) -> Tensor:
        """The depthwise convolution over the past, ``[B, L, E] -> [B, L, E]``.

        As a sum over its few taps this is several times as fast on the CPU as the grouped convolution, whose backward
        pass costs more than the rest of the layer at length 1.
        """
        taps, bias = self.conv1d.weight[:, 0], self.conv1d.bias  # [E, K], [E]
        assert bias is not None  # for the type checker: mamba-ssm's convolution has one by default
        past = F.pad(x, (0, 0, taps.shape[1] - 1, 0))  # [B, L + K - 1, E]
        shifted = (past[:, k : k + x.shape[1]] * taps[:, k] for k in range(taps.shape[1]))
        # Under autocast the taps are float32 and x is not; the kernel needs one dtype.
        return (sum(shifted, start=torch.zeros_like(x)) + bias).to(x.dtype)

    def _scan(self, x: Tensor, dt: Tensor, B: Tensor, C: Tensor, z: Tensor) -> Tensor:
        kernel = _selective_scan_kernel() if x.is_cuda else None
        wide = torch.promote_types(x.dtype, torch.float32)  # the recurrence loses too much in half precision
        A = -torch.exp(self.A_log.to(wide))
        if kernel is not None and wide == torch.float32:
            x, dt, B, C, z = (t.transpose(1, 2).contiguous() for t in (x, dt, B, C, z))  # to [B, E, L] and [B, N, L]
            bias = self.dt_proj.bias.float()
            return kernel(x, dt, A, B, C, self.D.float(), z=z, delta_bias=bias, delta_softplus=True).transpose(1, 2)
        with torch.autocast(device_type=x.device.type, enabled=False):
            x, dt, B, C, z = (t.to(wide) for t in (x, dt, B, C, z))
            step = F.softplus(dt + self.dt_proj.bias.to(wide))
            return selective_scan(x, step, A, B, C, self.D.to(wide)) * F.silu(z)
