"""The parts of an `Encoder` by PyTorch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from t2ireid_plugin.evaluation.protocols import SUM
from t2ireid_plugin.modeling.checkpoint import Checkpoint
from t2ireid_plugin.modeling.onnx_export import FusionSide, ImageSide, can_fuse, fingerprint, write_onnx
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel
from t2ireid_plugin.search.encoder import About, Vectors


class TorchSides:
    """See `encoder.Sides`; on a GPU where there is one."""

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


def open_model(file: Path) -> tuple[TorchSides, About]:
    """The model of a checkpoint or an exported ``model.safetensors``.

    Raises:
        CheckpointError: as `T2IReIDModel.from_checkpoint`.
    """
    checkpoint = Checkpoint.read(file)
    model = T2IReIDModel.from_checkpoint(checkpoint)
    weights = checkpoint.best.get("protocol_weights", {})
    about = About(fingerprint(model), model.ranking, model.preprocess, weights.get(SUM) or 1.0)
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    return TorchSides(model.to(device), about.sum_weight), about
