"""FastReID's checkpointer, extended to this package's checkpoints."""

from __future__ import annotations

from typing import Any

from fastreid.utils.checkpoint import Checkpointer

from t2ireid_plugin.errors import CheckpointError
from t2ireid_plugin.modeling.checkpoint import Checkpoint, LoadReport, model_names

PREFIX = "backbone."
_EVALUATED = (PREFIX, "heads.pool_layer.")  # parts without which weights are not the model's


class T2IReIDCheckpointer(Checkpointer):
    """Loads FastReID's checkpoints and, into the backbone, this package's: ``.pth`` files and ``model.safetensors``.

    After `load`, ``report`` says which weights of the backbone and of `DisentangleHead` the file does not have.
    """

    report: LoadReport

    def _load_file(self, f: str) -> dict[str, Any]:
        """The content of a checkpoint with FastReID's names.

        Raises:
            CheckpointError: when the file is damaged, or no tensor in it fits.
        """
        checkpoint = Checkpoint.read(f)
        state, own = checkpoint.state, self.model.state_dict()
        backbone = {name.removeprefix(PREFIX): value for name, value in own.items() if name.startswith(PREFIX)}
        renamed, names = {}, model_names(state, backbone)
        for name, value in state.items():
            inside = PREFIX + names[name]
            renamed[inside if name not in own and inside in own else name] = value
        fitting = {name for name, value in renamed.items() if name in own and own[name].shape == value.shape}
        if not fitting:
            raise CheckpointError(
                f"'{f}': none of its {len(state)} tensors fits the model ({', '.join(sorted(state)[:3])}, …)"
            )
        missing = [name.removeprefix(PREFIX) for name in own if name.startswith(_EVALUATED) and name not in fitting]
        self.report = LoadReport(sorted(fitting), missing, unexpected=[], mismatched=[])
        return {**checkpoint.content, "model": renamed}


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
