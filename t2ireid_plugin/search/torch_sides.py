"""The parts of an `Encoder` by PyTorch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.evaluation.protocols import SUM
from t2ireid_plugin.modeling.checkpoint import Checkpoint
from t2ireid_plugin.modeling.onnx_export import FusionSide, ImageSide, can_fuse, fingerprint, write_onnx
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel
from t2ireid_plugin.search.encoder import About, Vectors
from t2ireid_plugin.utils.text import first_line


class TorchSides:
    """See `encoder.Sides`."""

    def __init__(self, model: T2IReIDModel, sum_weight: float = 1.0) -> None:
        self.model, self.sum_weight = model.eval(), sum_weight

    @torch.no_grad()
    def embed_images(self, pixels: Vectors) -> Vectors:
        """See `encoder.Sides`."""
        return ImageSide(self.model)(torch.from_numpy(pixels)).cpu().numpy()

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """See `encoder.Sides`."""
        return self.model.encode_text(list(texts)).cpu().numpy()

    @torch.no_grad()
    def fuse(self, images: Vectors, texts: Vectors) -> Vectors | None:
        """See `encoder.Sides`."""
        if not can_fuse(self.model):
            return None
        return FusionSide(self.model)(torch.from_numpy(images), torch.from_numpy(texts)).cpu().numpy()

    def save(self, folder: Path) -> None:
        """See `encoder.Sides`."""
        device = self.model.device
        try:
            write_onnx(self.model.cpu(), folder, self.sum_weight)
        finally:
            self.model.to(device)


def open_model(file: Path, device: str | None = None) -> tuple[TorchSides, About]:
    """The model of a checkpoint or an exported ``model.safetensors``, by default on a GPU where there is one.

    Raises:
        CheckpointError: as `T2IReIDModel.from_checkpoint`.
        ConfigError: for a device that cannot be used.
    """
    checkpoint = Checkpoint.read(file)
    model = T2IReIDModel.from_checkpoint(checkpoint)
    weights = checkpoint.best.get("protocol_weights", {})
    about = About(fingerprint(model), model.ranking, model.preprocess, weights.get(SUM) or 1.0, model.score_dim)
    own = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    try:
        return TorchSides(model.to(device or own), about.sum_weight), about
    except (RuntimeError, AssertionError) as error:  # the second from a PyTorch without CUDA
        raise ConfigError(f"device: {device!r} cannot be used ({first_line(error)}); give 'cpu', or 'cuda'") from error
