"""FastReID's checkpointer, extended to this package's checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastreid.utils.checkpoint import Checkpointer

from t2ireid_plugin.errors import CheckpointError
from t2ireid_plugin.modeling.checkpoint import extract_state_dict, model_names, read_checkpoint

PREFIX = "backbone."


class T2IReIDCheckpointer(Checkpointer):
    """Loads FastReID's checkpoints and, into the backbone, this package's: ``.pth`` files and ``model.safetensors``."""

    def load(self, path: str, checkpointables: list[str] | None = None) -> Any:
        """Loads a checkpoint as FastReID does.

        Raises:
            CheckpointError: when the file is missing or damaged, or no tensor in it fits.
        """
        if path and "://" not in path and not Path(path).is_file():
            raise CheckpointError(f"no checkpoint at '{path}'")
        return super().load(path, checkpointables)

    def _load_file(self, f: str) -> dict[str, Any]:
        content = read_checkpoint(f)
        state, own = extract_state_dict(content, f), self.model.state_dict()
        backbone = {name.removeprefix(PREFIX): value for name, value in own.items() if name.startswith(PREFIX)}
        renamed, names = {}, model_names(state, backbone)
        for name, value in state.items():
            inside = PREFIX + names[name]
            renamed[inside if name not in own and inside in own else name] = value
        if not any(name in own and own[name].shape == value.shape for name, value in renamed.items()):
            raise CheckpointError(
                f"'{f}': none of its {len(state)} tensors fits the model ({', '.join(sorted(state)[:3])}, …)"
            )
        return {**content, "model": renamed}


class SavedValue:
    """Value that is stored in every checkpoint and must be the same when training resumes from it."""

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, value

    def state_dict(self) -> Any:
        """The value."""
        return self.value

    def load_state_dict(self, value: Any) -> None:
        """Compares the stored value.

        Raises:
            CheckpointError: if it differs.
        """
        if value != self.value:
            raise CheckpointError(f"--resume: the checkpoint was trained with another {self.name}; set the same")
