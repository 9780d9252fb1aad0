"""Reads weights safely, verifies their checksums and copies them into a model, with a report of what was loaded."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from t2ireid_plugin.errors import CheckpointError, printable, short_repr
from t2ireid_plugin.modeling.foreign import from_openai, is_openai
from t2ireid_plugin.utils.safe_io import wrong_content
from t2ireid_plugin.utils.text import first_line

logger = logging.getLogger(__name__)

# torchreid stores its rank-1 as a NumPy scalar, which the safe loader refuses unless these are allowed.
_SAFE_GLOBALS: list[Any] = [np.dtype, np.dtypes.Float32DType, np.dtypes.Float64DType, np.dtypes.Int64DType]
_SAFE_GLOBALS.append((np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"))
_SAFE_GLOBALS.append((np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"))
# A dictionary whose entries are attributes too; TBPS-CLIP's checkpoints have their settings in it.
_SAFE_GLOBALS.append((OrderedDict, "easydict.EasyDict"))

# transformers 5 renamed parts of the encoders, for some families only. Before names are compared, the first of each
# pair becomes the second, in this order, in the model's names and in the file's.
_SYNONYMS = {
    ".encoder.layer.": ".layers.",
    ".attention.attention.query.": ".attention.q_proj.",
    ".attention.attention.key.": ".attention.k_proj.",
    ".attention.attention.value.": ".attention.v_proj.",
    ".attention.output.dense.": ".attention.o_proj.",
    ".intermediate.dense.": ".mlp.fc1.",
    ".output.dense.": ".mlp.fc2.",
}
# A level that only one of the two versions has: `vision_model` and `text_model` in CLIP and SigLIP, `model` in DINOv3.
_LEVEL = re.compile(r"^(visual|text)_encoder\.((vision|text)_)?model\.")
# FastReID has the network as one part of a larger one, under this name.
_FASTREID_PREFIX = "backbone."
# Levels that DistributedDataParallel, AveragedModel and torch.compile put around a model or a part of it.
_WRAPPERS = re.compile(r"(?<![^.])(?:module|_orig_mod)\.")
DIGEST_LENGTH = 32  # hexadecimal digits
# The only part that another dataset replaces, so the only one that weights for evaluation may lack.
_CLASSIFIER = ("id_classifier.", "classifier.")
# Types of the entries of a run's checkpoints.
_TYPES: dict[str, type] = {"digest": str, "net_config": str, "evaluated": bool, "classes": list, "bad_images": list}
_TYPES |= dict.fromkeys(("epoch", "step", "steps", "log"), int)
_TYPES |= dict.fromkeys(
    ("state_dict", "best", "config", "data", "held_out", "preprocess", "values", "ranking", "division"), dict
)
_TYPES |= {"words": list} | dict.fromkeys(("losses", "optimizer", "scheduler", "scaler"), dict)
# Parts of the Hugging Face encoders that the model does not use.
_UNUSED = re.compile(r"^(visual|text)_encoder\.(.*\.)?(pooler\..*|position_ids)$")


class LoadReport(NamedTuple):
    """Names of tensors by what happened to them, sorted; unexpected ones are the file's, missing ones the model's."""

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]

    def __str__(self) -> str:
        problems = {label: names for label, names in self._asdict().items() if names and label != "loaded"}
        lines = [
            f"{label} ({len(names)}): {', '.join(names[:5])}{', …' * (len(names) > 5)}"
            for label, names in problems.items()
        ]
        return "; ".join([f"loaded {len(self.loaded)} tensors", *lines])

    def require_complete(self, path: str | Path) -> None:
        """Checks that the weights are the whole model's, as evaluating and exporting need; a classifier may differ.

        Raises:
            CheckpointError: naming the missing tensors and those of another shape.
        """
        wrong = [name for name in (*self.missing, *self.mismatched) if not name.startswith(_CLASSIFIER)]
        if wrong:
            raise CheckpointError(
                f"'{path}' does not have all weights of this model; {len(wrong)} are missing or of another shape: "
                f"{', '.join(wrong[:3])}{', …' * (len(wrong) > 3)}"
            )


class Checkpoint(NamedTuple):
    """A checkpoint's file in memory; `modeling.stored` reads what it says about its model."""

    path: Path
    content: dict[str, Any]
    state: dict[str, Tensor]  # the weights, see `extract_state_dict`; those of IRRA and the like by our names

    @property
    def best(self) -> dict[str, Any]:
        """Epoch, and of the chosen weights also their scores; empty for files that no run has written."""
        best = self.content.get("best", {}) if "digest" in self.content else {}
        if best and best.get("weights") != self.content["digest"]:
            return {"epoch": self.content["epoch"]}
        return dict(best)

    @classmethod
    def read(cls, path: str | Path) -> Checkpoint:
        """Reads and verifies a file.

        Raises:
            CheckpointError: as `read_checkpoint`, and when the file contains no tensors.
        """
        content = read_checkpoint(path)
        state = extract_state_dict(content, path)
        if is_openai(state):  # another project's, whose other entries are its own
            return cls(Path(path), {}, from_openai(state))
        return cls(Path(path), content, state)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads everything in a ``.pth`` or ``.safetensors`` file to the CPU without executing what it contains.

    Raises:
        CheckpointError: when the file is missing, truncated, damaged (see `check_intact`), not a checkpoint, or
            contains more than data.
    """
    file = Path(path)
    try:
        problem = wrong_content(file)
    except OSError as error:
        raise CheckpointError(f"no checkpoint at '{file}' ({error.strerror})") from error
    if problem:
        raise CheckpointError(f"'{file}' {problem}")
    if zipfile.is_zipfile(file):
        check_intact(file)
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        with torch.serialization.safe_globals(_SAFE_GLOBALS):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise CheckpointError(f"'{file}' is damaged or not a safetensors file: {error}") from error
    except Exception as error:  # damaged bytes make the unpickler raise anything: struct.error, AssertionError, …
        if "GLOBAL" in str(error) or "Can only build" in str(error):
            raise CheckpointError(
                f"'{file}' contains Python objects besides tensors, which could run code; nothing was executed. "
                "Save only its state_dict, or use safetensors"
            ) from error
        # The unpickler's own message only recommends weights_only=False.
        reason = type(error).__name__ if isinstance(error, pickle.UnpicklingError) else first_line(error)
        raise CheckpointError(f"'{file}' is truncated, damaged or not a PyTorch checkpoint ({reason})") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"'{file}' contains a {type(content).__name__}, not a state_dict")
    for key in _TYPES.keys() & content.keys() if "digest" in content else ():  # of a run
        value = content[key]
        if not isinstance(value, _TYPES[key]) or (isinstance(value, int) and value < 0):
            raise CheckpointError(f"'{file}': the entry '{key}' is not as a run writes it: {short_repr(value)}")
    return dict(content)


def check_intact(path: str | Path) -> None:
    """Verifies a ``.pth`` file by its digest, or by the checksums of its entries if it has none, as PyTorch writes.

    PyTorch ignores the checksums that it writes: a flipped bit would be loaded as another weight.

    Raises:
        CheckpointError: when the file is missing or damaged.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"no checkpoint at '{file}'")
    try:
        with zipfile.ZipFile(file) as archive:
            digest = archive.comment
            damaged = None if digest else archive.testzip()
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"'{file}' is truncated or damaged ({error})") from error
    if damaged is not None:
        raise CheckpointError(f"'{file}' is damaged: the checksum of '{printable(damaged)}' in it is wrong")
    if digest:
        with open(file, "rb") as stream:
            if digest != stream_digest(stream, file.stat().st_size - 2 - len(digest)):
                raise CheckpointError(f"'{file}' is truncated or damaged: its bytes do not match its digest")


