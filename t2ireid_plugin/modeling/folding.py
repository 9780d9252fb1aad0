"""Values derived from parameters, computed again whenever these have changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

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
