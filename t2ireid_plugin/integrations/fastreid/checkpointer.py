"""FastReID's checkpointer, which also reads this package's files and keeps what a checkpoint needs besides weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastreid.utils.checkpoint import Checkpointer

from t2ireid_plugin.errors import CheckpointError
from t2ireid_plugin.modeling.checkpoint import own_name, read_checkpoint, weights_of

PREFIX = "backbone."


class T2IReIDCheckpointer(Checkpointer):
    """Reads what FastReID or this package has saved; writes what FastReID does, with more beside the weights.

    Files of this package, ``best.pth``, ``last.pth`` or ``model.safetensors``, fill the backbone.
    """

    def load(self, path: str, checkpointables: list[str] | None = None) -> Any:
        """As FastReID's.

        Raises:
            CheckpointError: when the file is missing, damaged, or nothing in it fits.
        """
        if path and "://" not in path and not Path(path).is_file():
            raise CheckpointError(f"no checkpoint at '{path}'")
        return super().load(path, checkpointables)

    def _load_file(self, f: str) -> dict[str, Any]:
        content = read_checkpoint(f)
        state, own = weights_of(content, f), self.model.state_dict()
        backbone = {name.removeprefix(PREFIX): value for name, value in own.items() if name.startswith(PREFIX)}
        renamed = {}
        for name, value in state.items():
            inside = PREFIX + own_name(name, backbone)
            renamed[inside if name not in own and inside in own else name] = value
        if not any(name in own and own[name].shape == value.shape for name, value in renamed.items()):
            raise CheckpointError(
                f"'{f}': none of its {len(state)} tensors fits the model ({', '.join(sorted(state)[:3])}, …)"
            )
        return {**content, "model": renamed}


class Kept:
    """A plain value that goes with every checkpoint, and must be the same when training goes on from one."""

    def __init__(self, what: str, value: Any) -> None:
        self.what, self.value = what, value

    def state_dict(self) -> Any:
        """The value."""
        return self.value

    def load_state_dict(self, value: Any) -> None:
        """Compares.

        Raises:
            CheckpointError: for another value.
        """
        if value != self.value:
            raise CheckpointError(f"the checkpoint was trained with another {self.what}; --resume needs the same")