def append_digest(file: Path) -> None:
    """Adds a digest of all bytes of a zip archive as the archive's comment, which every reader skips."""
    with open(file, "rb+") as stream:
        stream.seek(-2, os.SEEK_END)  # length of the comment, 0 in PyTorch's archives
        body = stream.tell()
        stream.seek(0)
        digest = stream_digest(stream, body)
        stream.seek(body)
        stream.write(len(digest).to_bytes(2, "little") + digest)


def stream_digest(stream: BinaryIO, length: int) -> bytes:
    """Digest of the next ``length`` bytes, in hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=DIGEST_LENGTH // 2)
    while length > 0 and (part := stream.read(min(length, 2**20))):
        digest.update(part)
        length -= len(part)
    return digest.hexdigest().encode()


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """A digest of weights, in hexadecimal digits: equal for equal tensors under the names of any transformers version.

    Checkpoints, results, records of queries and exported models name it, so that figures belong to weights.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_LENGTH // 2)
    for name, tensor in sorted((_common_name(name), tensor) for name, tensor in state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The weights in a file: a bare state_dict, or one under ``state_dict`` or ``model``.

    The names are without ``module.`` and ``_orig_mod.``, which wrappers of models put in.

    Raises:
        CheckpointError: as `read_checkpoint`, and when the file contains no tensors.
    """
    return Checkpoint.read(path).state


def extract_state_dict(content: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """As `read_state_dict`, from the ``content`` that `read_checkpoint` returned for the file ``path``."""
    weights = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), Mapping)), content)
    state = {_WRAPPERS.sub("", str(k)): v for k, v in weights.items() if isinstance(v, Tensor)}
    if not state:
        keys = ", ".join(printable(str(key)) for key in list(weights)[:5])
        raise CheckpointError(
            f"'{path}' contains no tensors, neither bare nor under 'state_dict' or 'model'; it has {keys or 'nothing'}"
        )
    return state


def load_weights(path: str | Path, model: nn.Module) -> LoadReport:
    """As `copy_state_dict`, from a file.

    Raises:
        CheckpointError: when the file is missing, damaged, unsafe, or nothing in it fits.
    """
    return copy_state_dict(read_state_dict(path), model, path)


def copy_state_dict(state: Mapping[str, Tensor], model: nn.Module, path: str | Path) -> LoadReport:
    """Copies the tensors that fit into ``model``, whichever transformers version or framework named them.

    Args:
        state: from `read_state_dict`.
        model: receives the tensors.
        path: of their file, for messages.

    Raises:
        CheckpointError: when nothing fits.
    """
    own = model.state_dict()
    names = model_names(state, own)
    renamed = {names[name]: tensor for name, tensor in state.items()}
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
            f"'{path}': none of the {len(state)} tensors fits the model (the file has {examples}, …; the model has "
            f"{', '.join(sorted(own)[:3])}, …)"
        )
    try:
        model.load_state_dict(fitting, strict=False)
    except RuntimeError as error:  # for sparse or quantized tensors
        raise CheckpointError(f"'{path}': {first_line(error)}") from error
    incomplete = report.missing or report.unexpected or report.mismatched
    logger.log(logging.WARNING if incomplete else logging.INFO, "'%s': %s", path, report)
    return report


def model_names(names: Iterable[str], own: Iterable[str]) -> dict[str, str]:
    """The name in a model's state_dict (``own``) for each name in a file, if it has one, and else the file's.

    It knows the names of other transformers versions, and FastReID's, where the network is the ``backbone``.
    """
    by_common_name = {_common_name(name): name for name in own}
    exact = set(own)
    return {
        name: name if name in exact else by_common_name.get(_common_name(name), name.removeprefix(_FASTREID_PREFIX))
        for name in names
    }


def _common_name(name: str) -> str:
    """One name for what frameworks and versions name differently."""
    name = _LEVEL.sub(r"\1_encoder.", name.removeprefix(_FASTREID_PREFIX))
    for synonym, common in _SYNONYMS.items():
        name = name.replace(synonym, common)
    return name
