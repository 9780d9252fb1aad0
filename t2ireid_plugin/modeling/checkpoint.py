"""Reading weights safely, and copying them into a model with an account of what happened."""

from __future__ import annotations

import io
import logging
import pickle
import pickletools
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from t2ireid_plugin.errors import CheckpointError, short_repr
from t2ireid_plugin.utils.safe_io import MAX_DATA_BYTES, open_file, read_bytes

logger = logging.getLogger(__name__)

# torchreid stores its rank-1 as a NumPy scalar, which the safe loader refuses unless told that it is harmless.
_HARMLESS: list[Any] = [np.dtype, np.dtypes.Float32DType, np.dtypes.Float64DType, np.dtypes.Int64DType]
_HARMLESS.append((np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"))
_HARMLESS.append((np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"))

_MOST_NAME = 1000  # characters
_PICKLES = 5  # in a file of PyTorch's older format: mark, version, machine, content, and where the tensors are

# transformers 5 renamed parts of the encoders; files of either age load into models of either age. It also writes older
# names itself, for some families and not for others. Tried in this order; which ones a model has decides.
_RENAMED = {  # tower: (transformers 4, transformers 5), from the start of a name
    "visual_encoder": [
        ("encoder.layer.{}.attention.attention.query.", "layers.{}.attention.q_proj."),
        ("encoder.layer.{}.attention.attention.key.", "layers.{}.attention.k_proj."),
        ("encoder.layer.{}.attention.attention.value.", "layers.{}.attention.v_proj."),
        ("encoder.layer.{}.attention.output.dense.", "layers.{}.attention.o_proj."),
        ("encoder.layer.{}.intermediate.dense.", "layers.{}.mlp.fc1."),
        ("encoder.layer.{}.output.dense.", "layers.{}.mlp.fc2."),
        ("encoder.layer.{}.layernorm_before.", "layers.{}.layernorm_before."),
        ("encoder.layer.{}.layernorm_after.", "layers.{}.layernorm_after."),
        # DINOv2
        ("encoder.layer.{}.attention.attention.query.", "encoder.layer.{}.attention.q_proj."),
        ("encoder.layer.{}.attention.attention.key.", "encoder.layer.{}.attention.k_proj."),
        ("encoder.layer.{}.attention.attention.value.", "encoder.layer.{}.attention.v_proj."),
        ("encoder.layer.{}.attention.output.dense.", "encoder.layer.{}.attention.o_proj."),
        # DINOv3; CLIP and SigLIP
        ("layer.{}.", "model.layer.{}."),
        ("vision_model.", ""),
    ],
    "text_encoder": [("text_model.", "")],
}
# FastReID holds the network as one part of a larger one, under this name.
_HELD_AS = "backbone."
# Parts of the Hugging Face encoders that the model does not use.
_UNUSED = re.compile(r"^(visual|text)_encoder\.(.*\.)?(pooler\..*|position_ids)$")


class LoadReport(NamedTuple):
    """What became of each name: file and model side, sorted."""

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]

    def __str__(self) -> str:
        lines = [f"loaded {len(self.loaded)} tensors"]
        for label in ("missing", "unexpected", "mismatched"):
            names = getattr(self, label)
            if names:
                lines.append(f"{label} ({len(names)}): {', '.join(names)}")
        return "; ".join(lines)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Everything in a ``.pth`` or ``.safetensors`` file, on the CPU, without executing what it holds.

    Raises:
        CheckpointError: when the file is missing, truncated, not a checkpoint, or holds more than data.
    """
    file = Path(path)
    try:
        open_file(file, sys.maxsize).close()
    except OSError as error:
        raise CheckpointError(f"no checkpoint at '{file}' ({error.strerror})") from error
    try:
        check_archive(file)
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        _check_names(file)
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise CheckpointError(f"'{file}' is damaged or no safetensors file: {error}") from error
    except Exception as error:  # on damaged bytes the unpickler fails in any way: struct.error, AssertionError, …
        if "GLOBAL" in str(error) or "Can only build" in str(error):
            raise CheckpointError(
                f"'{file}' holds Python objects besides tensors, which could run code; nothing was executed. "
                "Save its state_dict alone, or as safetensors"
            ) from error
        # The unpickler's own message only recommends weights_only=False.
        own = "" if isinstance(error, pickle.UnpicklingError) else str(error).strip()
        reason = (own.splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"'{file}' is truncated, damaged or not a PyTorch checkpoint ({reason})") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"'{file}' holds a {type(content).__name__}, not a state_dict")
    return dict(content)


def check_archive(file: Path) -> None:
    """Refuses archives that hold more than they weigh: compressed, or one part of the file under several names.

    PyTorch writes its parts uncompressed but reads others, so that half a megabyte becomes half a gigabyte.

    Raises:
        ValueError: for such an archive.
    """
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        announced = sum(part.file_size for part in archive.infolist())
    if announced > file.stat().st_size:
        raise ValueError(f"it unpacks to {announced:,} bytes, more than PyTorch puts into a file of this size")


def _check_names(file: Path) -> None:
    """Refuses names that no class has.

    PyTorch searches its own message about an unknown class in time that grows with the square of the name's length, and
    16 KB already take it six seconds.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            parts = [name for name in archive.namelist() if name.endswith("data.pkl")]
            longest = max((_longest_name(io.BytesIO(archive.read(name)), 1) for name in parts), default=0)
    else:
        with file.open("rb") as stream:
            longest = _longest_name(stream, _PICKLES)
    if longest > _MOST_NAME:
        raise ValueError(f"a class's name of {longest:,} characters")


def _longest_name(stream: IO[bytes], pickles: int) -> int:
    """The length of the longest name of a class in so many pickles, as far as they can be read."""
    longest = 0
    try:
        for _ in range(pickles):
            for operation, argument, _ in pickletools.genops(stream):
                if operation.name in ("GLOBAL", "INST"):
                    longest = max(longest, len(str(argument)))
    except UnicodeDecodeError as error:  # only these names must be ASCII
        raise ValueError("a class's name that is not ASCII") from error
    except Exception:  # what is no pickle, or damaged in whatever way, the reader after this one refuses
        return longest
    return longest


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The weights in a file: a bare state_dict, or one under ``state_dict`` or ``model``, ``module.`` stripped.

    Raises:
        CheckpointError: as `read_checkpoint`, and when there are no tensors where weights should be.
    """
    return weights_of(read_checkpoint(path), path)


def weights_of(content: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """As `read_state_dict`, from the ``content`` that `read_checkpoint` gave of the file ``path``."""
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    state = {str(k).removeprefix("module."): v for k, v in content.items() if isinstance(v, Tensor)}
    if not state:
        raise CheckpointError(f"'{path}' holds no tensors, neither bare nor under 'state_dict' or 'model'")
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise CheckpointError(
                f"'{path}': {short_repr(name)} is not a plain tensor with values but {_described(tensor)}"
            )
    return state


def read_vocabulary(path: str | Path) -> str | None:
    """The vocabulary learned with the weights in a file, as JSON; None where there is none.

    A checkpoint of a run holds it; beside ``model.safetensors`` of an exported folder lies ``tokenizer.json``.

    Raises:
        CheckpointError: as `read_checkpoint`.
    """
    file = Path(path)
    if file.suffix != ".safetensors":
        return read_checkpoint(file).get("tokenizer")
    beside = file.with_name("tokenizer.json")
    try:
        return read_bytes(beside, MAX_DATA_BYTES).decode("utf-8") if beside.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read '{beside}' ({error})") from error


def load_weights(path: str | Path, model: nn.Module) -> LoadReport:
    """`copy_state_dict` from a file, which errors name.

    Raises:
        CheckpointError: when the file is missing, damaged, unsafe, or nothing in it fits.
    """
    state = read_state_dict(path)
    try:
        return copy_state_dict(state, model)
    except CheckpointError as error:
        raise CheckpointError(f"'{path}': {error}") from error


def copy_state_dict(state: Mapping[str, Tensor], model: nn.Module) -> LoadReport:
    """Copies what fits into ``model``, whichever transformers version or framework named it; says what did not.

    Raises:
        CheckpointError: when nothing fits.
    """
    own = model.state_dict()
    renamed = {own_name(name, own): tensor for name, tensor in state.items()}
    shared = [name for name in renamed if name in own]
    fitting = {name: renamed[name] for name in shared if renamed[name].shape == own[name].shape}
    report = LoadReport(
        loaded=sorted(fitting),
        missing=sorted(set(own) - set(renamed)),
        unexpected=sorted(name for name in renamed if name not in own and not _UNUSED.match(name)),
        mismatched=[
            f"{name} (file {list(renamed[name].shape)}, model {list(own[name].shape)})"
            for name in sorted(set(shared) - set(fitting))
        ],
    )
    if not fitting:
        examples = ", ".join(sorted(state)[:3])
        raise CheckpointError(
            f"none of the {len(state)} tensors fits the model (the file has {examples}, …; the model has "
            f"{', '.join(sorted(own)[:3])}, …)"
        )
    model.load_state_dict(fitting, strict=False)
    incomplete = report.missing or report.unexpected or report.mismatched
    logger.log(logging.WARNING if incomplete else logging.INFO, "%s", report)
    return report


def _described(tensor: Tensor) -> str:
    kind = "quantized" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
    return f"{kind} on the device '{tensor.device.type}'"


def own_name(name: str, own: Mapping[str, Tensor]) -> str:
    """The name in a model's state_dict ``own`` for a tensor of a file; the file's where the model has none.

    It knows the names of other transformers versions, and FastReID's, where the network is the ``backbone``.
    """
    if name in own:
        return name
    if name.startswith(_HELD_AS):
        return own_name(name.removeprefix(_HELD_AS), own)
    tower, _, rest = name.partition(".")
    for pair in _RENAMED.get(tower, ()):
        for source, target in (pair, pair[::-1]):
            match = re.match(re.escape(source).replace(r"\{\}", r"(\d+)"), rest)
            if match:
                candidate = f"{tower}.{target.format(*match.groups())}{rest[match.end() :]}"
                if candidate in own:
                    return candidate
    return name
