"""The parts of an `Encoder` by onnxruntime, without PyTorch and transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.errors import CheckpointError, ConfigError, DependencyError, T2IReIDError
from t2ireid_plugin.modeling.encoders.preprocess import checked_preprocess
from t2ireid_plugin.modeling.encoders.repair import OF_CLIP, repair_text
from t2ireid_plugin.modeling.ranking import Ranking
from t2ireid_plugin.modeling.settings import EMBED_DIM, ONNX_FORMAT
from t2ireid_plugin.search.encoder import ABOUT, About, Vectors


class OnnxSides:
    """See `encoder.Sides`; a graph is loaded when it is first used."""

    def __init__(self, folder: Path, attends_padding: bool, device: str | None) -> None:
        from tokenizers import Tokenizer

        self.folder, self.attends_padding, self.device = folder, attends_padding, device
        self.tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.repairs = self.tokenizer.token_to_id(OF_CLIP) is not None
        self._sessions: dict[str, Any] = {}

    def embed_images(self, pixels: Vectors) -> Vectors:
        """See `encoder.Sides`."""
        return self._run("image", pixel_values=pixels)

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """See `encoder.Sides`."""
        encoded = self.tokenizer.encode_batch([repair_text(text) if self.repairs else text for text in texts])
        ids, mask = (np.array([getattr(e, name) for e in encoded], np.int64) for name in ("ids", "attention_mask"))
        return self._run("text", input_ids=ids, attention_mask=np.ones_like(mask) if self.attends_padding else mask)

    def fuse(self, images: Vectors, texts: Vectors) -> Vectors | None:
        """See `encoder.Sides`."""
        if not (self.folder / "fusion.onnx").exists():
            return None
        return self._run("fusion", image_embeds=images, text_embeds=texts)

    def save(self, folder: Path) -> None:
        """See `encoder.Sides`."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)

    def _run(self, side: str, **inputs: npt.NDArray[Any]) -> Vectors:
        if side not in self._sessions:
            self._sessions[side] = _session(self.folder / f"{side}.onnx", self.device)
        (embeds,) = self._sessions[side].run(None, inputs)
        return embeds


def _session(file: Path, device: str | None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise DependencyError(f"'{file}' needs onnxruntime; pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait burn CPU time
    gpu = device is None and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    try:
        providers = ["CUDAExecutionProvider"] * gpu + ["CPUExecutionProvider"]
        return onnxruntime.InferenceSession(str(file), options, providers=providers)
    except Exception as error:  # onnxruntime's own classes, for a file that is missing or damaged
        raise CheckpointError(f"'{file}' cannot be loaded: {error}") from error


def open_onnx(folder: Path, device: str | None = None) -> tuple[OnnxSides, About]:
    """The model of a folder that `modeling.onnx_export` wrote; ``device`` is "cpu", or None for a GPU where it can.

    Raises:
        CheckpointError: for a folder that is damaged.
        ConfigError: for a newer format, and another device.
    """
    if device not in (None, "cpu"):
        raise ConfigError(
            f"device: {device!r} is for PyTorch; leave it out for a GPU where onnxruntime has one, or give 'cpu'"
        )
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        pixels = json.loads((folder / "preprocess.json").read_text(encoding="utf-8"))
        if about["format"] > ONNX_FORMAT:
            raise ConfigError(
                f"'{folder / ABOUT}': format {about['format']} is newer than {ONNX_FORMAT}; update t2ireid"
            )
        preprocess = checked_preprocess(**pixels, where=f"'{folder / 'preprocess.json'}'")
        sides = OnnxSides(folder, about["attends_padding"], device)
        ranking = Ranking.read(about["ranking"])
        return sides, About(about["fingerprint"], ranking, preprocess, about["sum_weight"], about.get("dim", EMBED_DIM))
    except T2IReIDError:
        raise
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"'{folder}' is not as export writes it ({error!r}); export the model again") from error
