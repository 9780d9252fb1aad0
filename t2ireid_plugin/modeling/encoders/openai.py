"""OpenAI's files of CLIP, such as ``ViT-B-16.pt``: TorchScript archives, of which only the tensors are read.

Such an archive is a zip file with a pickle of the modules and with their code. The code is left alone, and the
unpickler knows only stand-ins for modules and the types of tensors, so that reading runs nothing of the file.
"""

from __future__ import annotations

import collections
import functools
import gzip
import json
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2ireid_plugin.errors import EncoderError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"  # beside the archive; OpenAI's name, also in IRRA's and RDE's folders
_STORAGES = {"HalfStorage": "float16", "FloatStorage": "float32", "LongStorage": "int64", "IntStorage": "int32"}
_MERGES = slice(1, 49152 - 256 - 2 + 1)  # the lines of the vocabulary that CLIP uses
_HEAD_WIDTH = 64


class _Module:
    """Stands in for a module of the archive; its parameters and parts become attributes."""


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.open(f"{root}/data.pkl"))
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        import torch

        if module.split(".")[0] == "__torch__":
            return _Module
        if module == "torch" and name in _STORAGES:
            return getattr(torch, _STORAGES[name])
        if (known := _KNOWN.get(f"{module}.{name}")) is None:
            raise pickle.UnpicklingError(f"'{module}.{name}' is not part of a CLIP archive; nothing was executed")
        return known

    def persistent_load(self, pid: Any) -> Tensor:
        """The storage ``("storage", type, key, device, length)`` as a flat tensor."""
        import torch

        _, dtype, key, *_ = pid
        return torch.frombuffer(bytearray(self.archive.read(f"{self.root}/data/{key}")), dtype=dtype)


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)


_KNOWN = {"torch._utils._rebuild_tensor_v2": _tensor, "collections.OrderedDict": collections.OrderedDict}


def _tensors(module: _Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    import torch

    for name, value in vars(module).items():
        if isinstance(value, torch.Tensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.")


def archive_path(source: object) -> Path | None:
    """The file that ``source`` names, if its name is that of an archive (``.pt``); None for other sources."""
    return Path(source).expanduser() if isinstance(source, str) and source.endswith(".pt") else None


@functools.lru_cache(maxsize=1)  # both towers and both projections are read in turn
def read_archive(file: Path) -> Mapping[str, Tensor]:
    """The tensors of a CLIP archive by OpenAI's names.

    Raises:
        EncoderError: for a missing or damaged file, or one that is not CLIP with a ViT as OpenAI publishes it.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            root = next((name.partition("/")[0] for name in archive.namelist() if name.endswith("/data.pkl")), "")
            content = _Reader(archive, root).load()
    except OSError as error:
        raise EncoderError(f"cannot read '{file}' ({error.strerror})") from error
    except (pickle.UnpicklingError, zipfile.BadZipFile, struct.error) as error:
        raise EncoderError(f"'{file}' is not OpenAI's archive of CLIP: {error}") from error
    except Exception as error:  # damaged bytes make the unpickler raise anything
        raise EncoderError(f"'{file}' is damaged, or not OpenAI's archive of CLIP ({type(error).__name__})") from error
    state = dict(_tensors(content)) if isinstance(content, _Module) else {}
    if "visual.proj" not in state:
        raise EncoderError(f"'{file}' is not CLIP with a ViT, as ViT-B-16.pt is; it has no visual.proj")
    return state


def archive_config(file: Path, image: bool) -> PretrainedConfig:
    """The configuration of the image or the text tower, from the shapes of the archive's tensors.

    Raises:
        EncoderError: as `read_archive`.
    """
    from transformers import CLIPTextConfig, CLIPVisionConfig

    state = read_archive(file)
    blocks = "visual.transformer.resblocks." if image else "transformer.resblocks."
    width = len(state["visual.ln_pre.weight" if image else "ln_final.weight"])
    settings = {
        "hidden_size": width,
        "num_hidden_layers": sum(name.startswith(blocks) and name.endswith(".ln_1.weight") for name in state),
        "num_attention_heads": width // _HEAD_WIDTH,
        "intermediate_size": 4 * width,
        "projection_dim": state["text_projection"].shape[1],
    }
    if image:
        patch, side = state["visual.conv1.weight"].shape[-1], (len(state["visual.positional_embedding"]) - 1) ** 0.5
        return CLIPVisionConfig(**settings, patch_size=patch, image_size=patch * round(side))
    tokens, length = len(state["token_embedding.weight"]), len(state["positional_embedding"])
    ends = {"bos_token_id": tokens - 2, "eos_token_id": tokens - 1}
    return CLIPTextConfig(**settings, **ends, vocab_size=tokens, max_position_embeddings=length)


def archive_tokenizer(file: Path) -> PreTrainedTokenizerBase:
    """CLIP's tokenizer, from OpenAI's vocabulary beside the archive.

    Raises:
        EncoderError: when it is missing.
    """
    from transformers import CLIPTokenizerFast

    vocabulary = file.with_name(VOCABULARY)
    try:
        lines = gzip.decompress(vocabulary.read_bytes()).decode().split("\n")
    except (OSError, EOFError, ValueError) as error:
        raise EncoderError(
            f"bert_base_path: '{file}' has no vocabulary, and '{vocabulary}' cannot be read ({error}); copy it from "
            "OpenAI's or IRRA's repository to that place"
        ) from error
    merges = [line for line in lines[_MERGES] if line]
    letters = [chr(i) for i in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
        (Path(folder) / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
        return CLIPTokenizerFast.from_pretrained(folder)
