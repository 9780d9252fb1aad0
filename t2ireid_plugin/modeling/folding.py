"""Attention that moves less, and for inference in fewer products: weights that follow each other folded into one.

What is folded is computed from the parameters once, and again whenever these have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True)
class _Entry(Generic[T]):
    state: tuple[Any, ...]
    sources: tuple[Tensor, ...]  # held on to, so that no other tensor can come to lie at the same address
    value: T


class Derived(Generic[T]):
    """A memory for what follows from parameters and is no state of its own: it is in no state_dict, copy or pickle.

    A change is noticed by the address, the type and the version of each parameter: PyTorch counts a version up for
    every change in place, which is what optimizers, ``load_state_dict`` and averages make. What is written through
    ``parameter.data`` goes uncounted; so whoever owns the memory clears it when the module changes between training
    and evaluation, and a training loop of that kind is safe too. Several threads may ask at once.
    """

    def __init__(self) -> None:
        self._entry: _Entry[T] | None = None

    def get(self, sources: Sequence[Tensor], compute: Callable[[], T]) -> T:
        """What ``compute`` makes of ``sources``; it runs only if they are not as they were when it ran last."""
        state = tuple((s.data_ptr(), s._version, s.dtype, s.device, s.shape) for s in sources)
        entry = self._entry  # read once: another thread may replace it meanwhile
        if entry is None or entry.state != state:
            with torch.no_grad(), torch.autocast(sources[0].device.type, enabled=False):
                entry = _Entry(state, tuple(s.detach() for s in sources), compute())
            self._entry = entry
        return entry.value

    def clear(self) -> None:
        """Forgets everything."""
        self._entry = None

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return Derived, ()  # for copies and pickles: an empty one


def can_fold(layers: Iterable[nn.Module]) -> bool:
    """Whether folding changes nothing: no gradients are wanted, and the layers do nothing but what they say.

    A compiler folds by itself.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    # Parameters of inference mode have no versions.
    return all(is_plain(layer) and not any(p.is_inference() for p in layer.parameters()) for layer in layers)


def is_plain(layer: nn.Module) -> bool:
    """Whether the layer's parameters say all that it does.

    A hook wants its layer called, some replace ``forward``, and adapters, quantisation and parametrisations change the
    class.
    """
    if type(layer) not in (nn.Linear, nn.MultiheadAttention) or "forward" in vars(layer):
        return False
    hooks = layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks
    return not any(hooks)


def behind(linear: nn.Linear, attention: nn.MultiheadAttention) -> tuple[Tensor, Tensor]:
    """Weight ``[3D, D]`` and bias ``[3D]`` of the attention's projections behind the linear layer.

    ``W_qkv (W x + b) + b_qkv = (W_qkv W) x + (W_qkv b + b_qkv)``.
    """
    assert attention.in_proj_weight is not None
    wide = torch.promote_types(linear.weight.dtype, torch.float32)  # in half precision it would be rounded twice
    qkv, weight, bias = (t.to(wide) for t in (attention.in_proj_weight, linear.weight, linear.bias))
    folded_bias = qkv @ bias + attention.in_proj_bias.to(wide)
    return (qkv @ weight).to(linear.weight.dtype), folded_bias.to(linear.weight.dtype)


def exchanged(own: nn.MultiheadAttention, other: nn.MultiheadAttention) -> tuple[Tensor, Tensor]:
    """Weight ``[3D, D]`` and bias ``[3D]`` of what cross-attentions make of the same tokens.

    They are the query of their ``own`` attention, and key and value of the ``other``.
    """
    dim = own.embed_dim
    assert own.in_proj_weight is not None
    assert other.in_proj_weight is not None
    return (
        torch.cat([own.in_proj_weight[:dim], other.in_proj_weight[dim:]]),
        torch.cat([own.in_proj_bias[:dim], other.in_proj_bias[dim:]]),
    )


def attention(layer: nn.MultiheadAttention, query: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
    """``layer(query, source, source)`` without its weights, ``[B, L, D]`` and ``[B, S, D]`` to ``[B, L, D]``.

    PyTorch's layer turns batches round to have the sequence first, and back, and keeps the copies for the gradient.
    It is called all the same if it has more to do than its products. ``mask`` is as in `attend`.
    """
    weight, bias, dim = layer.in_proj_weight, layer.in_proj_bias, layer.embed_dim
    more = layer.dropout or layer.bias_k is not None or layer.add_zero_attn or not layer.batch_first
    if more or weight is None or bias is None or not is_plain(layer):
        return layer(query, source, source, need_weights=False, attn_mask=mask)[0]
    if query is source:
        query, key, value = F.linear(source, weight, bias).chunk(3, dim=-1)
    else:
        query = F.linear(query, weight[:dim], bias[:dim])
        key, value = F.linear(source, weight[dim:], bias[dim:]).chunk(2, dim=-1)
    return layer.out_proj(attend(query, key, value, layer.num_heads, mask))


def attend(query: Tensor, key: Tensor, value: Tensor, num_heads: int, mask: Tensor | None = None) -> Tensor:
    """Projected ``[B, L, D]``, ``[B, S, D]``, ``[B, S, D]`` to ``[B, L, D]`` in PyTorch's fused kernels.

    Its weights are never formed. ``mask [L, S]`` is true where a token must not attend to another.
    """
    query, key, value = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in (query, key, value))
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=None if mask is None else ~mask)
    return attended.transpose(1, 2).flatten(2)
